from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from autoprune.errors import TaskError
from autoprune.tasks.losses import LOSSES, class_axis, load_loss


@pytest.mark.parametrize(("logits", "labels"), [((4, 3), (4,)), ((2, 5, 3), (2, 5)), ((2, 3, 4, 4), (2, 4, 4)),
                                                ((2, 3, 5), (2, 5))])
def test_cross_entropy_of_equal_logits(logits: tuple[int, ...], labels: tuple[int, ...]) -> None:
    target = torch.zeros(labels, dtype=torch.long)
    target.view(-1)[0] = -100
    assert float(LOSSES["cross_entropy"](torch.zeros(logits), target)) == pytest.approx(math.log(3))


def test_causal_lm_shifts_by_one() -> None:
    ids = torch.tensor([[0, 1, 2]])
    logits = torch.nn.functional.one_hot(torch.tensor([[1, 2, 0]]), 3).float() * 100
    assert float(LOSSES["causal_lm"](logits, ids)) == pytest.approx(0, abs=1e-6)
    with pytest.raises(TaskError, match="T ≥ 2"):
        LOSSES["causal_lm"](torch.zeros(1, 1, 3), torch.zeros(1, 1, dtype=torch.long))


def test_elementwise_losses() -> None:
    outputs, target = torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 1.0])
    assert float(LOSSES["mse"](outputs, target)) == pytest.approx(2.5)
    assert float(LOSSES["l1"](outputs, target)) == pytest.approx(1.5)
    assert float(LOSSES["bce"](torch.zeros(2), target)) == pytest.approx(math.log(2))


def test_loss_of_the_model() -> None:
    loss = torch.tensor(1.5)
    assert LOSSES["model"](SimpleNamespace(loss=loss), None) is loss
    assert LOSSES["model"]({"loss": loss}, None) is loss
    with pytest.raises(TaskError, match="returns its own loss"):
        LOSSES["model"](torch.zeros(2), None)


@pytest.mark.parametrize(("outputs", "target", "match"), [
    (torch.zeros(4, 3), torch.zeros(4), "whole-number"),
    (torch.zeros(4, 3), torch.zeros(5, dtype=torch.long), "do not fit"),
    (object(), torch.zeros(4), "no tensor"),
    (torch.zeros(4, 3), {"a": torch.zeros(4), "b": torch.zeros(4)}, "target is not a tensor"),
])
def test_cross_entropy_says_what_does_not_fit(outputs: object, target: object, match: str) -> None:
    with pytest.raises(TaskError, match=match):
        LOSSES["cross_entropy"](outputs, target)


def test_by_name_by_spec_and_as_function(user_file: Path) -> None:
    spec = f"{user_file}:loss"
    name, loss = load_loss(spec)
    assert name == spec
    assert float(loss(torch.zeros(2, 3), torch.tensor([0, 1]))) == pytest.approx(math.log(3))
    assert load_loss(torch.nn.functional.mse_loss)[0] == "torch.nn.functional:mse_loss"
    with pytest.raises(TaskError, match="did you mean 'cross_entropy'"):
        load_loss("crossentropy")
    with pytest.raises(TaskError, match="not a function"):
        load_loss(f"{user_file}:number")


@pytest.mark.parametrize(("shape", "target", "axis"), [
    ((4, 3), torch.zeros(4, dtype=torch.int64), -1),
    ((4, 3), None, -1),
    ((4, 3), torch.full((4, 3), 1 / 3), -1),  # shares of the classes
    ((4, 3), torch.tensor([[1, 0, 1]] * 4), None),  # three labels at once
    ((4, 3), torch.randn(4, 3), None),
    ((4, 1), torch.zeros(4, dtype=torch.int64), None),
    ((4,), torch.zeros(4), None),
    ((2, 7, 3), torch.zeros(2, 7, dtype=torch.int64), -1),
    ((2, 3, 7), torch.zeros(2, 7, dtype=torch.int64), 1),
    ((2, 3, 7), {"labels": torch.zeros(2, 7, dtype=torch.int64), "more": torch.zeros(2)}, 1),
    ((2, 7, 3), torch.zeros(2, 4, dtype=torch.int64), -1),  # as many labels as they please: CTC
    ((2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.int64), 1),
    ((2, 3, 8, 8), None, 1),
    ((2, 8, 8, 8), torch.zeros(2, 8, 8, dtype=torch.int64), 1),  # as many classes as pixels a side
    ((2, 1, 7), torch.zeros(2, 7, dtype=torch.int64), None),  # one class
    ((2, 3, 1), torch.zeros(2, 1, dtype=torch.int64), 1),
    ((2, 48, 4), {"boxes": torch.zeros(2, 48, 4), "kinds": torch.zeros(2, 48, dtype=torch.int64)}, None),
    ((2, 48, 4), (torch.zeros(2, 48, 4), torch.zeros(2, 48, dtype=torch.int64)), None),
    ((4, 1, 4), torch.randn(4, 4), None),  # numbers, in whichever shape
    ((4, 2), torch.randn(4), None),  # a mean and a variance
    ((4, 1), torch.ones(4, 1), None),  # of one class, all of it
])
def test_where_the_classes_are(shape: tuple[int, ...], target: Any, axis: int | None) -> None:
    found = class_axis(torch.randn(shape), target)
    assert found == axis or (found is not None and axis is not None and found % len(shape) == axis % len(shape))


@pytest.mark.parametrize(("loss", "axis"), [("mse", None), ("l1", None), ("bce", None), ("", -1)])
def test_a_loss_without_classes_has_no_class_axis(loss: str, axis: int | None) -> None:
    one_of_each = torch.eye(3)[torch.tensor([0, 2, 1, 0])]  # as shares of classes, or as labels one of which is set
    assert class_axis(torch.randn(4, 3), one_of_each, loss) == axis
