"""Training losses by name, or `module:function`. Each takes `(outputs, target)` and returns a scalar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from autoprune.errors import TaskError, did_you_mean
from autoprune.specs import load_object, object_name
from autoprune.tasks.tensors import describe, leaves, main_tensor, target_tensor

__all__ = ["IGNORE", "LOSSES", "Loss", "class_axis", "class_logits", "load_loss", "prediction"]

Loss = Callable[[Any, Any], Tensor]
_WITHOUT_CLASSES = ("bce", "l1", "mse")
IGNORE = -100  # labels with this value count neither in losses nor in metrics, as in torch and transformers


def prediction(outputs: Any) -> Tensor:
    """`main_tensor(outputs)`, or a `TaskError` when the outputs hold none."""
    found = main_tensor(outputs)
    if found is None:
        raise TaskError("the model's outputs hold no tensor that a built-in loss or metric can read",
                        given=describe(outputs), allowed='a tensor, .logits, a dict with "logits", a tuple of tensors',
                        fix="give your own metric and loss as module:function")
    return found


def class_logits(outputs: Any, target: Any) -> tuple[Tensor, Tensor]:
    """Logits as [N, C, ...] and labels as [N, ...].

    Accepts [N, C] with [N], [N, C, ...] with [N, ...] (segmentation), and [N, T, V] with [N, T] (sequences; the
    classes come last there and are moved to dimension 1). `TaskError` when the shapes do not fit.
    """
    logits, labels = prediction(outputs), target_tensor(target)
    shapes = f"outputs {describe(logits)}, target {describe(labels)}"
    axis = _unlabelled_axis(logits, labels)
    if axis is not None:
        return logits.movedim(axis, 1), labels
    raise TaskError("the outputs and the target do not fit a classification", given=shapes,
                    allowed="[N, C] with [N]; [N, C, H, W] with [N, H, W]; [N, T, V] with [N, T]",
                    fix=_fitting(logits, labels))


def _fitting(logits: Tensor, labels: Tensor) -> str:
    """What makes labels fit, by how their shape differs."""
    if logits.ndim >= 2 and labels.ndim >= 2 and not labels.is_floating_point():
        if logits.shape[1] == labels.shape[1] == 1:
            return "--loss bce for one output per sample"
        if labels.shape[1] == 1 and _unlabelled_axis(logits, labels.squeeze(1)) is not None:
            return "target.squeeze(1)"
        if labels.shape == logits.shape:
            return "target.argmax(1) of a one-hot target, or --loss bce for several labels at once"
    return "give class indices as the target, or --metric mse --loss mse for a regression"


def _unlabelled_axis(logits: Tensor, labels: Tensor) -> int | None:
    """The axis that labels do not have: the last of [N, T, V] with [N, T], 1 of [N, C, ...] with [N, ...]."""
    if logits.ndim == 3 and logits.shape[:2] == labels.shape:
        return -1
    return 1 if logits.ndim >= 2 and (logits.shape[0], *logits.shape[2:]) == labels.shape else None


def class_axis(logits: Tensor, target: Any, loss: str = "") -> int | None:
    """Where the classes of an output are: the axis that whole-number labels do not have, as `class_logits` reads them.

    For other targets the last axis of `[N, C]` and `[N, T, C]`, axis 1 of images `[N, C, H, W]`. None where there are
    no classes: for a built-in loss that has none, for numbers as target that are not the shares of the classes, for
    several labels at once, whose target has a value for each output, and for targets of several tensors, of which only
    the user's loss knows what they are.
    """
    if logits.ndim < 2 or loss in _WITHOUT_CLASSES:
        return None
    axis = 1 if logits.ndim >= 4 else -1
    try:
        labels = target_tensor(target)
    except TaskError:
        if len(leaves(target)) > 1:
            return None
    else:
        if not labels.is_floating_point():
            axis = _unlabelled_axis(logits, labels) or axis
        shares = labels.shape == logits.shape and _is_distribution(labels.float(), axis)
        if not shares and (labels.is_floating_point() or labels.shape == logits.shape):
            return None
    return None if logits.shape[axis] == 1 else axis


def _is_distribution(shares: Tensor, axis: int) -> bool:
    """Whether a target says how likely each class is (mixup's, say)."""
    return bool((shares >= 0).all() and (shares.sum(axis) - 1).abs().max() < 1e-3)


def _cross_entropy(outputs: Any, target: Any) -> Tensor:
    logits, labels = class_logits(outputs, target)
    if labels.is_floating_point():
        raise TaskError("cross entropy needs whole-number class labels", given=describe(labels), allowed="int64 labels",
                        fix="target.long() for class indices, or --loss mse for a regression")
    return F.cross_entropy(logits, labels.long(), ignore_index=IGNORE)


def _causal_lm(outputs: Any, target: Any) -> Tensor:
    logits, labels = class_logits(outputs, target)
    if labels.ndim != 2 or labels.shape[1] < 2:
        raise TaskError("a language model needs logits [N, T, V] and labels [N, T] with T ≥ 2", given=describe(labels),
                        fix="give the input ids as the target; they are shifted by one here")
    return F.cross_entropy(logits[:, :, :-1], labels[:, 1:], ignore_index=IGNORE)


def same_shape(outputs: Any, target: Any) -> tuple[Tensor, Tensor]:
    """Prediction and target as float with one shape; [N, 1] and [N] are the same; anything else is a `TaskError`.

    Broadcasting [N, 1] against [N] to [N, N] is the classic silent error of regressions, so it is not left to torch.
    """
    predicted, wanted = prediction(outputs), target_tensor(target)
    if predicted.shape != wanted.shape:
        if predicted.squeeze().shape != wanted.squeeze().shape:
            raise TaskError("the outputs and the target have different shapes",
                            given=f"outputs {describe(predicted)}, target {describe(wanted)}",
                            allowed="the same shape, or [N, 1] with [N]", fix="reshape the target in the data")
        wanted = wanted.reshape(predicted.shape)
    return predicted.float(), wanted.float()


def _mse(outputs: Any, target: Any) -> Tensor:
    return F.mse_loss(*same_shape(outputs, target))


def _l1(outputs: Any, target: Any) -> Tensor:
    return F.l1_loss(*same_shape(outputs, target))


def _bce(outputs: Any, target: Any) -> Tensor:
    """On logits; targets in 0…1, same shape as the logits."""
    return F.binary_cross_entropy_with_logits(*same_shape(outputs, target))


def _model(outputs: Any, target: Any) -> Tensor:
    found = getattr(outputs, "loss", None)
    if isinstance(outputs, dict) and found is None:
        found = outputs.get("loss")
    if not isinstance(found, Tensor):
        raise TaskError('the loss "model" needs a model that returns its own loss', given=describe(outputs),
                        allowed="outputs with .loss, as transformers models return when the inputs hold labels",
                        fix="--loss cross_entropy or causal_lm, which need no labels among the inputs")
    return found


LOSSES: dict[str, Loss] = {"bce": _bce, "causal_lm": _causal_lm, "cross_entropy": _cross_entropy, "l1": _l1,
                           "model": _model, "mse": _mse}


def load_loss(loss: str | Loss) -> tuple[str, Loss]:
    """Name and function of a loss given by name, by `module:function`, or as a callable. `TaskError` when unknown."""
    if callable(loss):
        return object_name(loss), loss
    if loss in LOSSES:
        return loss, LOSSES[loss]
    if ":" not in loss:
        raise TaskError("unknown loss", given=repr(loss), allowed=did_you_mean(loss, LOSSES) + ", or module:function",
                        fix="--loss cross_entropy")
    found = load_object(loss)
    if not callable(found):
        raise TaskError("the loss is not a function", given=loss, allowed="function(outputs, target) -> scalar tensor",
                        fix="name a function")
    return loss, found
