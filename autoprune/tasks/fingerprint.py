"""One short text for a task: the same for the same model and data, different when something changed."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import tokenize
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset

from autoprune.tasks.batches import Halved, HeldOut, TensorBatches
from autoprune.tasks.splits import Batches, first_batch, is_repeatable, size_of
from autoprune.tasks.tensors import describe, leaves

if TYPE_CHECKING:
    from autoprune.tasks.task import Task

__all__ = ["digest", "fingerprint", "source_of"]

_SAMPLED = 2**20


def digest(value: Tensor) -> bytes:
    """All elements, of more than a million so many, evenly spaced, as bytes.

    Exact bytes and no sum: the sum of floats depends on the number of threads, and the fingerprint must not.
    """
    flat = value.detach().reshape(-1)
    if len(flat) > _SAMPLED:
        rows = torch.linspace(0, len(flat) - 1, _SAMPLED, dtype=torch.float64).long()
        flat = flat[rows.to(flat.device)]
    sample = flat.cpu().contiguous()
    return sample.view(torch.uint8).numpy().tobytes() if len(sample) else b""


def fingerprint(task: Task) -> str:
    """First 16 hex digits of a SHA-256; see `Task.fingerprint`."""
    total = hashlib.sha256()
    for name, value in sorted(task.model.state_dict().items()):
        if isinstance(value, Tensor):
            total.update(f"{name}|{describe(value)}|".encode() + digest(value))
    total.update(f"|{task.metric}|{task.loss_name}|{''.join(map(source_of, task.functions()))}|".encode())
    for split in ("train", "validation", "test"):
        _add_split(total, task.split(split), split)
    return total.hexdigest()[:16]


def source_of(function: Any) -> str:
    """The text of a metric, loss or method of the user's own, where there is one; "" for ours and torch's."""
    code = function if inspect.isroutine(function) or inspect.isclass(function) else type(function)
    try:
        return "" if code.__module__.startswith(("autoprune.", "torch.")) else inspect.getsource(code)
    except (AttributeError, OSError, SyntaxError, TypeError, tokenize.TokenError):  # none, or it has changed
        return ""


def _add_split(total: hashlib._Hash, data: Batches, split: str) -> None:
    total.update(f"|{split}|{size_of(data)}|".encode())
    inputs, target = first_batch(data, split)  # also when it is not used: empty data is an error here too
    if is_repeatable(data):
        total.update(f"{describe(inputs)}|{describe(target)}|".encode())
        for leaf in leaves((inputs, target)):
            total.update(digest(leaf))
    for held in _held(data):
        total.update(digest(held))


def _held(data: Any) -> Iterator[Tensor]:
    """The tensors that batches are made of, as far as they lie in memory; of data sets as torchvision's the labels."""
    if isinstance(data, DataLoader):
        yield from _held(data.dataset)
    elif isinstance(data, Halved | HeldOut):
        yield from _held(data.batches)
    elif isinstance(data, Subset):
        yield from _numbers(data.indices)
        yield from _held(data.dataset)
    elif isinstance(data, TensorDataset):
        yield from data.tensors
    elif isinstance(data, TensorBatches):
        yield from (data.inputs, data.target)
    elif type(data) in (list, tuple):
        yield from leaves(data)
    else:
        yield from _numbers(getattr(data, "targets", None))


def _numbers(values: Any) -> Iterator[Tensor]:
    """One tensor, or none where they are no numbers."""
    with contextlib.suppress(OverflowError, RuntimeError, TypeError, ValueError):
        yield torch.as_tensor(values)
