"""What batches and outputs are made of: tensors in tuples, dicts and model-output objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.errors import TaskError

__all__ = ["TARGETS", "all_finite", "call", "describe", "evaluating", "first_rows", "halves", "has_several", "leaves",
           "main_tensor", "map_tensors", "sample_count", "target_tensor", "untouched"]

TARGETS = ("labels", "label", "target")
"""Keys by which the target is found in a dict."""
_ON_THE_WAY = ("loss", "hidden_state", "attentions", "past_key_values", "pooler_output", "mems")


def call(model: nn.Module, inputs: Any) -> Any:
    """`model(**inputs)` for a dict, `model(*inputs)` for a tuple or list, `model(inputs)` otherwise."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)


def leaves(value: Any) -> list[Tensor]:
    """All tensors in nested dicts, tuples and lists, in order; anything else is left out."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, tuple | list):
        return [leaf for item in value for leaf in leaves(item)]
    return []


def map_tensors(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same nesting (as dict, tuple, list) with every tensor changed; other values are kept as they are."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(change, item) for key, item in value.items()}
    if isinstance(value, list):
        return [map_tensors(change, item) for item in value]
    if isinstance(value, tuple):
        return tuple(map_tensors(change, item) for item in value)
    return value


def sample_count(value: Any) -> int:
    """Length of the first dimension of the first tensor that has one; 0 when there is none."""
    return next((leaf.shape[0] for leaf in leaves(value) if leaf.ndim > 0), 0)


def first_rows(value: Any, rows: int, total: int | None = None) -> Any:
    """The first `rows` samples: tensors with `total` rows (default: of `sample_count`) are cut, others are kept."""
    return _rows(value, slice(rows), sample_count(value) if total is None else total)


def halves(value: Any) -> list[Any]:
    """The samples in two: tensors with as many rows as the first one are cut, others are in both. One sample stays."""
    size = sample_count(value)
    if size < 2:
        return [value]

    return [_rows(value, rows, size) for rows in (slice(size // 2), slice(size // 2, None))]


def _rows(value: Any, rows: slice, size: int) -> Any:
    return map_tensors(lambda leaf: leaf[rows] if leaf.ndim > 0 and leaf.shape[0] == size else leaf, value)


def main_tensor(outputs: Any) -> Tensor | None:
    """The tensor that carries the prediction, or None.

    A tensor as it is; `.logits` of an output object; the keys "logits" or "out" of a dict; the first tensor of a tuple.
    """
    if isinstance(outputs, Tensor):
        return outputs
    logits = getattr(outputs, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    if isinstance(outputs, Mapping):
        return next((outputs[key] for key in ("logits", "out") if isinstance(outputs.get(key), Tensor)), None)
    if isinstance(outputs, tuple | list):
        return next((item for item in outputs if isinstance(item, Tensor)), None)
    return None


def has_several(outputs: Any) -> bool:
    """Whether outputs hold more than one tensor that a loss may read: of a dict, none by a name that transformers gives
    to what lies on the way (hidden states, attentions, caches) or to its own loss.
    """
    if isinstance(outputs, Mapping):
        outputs = [item for name, item in outputs.items() if not any(word in name for word in _ON_THE_WAY)]
    return isinstance(outputs, tuple | list) and sum(isinstance(item, Tensor) for item in outputs) > 1


def target_tensor(target: Any) -> Tensor:
    """The target as one tensor: itself, a dict's "labels", "label", "target", or its only tensor; else `TaskError`."""
    if isinstance(target, Tensor):
        return target
    if isinstance(target, Mapping):
        for key in TARGETS:
            if isinstance(target.get(key), Tensor):
                found: Tensor = target[key]
                return found
        tensors = leaves(target)
        if len(tensors) == 1:
            return tensors[0]
    raise TaskError("the target is not a tensor that the built-in losses and metrics understand",
                    given=describe(target),
                    allowed='a tensor, or a dict with a tensor called "labels"',
                    fix="torch.from_numpy(labels)" if isinstance(target, np.ndarray) else "torch.tensor(labels)"
                    if isinstance(target, list | tuple | int | float) and not leaves(target) else
                    "give your own metric and loss as module:function")


def describe(value: Any) -> str:
    """Short text of a batch's structure: `float32[32, 1, 8, 8]`, `{ids: int64[8, 16]}`, `(…, …)`."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {describe(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple | list) and len(value) <= 8:
        return "(" + ", ".join(describe(item) for item in value) + ")"
    return type(value).__name__


def all_finite(value: Any) -> bool:
    """Whether no floating-point tensor in `value` holds NaN or infinity."""
    return all(bool(torch.isfinite(leaf).all()) for leaf in leaves(value) if leaf.is_floating_point())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule has the mode it had, frozen ones included."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """`evaluating`, and afterwards the values of all buffers are what they were, whatever a forward writes."""
    before = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    owners = [(module, dict(module._buffers)) for module in model.modules()]
    try:
        with evaluating(model):
            yield
    finally:
        for module, buffers in owners:
            module._buffers.update(buffers)
        with torch.no_grad():
            for buffer, value in before:
                buffer.detach_().copy_(value)
