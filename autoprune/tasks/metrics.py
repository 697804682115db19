"""Metrics by name, or `module:function`. How they gather and where their errors come from is in `gather.py`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autoprune.errors import TaskError, did_you_mean
from autoprune.specs import load_object, object_name
from autoprune.tasks.gather import Bootstrap, Gather, Mean, Tokens, User, UserMetric
from autoprune.tasks.losses import IGNORE, Loss, class_logits, prediction, same_shape
from autoprune.tasks.tensors import target_tensor

__all__ = ["METRICS", "Metric", "load_metric", "metric_and_loss"]

_LOSS_OF = {"mae": "l1", "mse": "mse", "perplexity": "causal_lm", "r2": "mse"}
_METRIC_OF = {"causal_lm": "perplexity", "l1": "mae", "mse": "mse"}


@dataclass(frozen=True)
class Metric:
    """A metric's name and direction, and the user's function unless it is built in. Pickles if that does."""

    name: str
    higher_is_better: bool
    shifted: bool = False
    function: UserMetric | None = None

    def start(self) -> Gather:
        """A fresh gathering: `update` per batch, then `result`."""
        return METRICS[self.name][1](self.shifted) if self.function is None else User(self.function, self.name)


def _hits(outputs: Any, target: Any, best: int) -> Tensor:
    """[N] fraction of hits per sample; binary where outputs and target have one shape but for axes of one, such as
    [N, 1, H, W] with [N, H, W] (a logit > 0 means class 1).
    """
    raw, labels = prediction(outputs), target_tensor(target)
    if best == 1 and raw.squeeze().shape == labels.squeeze().shape:
        return ((raw.reshape(labels.shape) > 0) == (labels > 0.5)).float().reshape(len(labels), -1).mean(1)
    logits, labels = class_logits(outputs, target)
    if 1 < best >= logits.shape[1]:
        raise TaskError(f"top{best} needs more than {best} classes", given=f"{logits.shape[1]} classes",
                        fix="--metric accuracy")
    hit = (logits.topk(best, dim=1).indices == labels.unsqueeze(1)).any(1)
    counted = labels != IGNORE
    rows = len(labels)
    share = (hit & counted).reshape(rows, -1).sum(1) / counted.reshape(rows, -1).sum(1)
    return share[~share.isnan()]


def _squared(outputs: Any, target: Any) -> Tensor:
    predicted, wanted = same_shape(outputs, target)
    return ((predicted - wanted) ** 2).reshape(len(predicted), -1).mean(1)


def _absolute(outputs: Any, target: Any) -> Tensor:
    predicted, wanted = same_shape(outputs, target)
    return (predicted - wanted).abs().reshape(len(predicted), -1).mean(1)


def _pairs(outputs: Any, target: Any) -> Tensor:
    """[N, 2, D]: target and prediction."""
    predicted, wanted = same_shape(outputs, target)
    rows = len(predicted)
    return torch.stack([wanted.reshape(rows, -1), predicted.reshape(rows, -1)], 1)


def _r2(rows: Tensor) -> float:
    """1 − residual / total sum of squares, per output, averaged over outputs. NaN where the target does not vary."""
    wanted, predicted = rows[:, 0], rows[:, 1]
    total = ((wanted - wanted.mean(0)) ** 2).sum(0)
    return float((1 - ((wanted - predicted) ** 2).sum(0) / total.where(total > 0, math.nan)).mean())


def _overlap(outputs: Any, target: Any) -> Tensor:
    """[N, 3, C] per sample and class: pixels (or samples) hit, predicted, wanted."""
    logits, labels = class_logits(outputs, target)
    classes, rows = logits.shape[1], len(labels)
    guess, truth = logits.argmax(1).reshape(rows, -1), labels.long().reshape(rows, -1)
    counted = truth != IGNORE
    counts = torch.zeros(3, rows, classes + 1, device=logits.device)  # the last column takes what is ignored
    one = torch.ones_like(truth, dtype=counts.dtype)
    rest = torch.full_like(truth, classes)
    counts[0].scatter_add_(1, torch.where(counted & (guess == truth), truth, rest), one)
    counts[1].scatter_add_(1, torch.where(counted, guess, rest), one)
    counts[2].scatter_add_(1, torch.where(counted, truth, rest), one)
    return counts[:, :, :classes].transpose(0, 1)


def _miou(rows: Tensor) -> float:
    """Mean over the classes that occur of hit / (predicted + wanted − hit)."""
    hit, guessed, wanted = rows.sum(0)
    union = guessed + wanted - hit
    return float((hit[union > 0] / union[union > 0]).mean())


def _f1(rows: Tensor) -> float:
    """Macro: mean over the classes that occur of 2·hit / (predicted + wanted)."""
    hit, guessed, wanted = rows.sum(0)
    both = guessed + wanted
    return float((2 * hit[both > 0] / both[both > 0]).mean())


# name → (higher is better, start); `shifted`: labels are the input ids, so the target of position t is label t + 1
METRICS: dict[str, tuple[bool, Callable[[bool], Gather]]] = {
    "accuracy": (True, lambda shifted: Mean(lambda outputs, target: _hits(outputs, target, 1))),
    "f1": (True, lambda shifted: Bootstrap(_overlap, _f1)),
    "mae": (False, lambda shifted: Mean(_absolute)),
    "miou": (True, lambda shifted: Bootstrap(_overlap, _miou)),
    "mse": (False, lambda shifted: Mean(_squared)),
    "perplexity": (False, lambda shifted: Tokens(shifted=shifted, surprise=True)),
    "r2": (True, lambda shifted: Bootstrap(_pairs, _r2)),
    "token_accuracy": (True, lambda shifted: Tokens(shifted=shifted, surprise=False)),
    "top5": (True, lambda shifted: Mean(lambda outputs, target: _hits(outputs, target, 5))),
}


def metric_and_loss(metric: str | UserMetric | None, loss: str | Loss | None
                    ) -> tuple[str | UserMetric, str | Loss]:
    """What stands for the one of the two that is None: it follows from the other where that is a name that says so (mse
    and mse, mae and l1, r2 and mse, perplexity and causal_lm), otherwise it is accuracy or cross_entropy.
    """
    inferred = (_METRIC_OF.get(loss, "accuracy") if isinstance(loss, str) else "accuracy",
                _LOSS_OF.get(metric, "cross_entropy") if isinstance(metric, str) else "cross_entropy")
    return inferred[0] if metric is None else metric, inferred[1] if loss is None else loss


def load_metric(metric: str | UserMetric, *, loss: str = "") -> Metric:
    """A metric given by name, by `module:function`, or as a callable `function(outputs, target) -> float`.

    A user's metric is better when higher, unless the function has an attribute `higher_is_better = False`. Token
    metrics compare position t with label t + 1 when `loss` is "causal_lm", perplexity also when it is "model"
    (transformers' convention); otherwise labels are taken as aligned. `TaskError` when unknown or not callable.
    """
    if isinstance(metric, str) and metric in METRICS:
        shifted = loss == "causal_lm" or (loss == "model" and metric == "perplexity")
        return Metric(metric, METRICS[metric][0], shifted)
    if isinstance(metric, str) and ":" not in metric:
        raise TaskError("unknown metric", given=repr(metric),
                        allowed=did_you_mean(metric, METRICS) + ", or module:function", fix="--metric accuracy")
    function = load_object(metric) if isinstance(metric, str) else metric
    if not callable(function):
        raise TaskError("the metric is not a function", given=metric, allowed="function(outputs, target) -> float",
                        fix="name a function")
    name = metric if isinstance(metric, str) else object_name(function)
    return Metric(name, bool(getattr(function, "higher_is_better", True)), function=function)
