"""What holds for every criterion: units that trade places trade scores, and what leaves the function as it is leaves
the ranking as it is.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.graph.graph import Graph, trace
from autoprune.methods.choose import Ranking
from autoprune.methods.collect import collect
from autoprune.methods.criterion import GroupView, Statistics
from autoprune.methods.registry import criterion, methods
from autoprune.methods.statistics import NEEDS
from tests.graph.nets import Spec, make

UNITS = 12
ALL = [m.name for m in methods()]
ORDERED = [m for m in ALL if m != "random"]  # the noise belongs to the place, not to the unit
HOMOGENEITY = {"l1": 1, "l2": 1, "geometric_median": 1, "outgoing": -1, "lamp": 0, "mean_activation": 1, "apoz": 0,
               "variance": 2, "entropy": 0, "sensitivity": 0, "wanda": 0, "taylor": 0, "taylor_activation": 0,
               "snip": 0, "movement": 0, "fisher": 0, "fisher_per_latency": 0, "reduce_and_reuse": 0, "lasso": 0,
               "greedy": 0, "obs": 0}
"""Scores of a unit whose own weights grow by c, while those that read it shrink by it, grow by c to this power. Not so
the noise of Hutchinson's estimate (obd, hap), which is shared between layers."""


def loss(model: nn.Module, inputs: Any, target: Any) -> Tensor:
    out: Tensor = model(inputs).square().mean()
    return out


@functools.cache
def net(norm: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    out = nn.Sequential(nn.Conv2d(2, UNITS, 3), nn.BatchNorm2d(UNITS) if norm else nn.Identity(), nn.ReLU(),
                        nn.Conv2d(UNITS, 3, 1)).eval()
    with torch.no_grad():
        for p in out[1].parameters():
            p.normal_()
    return out


def images() -> Tensor:
    return torch.randn(16, 2, 6, 6, generator=torch.Generator().manual_seed(1))


def scores(method: str, model: nn.Module, of: Any = loss) -> Tensor:
    return ranking(model, of).scores("0", method)


@functools.cache
def ranking(model: nn.Module, of: Any) -> Ranking:
    graph = trace(model, images())
    return Ranking(graph, gathered(graph, of))


def gathered(graph: Graph, of: Any = loss) -> Statistics:
    return collect(graph, [(images(), None)], of, needs=NEEDS)


@functools.cache
def order() -> Tensor:
    return torch.randperm(UNITS, generator=torch.Generator().manual_seed(2))


@functools.cache
def permuted() -> nn.Sequential:
    out = copy.deepcopy(net())
    with torch.no_grad():
        for name, t in out.state_dict().items():
            t.copy_(t[:, order()] if name == "3.weight" else t[order()] if t.shape[:1] == (UNITS,) else t)
    return out


@functools.cache
def rewritten(factor: float) -> nn.Sequential:
    """Without its norm, all units' own weights times `factor`, those that read them divided by it."""
    out = copy.deepcopy(net(norm=False))
    with torch.no_grad():
        out[0].weight.mul_(factor)
        out[0].bias.mul_(factor)
        out[3].weight.div_(factor)
    return out


def louder(model: nn.Module, inputs: Any, target: Any) -> Tensor:
    return 64 * loss(model, inputs, target)


@pytest.mark.parametrize("method", [m for m in ORDERED if m not in ("obd", "hap")])
def test_permuting_the_units_permutes_the_scores(method: str) -> None:
    torch.testing.assert_close(scores(method, permuted()), scores(method, net())[order()], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", ["obd", "hap"])
def test_permuting_the_units_permutes_the_scores_of_curvature(method: str) -> None:
    """With a diagonal that is exact: Hutchinson's signs belong to the place, not to the unit."""

    def quadratic(model: nn.Module, inputs: Tensor, _: Any) -> Tensor:
        return sum((p.square().sum() for p in model.parameters()), torch.zeros(())) + 0 * model(inputs).sum()

    torch.testing.assert_close(scores(method, permuted(), quadratic), scores(method, net(), quadratic)[order()])


@pytest.mark.parametrize("method", ALL)
def test_the_size_of_the_loss_does_not_change_the_order(method: str) -> None:
    assert torch.equal(scores(method, net(), louder).argsort(), scores(method, net()).argsort())


@pytest.mark.parametrize("method", HOMOGENEITY)
def test_a_unit_that_is_only_written_differently_keeps_what_belongs_to_the_function(method: str) -> None:
    """With a ReLU, growing the weights of a unit by c and shrinking those that read it leaves what is computed."""
    factor = 2.0
    expected = scores(method, net(norm=False)) * factor ** HOMOGENEITY[method]
    torch.testing.assert_close(scores(method, rewritten(factor)), expected, rtol=1e-3, atol=1e-9)


def test_all_criteria_are_here() -> None:
    assert set(HOMOGENEITY) == set(ALL) - {"random", "norm_scale", "obd", "hap"}


@pytest.mark.parametrize("spec", [Spec("image", 8, ("residual", "depthwise", "grouped", "transposed"), "flatten", 0),
                                  Spec("tokens", 8, ("pre_norm", "qkv", "gated"), "mean", 0)], ids=["image", "tokens"])
def test_scores_are_finite_for_every_group_and_nothing_changes(spec: Spec) -> None:
    model, x = make(spec)
    graph = trace(model, x)
    statistics = collect(graph, [(x, None)], loss, needs=NEEDS)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    ranking = Ranking(graph, statistics)
    used = {name: {m for m in ALL if ranking.applies(name, m)} for name in graph.groups}
    for name, applicable in used.items():
        for method in applicable:
            view = GroupView(graph, name, statistics)
            found = criterion(method).score(view)
            assert found.shape == (view.units,)
            assert not found.requires_grad
            assert torch.equal(ranking.scores(name, method), found.double())
        assert len(applicable) >= 10
    assert set().union(*used.values()) >= set(ALL) - {"apoz", "norm_scale"}
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
