"""Gradients over a few batches, as the data-dependent criteria see them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.errors import TaskError
from autoprune.graph.graph import trace
from autoprune.methods.collect import collect


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def batches(count: int, size: int = 6) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(1)
    return [(torch.randn(size, 4, generator=g), torch.randint(0, 3, (size,), generator=g)) for _ in range(count)]


def loss(model: nn.Module, inputs: Any, target: Any) -> Tensor:
    return F.cross_entropy(model(inputs), target)


def test_mean_gradient_is_autograds() -> None:
    model = net()
    data = batches(3)
    statistics = collect(trace(model, data[0][0]), data, loss)
    model.eval()
    sum(loss(model, x, y) for x, y in data).div(3).backward()  # type: ignore[union-attr]
    assert statistics.gradients.keys() == dict(model.named_parameters()).keys()
    for name, p in model.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(statistics.gradients[name], p.grad, msg=name)


def test_no_more_batches_than_asked_for() -> None:
    data = batches(5)
    pulled = []

    def stream() -> Any:
        for i, batch in enumerate(data):
            pulled.append(i)
            yield batch

    graph = trace(net(), data[0][0])
    few = collect(graph, stream(), loss, max_batches=2)
    assert pulled == [0, 1]
    same = collect(graph, data[:2], loss)
    for name, g in few.gradients.items():
        assert torch.equal(g, same.gradients[name])


def test_evaluation_mode_and_no_change() -> None:
    """Two calls agree although there is dropout, and the running statistics of the traced model stay."""
    model = net().train()
    data = batches(2)
    graph = trace(model, data[0][0])
    state = {k: v.clone() for k, v in model.state_dict().items()}
    one, two = collect(graph, data, loss), collect(graph, data, loss)
    for name, g in one.gradients.items():
        assert torch.equal(g, two.gradients[name])
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert model.training


def test_no_batches_is_an_error() -> None:
    with pytest.raises(TaskError, match="no batch"):
        collect(trace(net(), batches(1)[0][0]), [], loss)
    with pytest.raises(TaskError, match="no batch"):
        collect(trace(net(), batches(1)[0][0]), batches(1), loss, max_batches=0)


def test_nan_in_the_data_is_an_error() -> None:
    (x, y), *rest = batches(2)
    bad = x.clone()
    bad[0, 0] = float("nan")
    with pytest.raises(TaskError, match="not finite"):
        collect(trace(net(), x), [*rest, (bad, y)], loss)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_an_error_though_its_gradient_is(value: float) -> None:
    data = batches(1)
    with pytest.raises(TaskError, match="not finite"):
        collect(trace(net(), data[0][0]), data, lambda m, x, y: loss(m, x, y) + value)


def test_a_gradient_that_is_not_finite_names_the_parameter() -> None:
    data = batches(1)
    with pytest.raises(TaskError, match=r"gradients that are not finite\n.*0\.weight"):
        collect(trace(net(), data[0][0]), data, lambda m, x, y: m(x * 0).sub(m(x * 0).detach()).abs().sqrt().sum())


def test_parameters_that_the_user_froze_still_get_gradients() -> None:
    """Frozen for training is not unimportant: the units of a frozen backbone have to be ranked, too."""
    model = net()
    model.requires_grad_(False)
    model[4].requires_grad_(True)
    data = batches(2)
    statistics = collect(trace(model, data[0][0]), data, loss)
    assert statistics.gradients.keys() == dict(model.named_parameters()).keys()
    assert not model[0].weight.requires_grad
