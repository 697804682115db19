"""Learned sparsity: the penalties by hand, and that training under them makes units fade."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoprune.graph.graph import Graph, trace
from autoprune.recover.finetune import Extras, FineTune, finetune
from autoprune.recover.penalties import penalty_of
from autoprune.recover.recovery import Penalty
from tests.recover.conftest import ToyTask, data, net


def by_hand(norm: bool) -> Graph:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2) if norm else nn.Identity(),
                          nn.Linear(2, 1)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        model[2].weight.copy_(torch.tensor([[4.0, 0.0]]))
        if norm:
            model[1].weight.copy_(torch.tensor([-2.0, 0.5]))
    return trace(model, torch.randn(4, 2))


def test_norm_scales_by_hand() -> None:
    graph = by_hand(norm=True)
    penalty = penalty_of(graph, graph.dense(), Penalty(1, l1_norms=0.1))
    assert float(penalty().detach()) == pytest.approx(0.25)
    graph = by_hand(norm=False)
    assert float(penalty_of(graph, graph.dense(), Penalty(1, l1_norms=0.1))()) == 0.0


def test_group_lasso_by_hand() -> None:
    """Units have three elements: rows of the first weight and a column of the second: √3·(5 + 1)."""
    graph = by_hand(norm=False)
    penalty = penalty_of(graph, graph.dense(), Penalty(1, group_lasso=0.5))
    assert float(penalty().detach()) == pytest.approx(0.5 * 3**0.5 * 6, rel=1e-4)


def test_the_gradient_is_finite_for_dead_units() -> None:
    graph = by_hand(norm=False)
    model = graph.dense()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    penalty_of(graph, model, Penalty(1, group_lasso=0.5))().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("settings", [Penalty(60, l1_norms=0.05), Penalty(60, group_lasso=0.02)])
def test_units_fade_while_training(task: ToyTask, settings: Penalty) -> None:
    graph = trace(net(), data(1)[0].inputs)
    tune = FineTune(steps=settings.steps, lr=2e-2, distill=0.0, weight_decay=0.0, precision="fp32")
    sizes = []
    for extras in (False, True):
        model = graph.dense()
        penalty = penalty_of(graph, model, settings)
        finetune(model, task, data(), tune, extras=Extras(penalty=penalty if extras else None))
        sizes.append(float(penalty().detach()))
    assert sizes[1] < 0.8 * sizes[0]
