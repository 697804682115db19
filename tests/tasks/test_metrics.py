from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from autoprune.errors import TaskError
from autoprune.tasks.metrics import METRICS, load_metric


def value_of(name: Any, *batches: tuple[Any, Any], loss: str = "") -> tuple[float, float]:
    gather = load_metric(name, loss=loss).start()
    for outputs, target in batches:
        gather.update(outputs, target, len(target))
    return gather.result()


def one_hot(*labels: int, classes: int = 3) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(labels), classes).float()


def test_accuracy_is_pooled_over_batches_with_a_binomial_error() -> None:
    value, error = value_of("accuracy", (one_hot(0, 1, 2), torch.tensor([0, 1, 1])), (one_hot(2), torch.tensor([2])))
    assert value == 0.75
    assert error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))


def test_accuracy_of_one_is_not_certain() -> None:
    value, error = value_of("accuracy", (one_hot(0, 1), torch.tensor([0, 1])))
    assert value == 1.0
    assert error == pytest.approx(math.sqrt(0.75 * 0.25 / 2))  # (2 + 1) / (2 + 2)


def test_binary_accuracy_of_logits() -> None:
    logits = torch.tensor([[2.0], [-1.0], [3.0], [-2.0]])
    assert value_of("accuracy", (logits, torch.tensor([1, 0, 0, 0])))[0] == 0.75
    assert value_of("accuracy", (logits, torch.tensor([[1.0], [0.0], [0.0], [0.0]])))[0] == 0.75


@pytest.mark.parametrize("shape", [(2, 1, 3, 4), (2, 3, 4, 1)])
def test_binary_accuracy_of_one_logit_a_pixel_or_token(shape: tuple[int, ...]) -> None:
    labels = torch.arange(24).reshape(2, 3, 4) % 2
    right = torch.where(labels == 1, 2.0, -2.0).reshape(shape)
    assert value_of("accuracy", (right, labels))[0] == 1.0
    assert value_of("accuracy", (-right, labels.float()))[0] == 0.0


def test_pixel_accuracy_ignores_what_is_marked() -> None:
    logits = one_hot(0, 1, 1, 1).reshape(1, 4, 3).movedim(-1, 1).reshape(1, 3, 2, 2)
    assert value_of("accuracy", (logits, torch.tensor([[[0, 1], [0, -100]]])))[0] == pytest.approx(2 / 3)


def test_top5() -> None:
    logits = torch.arange(7.0).repeat(3, 1)  # best five: 2…6
    assert value_of("top5", (logits, torch.tensor([2, 6, 1])))[0] == pytest.approx(2 / 3)
    with pytest.raises(TaskError, match="more than 5 classes"):
        value_of("top5", (one_hot(0), torch.tensor([0])))


def test_regression_metrics() -> None:
    outputs, target = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([1.0, 2.0, 6.0])
    assert value_of("mse", (outputs, target))[0] == pytest.approx(3.0)
    assert value_of("mse", (outputs, target))[1] == pytest.approx(3.0)  # std of (0, 0, 9) is √27, over √3
    assert value_of("mae", (outputs, target))[0] == pytest.approx(1.0)
    assert value_of("r2", (outputs, target))[0] == pytest.approx(1 - 9 / 14)
    assert value_of("r2", (target, target)) == (1.0, 0.0)


def test_regression_does_not_broadcast() -> None:
    with pytest.raises(TaskError, match="different shapes"):
        value_of("mse", (torch.zeros(4, 2), torch.zeros(4)))


def test_miou_by_hand() -> None:
    guess = torch.tensor([[[0, 0], [1, 1]]])
    logits = torch.nn.functional.one_hot(guess, 3).movedim(-1, 1).float()
    target = torch.tensor([[[0, 1], [1, 1]]])
    value, error = value_of("miou", (logits, target))
    assert value == pytest.approx((1 / 2 + 2 / 3) / 2)  # class 2 does not occur
    assert error == 0.0  # one image


def test_macro_f1_by_hand_and_bootstrap_is_repeatable() -> None:
    batch = (one_hot(0, 0, 1, 1), torch.tensor([0, 1, 1, 1]))
    first, second = value_of("f1", batch), value_of("f1", batch)
    assert first == second
    assert first[0] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert first[1] > 0


def test_token_accuracy_by_hand() -> None:
    logits = torch.stack([one_hot(0, 1, 2), one_hot(0, 0, 0)])
    target = torch.tensor([[0, 1, 1], [0, -100, -100]])
    value, error = value_of("token_accuracy", (logits, target))
    assert value == pytest.approx(3 / 4)
    assert error == pytest.approx(math.sqrt(2 * (0.25**2 + 0.25**2)) / 4)


def test_perplexity_uniform_is_the_number_of_words() -> None:
    logits, target = torch.zeros(2, 5, 7), torch.randint(0, 7, (2, 5))
    assert value_of("perplexity", (logits, target))[0] == pytest.approx(7)
    assert value_of("perplexity", (logits, target), loss="causal_lm")[1] == pytest.approx(0, abs=1e-6)


def test_causal_labels_are_shifted() -> None:
    ids = torch.tensor([[0, 1, 2, 1]])
    predicts_next = one_hot(1, 2, 1, 0).unsqueeze(0) * 50
    assert value_of("token_accuracy", (predicts_next, ids), loss="causal_lm")[0] == 1.0
    assert value_of("token_accuracy", (predicts_next, ids))[0] == 0.0
    assert value_of("perplexity", (predicts_next, ids), loss="model")[0] == pytest.approx(1.0)


def test_token_metrics_need_tokens() -> None:
    with pytest.raises(TaskError, match="token metric"):
        value_of("token_accuracy", (one_hot(0), torch.tensor([0])))


def test_user_metric_is_weighted_by_batch_size(user_file: Path) -> None:
    metric = load_metric(f"{user_file}:error")
    assert not metric.higher_is_better
    gather = metric.start()
    gather.update(one_hot(0, 0, 0), torch.tensor([0, 0, 0]), 3)
    gather.update(one_hot(0), torch.tensor([1]), 1)
    value, error = gather.result()
    assert value == pytest.approx(0.25)
    assert error > 0


def test_nothing_counted_is_nan() -> None:
    for name in METRICS:
        assert math.isnan(load_metric(name).start().result()[0])


def test_directions_and_pickling() -> None:
    assert {name for name in METRICS if not load_metric(name).higher_is_better} == {"mse", "mae", "perplexity"}
    assert pickle.loads(pickle.dumps(load_metric("f1"))) == load_metric("f1")  # noqa: S301 - made two lines above


def test_unknown_metric_suggests() -> None:
    with pytest.raises(TaskError, match="did you mean 'accuracy'"):
        load_metric("acuracy")


def test_metric_that_is_no_function(user_file: Path) -> None:
    with pytest.raises(TaskError, match="not a function"):
        load_metric(f"{user_file}:number")
