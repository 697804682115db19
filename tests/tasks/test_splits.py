from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from autoprune.errors import TaskError
from autoprune.tasks.batches import HeldOut, TensorBatches
from autoprune.tasks.splits import hold_out, is_repeatable, read, size_of

from .conftest import make_batches


def rows(batches: object) -> list[int]:
    return sorted(int(x) for inputs, _ in batches for x in inputs.flatten())  # type: ignore[attr-defined]


NUMBERS = TensorDataset(torch.arange(40.0).reshape(-1, 1), torch.zeros(40))


def test_every_seventh_batch_is_held_out() -> None:
    batches = [(torch.tensor([float(index)]), torch.zeros(1)) for index in range(15)]
    rest, held, note = hold_out(batches)
    assert rows(held) == [6, 13]
    assert rows(rest) == sorted(set(range(15)) - {6, 13})
    assert (size_of(held), size_of(rest)) == (2, 13)
    assert "2 of 15" in note


def test_two_batches_give_one_each() -> None:
    rest, held, _ = hold_out(make_batches(2))
    assert (len(list(rest)), len(list(held))) == (1, 1)


def test_a_shuffled_loader_is_split_by_samples() -> None:
    rest, held, note = hold_out(DataLoader(NUMBERS, batch_size=8, shuffle=True))
    assert rows(held) == rows(held)
    assert len(rows(held)) == 6
    assert sorted(rows(held) + rows(rest)) == list(range(40))
    assert sorted(rows(held) + rows(rest)) == list(range(40)), "the second pass has the same samples"
    assert not is_repeatable(rest)
    assert is_repeatable(held)
    assert "6 of 40" in note


def test_an_ordered_loader_is_split_by_batches() -> None:
    rest, held, _ = hold_out(DataLoader(NUMBERS, batch_size=8))
    assert isinstance(held, HeldOut)
    assert rows(held) == list(range(32, 40))
    assert rows(rest) == list(range(32))


def test_changing_batches_cannot_be_held_out() -> None:
    with pytest.raises(TaskError, match="change from pass to pass"):
        hold_out(TensorBatches(torch.arange(40.0), torch.zeros(40), 8, shuffle=True))


def test_augmented_data_is_noticed() -> None:
    class Noisy:
        def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            yield torch.randn(4), torch.zeros(4)

    assert not is_repeatable(Noisy())
    assert is_repeatable(make_batches())


def test_size_of_a_stream_is_unknown() -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            yield from range(4)

    assert size_of(DataLoader(Stream())) is None
    assert size_of([1]) == 1


def test_the_users_exception_is_shown() -> None:
    class Broken:
        def __iter__(self) -> Iterator[int]:
            raise KeyError("pixels")

    with pytest.raises(TaskError, match="KeyError: 'pixels'"):
        list(read(Broken(), "train"))


def test_tensor_batches() -> None:
    batches = TensorBatches(torch.arange(5), torch.arange(5), 2)
    assert [x.tolist() for x, _ in batches] == [[0, 1], [2, 3], [4]]
    assert len(batches) == 3
    shuffled = TensorBatches(torch.arange(50), torch.arange(50), 50, shuffle=True)
    torch.manual_seed(0)
    first, second = next(iter(shuffled))[0].tolist(), next(iter(shuffled))[0].tolist()
    torch.manual_seed(0)
    assert first != second
    assert next(iter(shuffled))[0].tolist() == first


@pytest.mark.parametrize(("inputs", "target", "batch"), [(3, 2, 1), (0, 0, 1), (3, 3, 0)])
def test_tensor_batches_refuse(inputs: int, target: int, batch: int) -> None:
    with pytest.raises(TaskError):
        TensorBatches(torch.zeros(inputs), torch.zeros(target), batch)
