"""The three splits of a task: checks that they can be iterated again, and the hold-out when validation is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler, Subset

from autoprune.errors import TaskError
from autoprune.specs import user_error
from autoprune.tasks.batches import HeldOut
from autoprune.tasks.tensors import TARGETS, describe, leaves, sample_count

__all__ = ["Batches", "first_batch", "hold_out", "is_repeatable", "read", "require_batches", "size_of", "unpack"]

Batches = Iterable[Any]
HELD_OUT_SHARE = 0.15


def require_batches(data: Any, split: str) -> Batches:
    """`data` if it is an iterable that starts anew on every pass, otherwise a `TaskError`."""
    if isinstance(data, torch.Tensor | str | bytes | dict) or not isinstance(data, Iterable):
        raise TaskError(f"the {split} data is not an iterable of batches", given=type(data).__name__,
                        allowed="a DataLoader, or a list of (inputs, target) batches",
                        fix=f"{split}=DataLoader(data, batch_size=32)" if isinstance(data, Dataset) else
                        f"{split}=[(inputs, target)]")
    if iter(data) is data:
        raise TaskError(f"the {split} data can be iterated only once", given=type(data).__name__,
                        allowed="something that starts anew on every pass",
                        fix=f"pass a list or a DataLoader: {split}=list(…)")
    return data


def unpack(batch: Any, split: str) -> tuple[Any, Any]:
    """`(inputs, target)` of a batch, or a `TaskError` when it is not a pair."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise TaskError(f"a batch of the {split} data is not a pair (inputs, target)", given=describe(batch),
                        allowed="(inputs, target); inputs: a tensor, a tuple of tensors or a dict of tensors",
                        fix=_as_pairs(batch, split))
    return batch[0], batch[1]


def _as_pairs(batch: Any, split: str) -> str:
    """How the data becomes pairs, by what one of its batches is."""
    if isinstance(batch, torch.Tensor):
        return f"{split}=DataLoader(TensorDataset(X, Y), batch_size=32)"
    if isinstance(batch, np.ndarray):
        return f"{split}=DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), batch_size=32)"
    if isinstance(batch, Mapping) and len(batch) > 1:
        target = next((key for key in TARGETS if key in batch), list(batch)[-1])
        inputs = [key for key in batch if key != target]
        taken = f"b[{inputs[0]!r}]" if len(inputs) == 1 else "{k: b[k] for k in " + repr(inputs) + "}"
        return f"{split}=[({taken}, b[{target!r}]) for b in {split}], or a collate_fn that returns such a pair"
    return "put several inputs into one tuple: ((a, b), target)"


def read(data: Batches, split: str) -> Iterator[tuple[Any, Any]]:
    """The batches as `(inputs, target)`; what the user's data raises becomes a `TaskError` that shows the line."""
    try:
        rest = iter(data)
    except Exception as error:
        raise user_error(error, f"the {split} data cannot be iterated", type(data).__name__) from error
    while True:
        try:
            batch = next(rest)
        except StopIteration:
            return
        except Exception as error:
            raise user_error(error, f"reading the {split} data raised an exception", type(data).__name__) from error
        yield unpack(batch, split)


def first_batch(data: Batches, split: str) -> tuple[Any, Any]:
    """The first batch as `(inputs, target)`; torch's random state is as before. `TaskError` when there is none."""
    with torch.random.fork_rng(devices=[]):
        pair = next(read(data, split), None)
    if pair is None:
        raise TaskError(f"the {split} data is empty", given=type(data).__name__, allowed="at least one batch",
                        fix="check the path or the filter that the data is made with")
    inputs, target = pair
    if sample_count(inputs) == 0:
        arrays = isinstance(inputs, np.ndarray) or (isinstance(inputs, tuple | list) and any(
            isinstance(part, np.ndarray) for part in inputs))
        raise TaskError(f"the first batch of the {split} data holds no sample", given=describe(inputs),
                        allowed="tensors with the batch as their first dimension",
                        fix="torch.from_numpy(…) for inputs and target" if arrays else "check how batches are made")
    return inputs, target


def size_of(data: Any) -> int | None:
    """`len(data)`, or None where it has none (a `DataLoader` has the method even when its dataset has no length)."""
    try:
        return len(data)
    except TypeError:
        return None


def is_repeatable(data: Batches) -> bool:
    """Whether two passes begin with the same batch: false for shuffled and for randomly augmented data."""
    if isinstance(data, DataLoader) and isinstance(data.sampler, RandomSampler):
        return False
    if getattr(data, "shuffle", False):
        return False
    with torch.random.fork_rng(devices=[]):
        one, two = leaves(next(iter(data), None)), leaves(next(iter(data), None))
    return len(one) == len(two) and all(a.shape == b.shape and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
                                        for a, b in zip(one, two, strict=True))


def hold_out(train: Batches) -> tuple[Batches, Batches, str]:
    """Split training data into train and validation (≈ 15 %), with a sentence that says how.

    Every k-th batch where batches repeat. A shuffled `DataLoader` is split by its samples instead, because its batches
    exchange samples from pass to pass. Anything else that is shuffled, or a single batch, is a `TaskError`.
    """
    if isinstance(train, DataLoader) and not isinstance(train.dataset, IterableDataset) and isinstance(
            train.sampler, RandomSampler) and train.batch_size is not None:
        return _hold_out_samples(train, train.dataset)
    if not is_repeatable(train):
        raise TaskError("no validation data, and the training batches change from pass to pass",
                        given=type(train).__name__,
                        allowed="training batches in a fixed order, or a DataLoader", fix="pass validation=…")
    count = size_of(train)
    count = sum(1 for _ in train) if count is None else count
    if count < 2:
        raise TaskError("no validation data, and only one training batch to hold some out of", given=f"{count} batch",
                        allowed="validation data, or at least 2 training batches",
                        fix="pass validation=…, or make smaller batches")
    every = min(count, round(1 / HELD_OUT_SHARE))
    held, rest = HeldOut(train, count, every, held=True), HeldOut(train, count, every, held=False)
    note = f"no validation data given: {count // every} of {count} training batches are held out for it"
    return rest, held, note


def _hold_out_samples(train: DataLoader[Any], dataset: Dataset[Any]) -> tuple[Batches, Batches, str]:
    total = size_of(train.sampler) or 0
    if total < 2 or total != size_of(dataset):
        raise TaskError("no validation data, and the training data cannot be split", given=f"{total} samples",
                        allowed="validation data, or a dataset of at least 2 samples", fix="pass validation=…")
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0)).tolist()
    held = max(1, round(total * HELD_OUT_SHARE))

    def loader(rows: list[int], shuffle: bool) -> DataLoader[Any]:
        part: Subset[Any] = Subset(dataset, rows)
        return DataLoader(part, batch_size=train.batch_size, num_workers=train.num_workers, drop_last=False,
                          sampler=RandomSampler(part) if shuffle else SequentialSampler(part),
                          collate_fn=train.collate_fn, pin_memory=train.pin_memory)

    note = f"no validation data given: {held} of {total} training samples are held out for it (fixed seed)"
    return loader(order[held:], True), loader(order[:held], False), note
