"""Batches over tensors that fit in memory, and the hold-out of a part of any batches. All can be iterated again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from autoprune.errors import TaskError
from autoprune.tasks.tensors import halves

__all__ = ["Halved", "HeldOut", "TensorBatches"]


class TensorBatches:
    """Batches of two aligned tensors.

    inputs: [N, ...], any dtype; target: [N, ...]. Yields `(inputs[b, ...], target[b, ...])` with b ≤ `batch_size`; the
    last batch may be smaller. With `shuffle` the order of each pass is drawn from torch's global generator (so
    `torch.manual_seed` fixes it), otherwise it is the order of the tensors. NaN passes through. `TaskError` when the
    lengths differ, are 0, or `batch_size` < 1.
    """

    def __init__(self, inputs: Tensor, target: Tensor, batch_size: int = 32, *, shuffle: bool = False) -> None:
        if len(inputs) != len(target) or len(inputs) == 0:
            raise TaskError("inputs and target need the same number of samples, at least 1",
                            given=f"{len(inputs)} inputs, {len(target)} targets", fix="check how the data is built")
        if batch_size < 1:
            raise TaskError("the batch size must be at least 1", given=batch_size, fix="batch=32")
        self.inputs = inputs
        self.target = target
        self.batch_size = batch_size
        self.shuffle = shuffle

    def __len__(self) -> int:
        return -(-len(self.inputs) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.inputs)) if self.shuffle else torch.arange(len(self.inputs))
        for rows in torch.split(order, self.batch_size):
            yield self.inputs[rows], self.target[rows]


class Halved:
    """Every batch in two, where it holds more than one sample."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            yield from halves(batch)


class HeldOut:
    """Every k-th of `count` batches (`held=True`), or all the others (`held=False`); k is `every`.

    Only right for batches that come in the same order on every pass: with a shuffled source the two parts would
    exchange samples. The caller checks that.
    """

    def __init__(self, batches: Iterable[Any], count: int, every: int, *, held: bool) -> None:
        self.batches = batches
        self.count = count
        self.every = every
        self.held = held

    def __len__(self) -> int:
        held = self.count // self.every
        return held if self.held else self.count - held

    def __iter__(self) -> Iterator[Any]:
        for index, batch in enumerate(self.batches):
            if (index % self.every == self.every - 1) == self.held:
                yield batch
