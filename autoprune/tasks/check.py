"""Everything that only running the model on its data shows, before a search spends hours on it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autoprune.errors import ModelError, TaskError, first_line
from autoprune.graph.compare import distance
from autoprune.specs import user_error
from autoprune.tasks.losses import IGNORE, LOSSES, class_logits
from autoprune.tasks.metrics import METRICS
from autoprune.tasks.splits import first_batch, read
from autoprune.tasks.tensors import (
    all_finite,
    describe,
    evaluating,
    leaves,
    main_tensor,
    sample_count,
    target_tensor,
    untouched,
)

if TYPE_CHECKING:
    from autoprune.tasks.task import Task

__all__ = ["check_task", "check_traced"]

_READ_S, _SIZES_S = 5.0, 2.0
_SHAPES = 8  # of inputs that a trace is tried with
_SAME = 1e-3  # of the largest output, or of 1
_CLASS_LOSSES = ("causal_lm", "cross_entropy")
_CLASS_METRICS = ("f1", "miou", "perplexity", "token_accuracy", "top5")


def check_task(task: Task) -> None:
    """See `Task.check`."""
    other = next((p.dtype for p in task.model.parameters() if p.is_floating_point() and p.dtype != torch.float32), None)
    if other is not None:
        raise TaskError("the model's weights are not in float32", given=other, allowed="torch.float32",
                        fix="model.float(), and float32 inputs: a search trains and prices in that")
    inputs, target = first_batch(task.split("train"), "train")
    _check_values(inputs, "inputs", "train", 0)
    with untouched(task.model), torch.enable_grad():  # the loss must have a gradient; nothing is updated
        _check_batched(task, target)
        outputs = _run_model(task, inputs)
        _check_buffers(task.model)
        classes = None
        if task.loss_name in _CLASS_LOSSES or task.metric in _CLASS_METRICS:
            classes = class_logits(outputs, task.to_device(outputs, target))[0].shape[1]
        for split in ("train", "validation", "test"):
            _check_split(task, split, classes)
        _check_loss(task, outputs, target)
    _check_metric(task, outputs, target, sample_count(inputs))


def check_traced(task: Task, traced: nn.Module, note: str | None) -> None:
    """Whether the traced model does what the model does, on the first training batch and on the first ones of other
    sizes in all splits, which are read for at most 2 seconds each; `note`: what is known of the trace
    (`Captured.note`). A forward that counts on the example's sizes passes any check on the example. Raises
    `ModelError`, and `TaskError` where the data holds inputs that the trace has not.
    """
    inputs, _ = first_batch(task.split("train"), "train")
    if isinstance(inputs, Mapping) and (more := [name for name in inputs if name not in task.example_inputs]):
        raise TaskError("the traced model does not take all inputs of the data", given=", ".join(map(str, more)),
                        allowed=", ".join(task.example_inputs),
                        fix="another loss than the model's own, which reads labels from the target: --loss "
                            "cross_entropy, causal_lm, or one of yours" if task.loss_name == "model" else
                            "leave them out of the data's inputs, or put them into Task(example_inputs=…)")
    with untouched(task.model), evaluating(traced), torch.no_grad():
        if problem := _difference(task, traced, inputs):
            raise ModelError(f"on a batch of {sample_count(inputs)} the traced model is not the model: {problem}",
                             given=note, allowed="a forward for which the batch may be of any size",
                             fix="take the batch's size from x.shape[0], do not loop over the batch, and make it the "
                                 "first axis of every input that has one")
        for other in _of_other_sizes(task, inputs):
            if problem := _difference(task, traced, other):
                raise ModelError(f"on inputs {describe(other)} the traced model is not the model: {problem}",
                                 given=f"traced on {describe(task.example_inputs)}; {note or 'the batch may vary'}",
                                 allowed="inputs of one size, but for the batch",
                                 fix="pad or crop all inputs to one size (of text: padding=\"max_length\" in the "
                                     "tokenizer), or make forward independent of it")


def _difference(task: Task, traced: nn.Module, inputs: Any) -> str | None:
    """What is different; None also where the model itself differs from one time to the next."""
    own, again = (_outputs(task.forward(task.model, inputs)) for _ in range(2))
    try:
        problem = _differing(own, _outputs(task.forward(traced, inputs)))
    except Exception as error:  # whatever an operator says to other sizes than the example's
        problem = first_line(error)
    return problem[:200] if problem is not None and _differing(own, again) is None else None


def _of_other_sizes(task: Task, first: Any) -> Iterator[Any]:
    """The first inputs of each size, the batch aside, that is not that of `first`."""
    seen = {_sizes(first)}
    with torch.random.fork_rng(devices=[]):
        for split in ("train", "validation", "test"):
            started = time.monotonic()
            for inputs, _ in read(task.split(split), split):
                if _sizes(inputs) not in seen:
                    seen.add(_sizes(inputs))
                    yield inputs
                if len(seen) > _SHAPES or time.monotonic() - started > _SIZES_S:
                    break


def _sizes(inputs: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(leaf.shape[1:]) for leaf in leaves(inputs))


def _outputs(outputs: Any) -> list[torch.Tensor]:
    main = main_tensor(outputs)
    return leaves(outputs) if main is None else [main]


def _differing(one: list[torch.Tensor], other: list[torch.Tensor]) -> str | None:
    if [t.shape for t in one] != [t.shape for t in other]:
        return f"outputs {', '.join(map(describe, other))} instead of {', '.join(map(describe, one))}"
    for a, b in zip(one, other, strict=True):
        if not (worst := distance(b, a)) <= _SAME:
            return f"outputs differ by {worst:.2g} of the largest"
    return None


def _check_buffers(model: nn.Module) -> None:
    written = next((name for name, buffer in model.named_buffers() if buffer.requires_grad), None)
    if written is not None:
        raise TaskError("the model's forward writes a buffer with gradients", given=written,
                        allowed="values without gradients",
                        fix="write x.detach() into it, or write it under torch.no_grad()")


def _run_model(task: Task, inputs: Any) -> Any:
    try:
        outputs = task.forward(task.model, inputs)
    except TaskError:
        raise
    except Exception as error:
        double = any(leaf.dtype == torch.float64 for leaf in leaves(inputs))
        raise user_error(error, "the model does not run on the first training batch",
                         f"{task.name} on inputs {describe(inputs)}",
                         fix="give the inputs in float32: inputs.float()" if double else
                         "make the data's inputs and the model's forward() fit each other") from error
    found = main_tensor(outputs)
    if found is not None and not bool(torch.isfinite(found).all()):
        raise TaskError("the model's outputs hold NaN or infinity on the first training batch", given=describe(found),
                        allowed="finite outputs", fix="check the weights, and how the inputs are "
                        "normalised; where −inf masks logits, put a large negative number there (-1e4)")
    return outputs


def _check_batched(task: Task, target: Any) -> None:
    """Single samples have a target without an axis. (What the target is, is known of the built-in losses that read it.)
    """
    if task.loss_name not in LOSSES or task.loss_name == "model":
        return
    if isinstance(target, int | float) or (isinstance(target, torch.Tensor) and target.ndim == 0):
        raise TaskError("the training data is not in batches", given=f"a target: {describe(target)}",
                        allowed="batches of samples: their axis is the first of inputs and target",
                        fix="train=DataLoader(samples, batch_size=32)")


def _check_split(task: Task, split: str, classes: int | None) -> None:
    started, empty = time.monotonic(), True
    with torch.random.fork_rng(devices=[]):
        for index, (inputs, target) in enumerate(read(task.split(split), split)):
            empty = False
            _check_values(inputs, "inputs", split, index)
            _check_values(target, "target", split, index)
            if classes is not None:
                _check_labels(target, classes, split, index)
            elif task.loss_name == "bce":
                _check_range(target, 0, 1, "targets", split, index)
            if time.monotonic() - started > _READ_S:
                break
    if empty:
        raise TaskError(f"the {split} data is empty", given=type(task.split(split)).__name__,
                        allowed="at least one batch", fix="check the path or the filter that the data is made with")


def _check_values(value: Any, what: str, split: str, index: int) -> None:
    if not all_finite(value):
        raise TaskError(f"the {what} of the {split} data hold NaN or infinity",
                        given=f"batch {index}: {describe(value)}", allowed="finite values",
                        fix="clean the data, for example with torch.nan_to_num")


def _check_labels(target: Any, classes: int, split: str, index: int) -> None:
    labels = target_tensor(target)
    if labels.is_floating_point() or labels.is_complex():
        raise TaskError(f"the labels of the {split} data are not whole numbers",
                        given=f"batch {index}: {describe(labels)}",
                        allowed="int64 class labels", fix="target.long(), or --loss mse --metric mse for a regression")
    _check_range(labels[labels != IGNORE], 0, classes - 1, "labels", split, index)


def _check_range(target: Any, low: int, high: int, what: str, split: str, index: int) -> None:
    values = target_tensor(target)
    if values.numel() == 0:
        return
    least, most = values.min().item(), values.max().item()
    if least < low or most > high:
        fix = f"a model with {int(most) + 1} outputs, or number the labels from 0" if what == "labels" and most > high \
            else f"use {IGNORE} for what should not count" if what == "labels" else "scale the targets to 0…1"
        raise TaskError(f"{what} of the {split} data are out of range", given=f"batch {index}: {least} to {most}",
                        allowed=f"{low} to {high} for this model and loss", fix=fix)


def _check_loss(task: Task, outputs: Any, target: Any) -> None:
    try:
        loss = task.loss(outputs, target)
    except TaskError:
        raise
    except Exception as error:
        raise user_error(error, "the loss fails on the first training batch",
                         f"{task.loss_name}: outputs {describe(outputs)}, target {describe(target)}",
                         fix="choose a loss that fits: --loss NAME or module:function") from error
    if not bool(torch.isfinite(loss)):
        raise TaskError("the loss is NaN or infinite on the first training batch",
                        given=f"{task.loss_name}: {float(loss)}",
                        allowed="a finite loss", fix="check the targets and the loss function")
    if not loss.requires_grad and any(weight.requires_grad for weight in task.model.parameters()):
        raise TaskError("the loss has no gradient", given=task.loss_name,
                        allowed="a differentiable function of the outputs",
                        fix="leave out argmax, .item() and .detach() in the loss")


def _check_metric(task: Task, outputs: Any, target: Any, samples: int) -> None:
    gather = task.gather()
    try:
        with torch.no_grad():
            gather.update(outputs, task.to_device(outputs, target), samples)
        value, _ = gather.result()
    except TaskError:
        raise
    except Exception as error:
        raise user_error(error, "the metric fails on the first training batch",
                         f"{task.metric}: outputs {describe(outputs)}, target {describe(target)}",
                         fix="choose a metric that fits: --metric NAME or module:function") from error
    # built-in metrics may have no value on one batch (r2 of a constant target); `evaluate` checks whole splits
    if task.metric not in METRICS and not math.isfinite(value):
        raise TaskError("your metric is NaN or infinite on the first training batch", given=f"{task.metric}: {value}",
                        allowed="a finite number", fix="check the metric function")
