"""Criteria against values worked out by hand, and what must hold for any weights."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import nn

from autoprune.errors import ConfigError
from autoprune.graph.graph import Graph, trace
from autoprune.graph.plan import Cut, Plan
from autoprune.methods.choose import Ranking
from autoprune.methods.collect import collect
from autoprune.methods.criterion import Criterion, GroupView, Statistics
from autoprune.methods.registry import criterion, method_names, methods, register
from tests.methods.conftest import X, coupled, small

WEIGHT_BASED = ["l1", "l2", "geometric_median"]


def score(method: str, graph: Graph, statistics: Statistics | None = None, seed: int = 0) -> torch.Tensor:
    (name,) = graph.groups
    return criterion(method).score(GroupView(graph, name, statistics, seed))


def close(a: torch.Tensor, b: list[float]) -> bool:
    return bool(torch.allclose(a, torch.tensor([float(x) for x in b]), atol=1e-6))


# -- by hand ------------------------------------------------------------------------------------------------------


def test_l1(graph: Graph) -> None:
    assert close(score("l1", graph), [1.5, 1.5, 1.0])


def test_l2(graph: Graph) -> None:
    assert close(score("l2", graph), [sqrt(2.5), sqrt(4.5), 1.0])


def test_geometric_median(graph: Graph) -> None:
    ab, ac, bc = sqrt(8 / 2), sqrt(13 / 2), sqrt(17 / 2)
    assert close(score("geometric_median", graph), [ab + ac, ab + bc, ac + bc])


def test_coupled_producers_count_by_their_mean() -> None:
    """A wide kernel does not drown a narrow one."""
    g = trace(coupled(), (torch.randn(2, 2), torch.randn(2, 4)))
    assert close(score("l1", g), [1 + 1, 2 + 1, 0 + 2])
    assert close(score("l2", g), [sqrt(1 + 4), sqrt(4 + 1), sqrt(0 + 4)])


def test_norm_scale_is_the_absolute_scale() -> None:
    norm = nn.BatchNorm1d(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([-3.0, 0.5, 1.0]))
    graph = trace(small(norm), X)
    assert close(score("norm_scale", graph), [3.0, 0.5, 1.0])
    assert criterion("norm_scale").applies(GroupView(graph, next(iter(graph.groups))))


def test_norm_scale_without_norms_is_l1(graph: Graph) -> None:
    assert torch.equal(score("norm_scale", graph), score("l1", graph))
    assert not criterion("norm_scale").applies(GroupView(graph, "0"))


def test_norm_scale_does_not_take_slopes_for_scales() -> None:
    graph = trace(small(activation=nn.PReLU(3)), X)
    assert not criterion("norm_scale").applies(GroupView(graph, next(iter(graph.groups))))
    assert torch.equal(score("norm_scale", graph), score("l1", graph))


def test_taylor_by_hand(graph: Graph) -> None:
    """The mean of all outputs is linear: unit i adds (1/4) Σ_n h_i(x_n) (LAST[0][i] + LAST[1][i]) to it."""
    statistics = collect(graph, [(X, None)], lambda m, x, _: m(x).mean())
    hidden = X @ torch.tensor([[1.0, 3.0, -1.0], [-2.0, 0.0, 1.0]]) + torch.tensor([0.5, -0.5, 0.0])
    change = hidden.sum(0) * torch.tensor([2.0, 2.0, 2.0]) / 4
    assert close(score("taylor", graph, statistics), change.square().tolist())


def test_taylor_sums_over_all_that_computes_the_unit() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 3, 1)).eval()
    x = torch.randn(4, 2, 6, 6)
    graph = trace(net, x)
    scores = score("taylor", graph, collect(graph, [(x, None)], lambda m, x, _: m(x).sum()))
    for unit in range(5):
        assert scores[unit].item() == pytest.approx(_first_order(net, x, unit) ** 2, rel=1e-3)


def _first_order(net: nn.Sequential, x: torch.Tensor, unit: int) -> float:
    net.zero_grad()
    net(x).sum().backward()
    total = 0.0
    for p in (net[0].weight, net[0].bias, net[1].weight, net[1].bias):
        total += float((p.grad[unit] * p[unit]).sum().detach())
    net.zero_grad()
    return total


@pytest.mark.parametrize("statistics", [None, Statistics()])
def test_taylor_needs_gradients(graph: Graph, statistics: Statistics | None) -> None:
    with pytest.raises(ConfigError, match="needs gradients") as info:
        score("taylor", graph, statistics)
    assert "collect" in (info.value.fix or "")
    with pytest.raises(ConfigError, match="needs gradients"):
        graph.prune(Plan({"0": Cut(2, "taylor")}), statistics)


# -- for any weights ----------------------------------------------------------------------------------------------


def wide(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 40, 3), nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 3, 1)).eval()


@pytest.mark.parametrize("method", WEIGHT_BASED)
@pytest.mark.parametrize("factor", [1e-3, 2.0, 1e3])
def test_scaling_the_weights_scales_the_scores(method: str, factor: float) -> None:
    x, net = torch.randn(1, 2, 5, 5), wide()
    before = score(method, trace(net, x))
    with torch.no_grad():
        net[0].weight.mul_(factor)
    torch.testing.assert_close(score(method, trace(net, x)), before * factor, rtol=1e-4, atol=0)


@pytest.mark.parametrize("method", [*WEIGHT_BASED, "norm_scale", "taylor"])
def test_permuting_the_units_permutes_the_scores(method: str) -> None:
    torch.manual_seed(1)
    x, net = torch.randn(4, 2, 5, 5), wide()
    with torch.no_grad():
        net[1].weight.normal_()
    order = torch.randperm(40)
    other = wide()
    with torch.no_grad():
        other[0].weight.copy_(net[0].weight[order])
        other[0].bias.copy_(net[0].bias[order])
        other[1].weight.copy_(net[1].weight[order])
        other[3].weight.copy_(net[3].weight[:, order])
        other[3].bias.copy_(net[3].bias)
    scores = []
    for m in (net, other):
        graph = trace(m, x)
        statistics = collect(graph, [(x, None)], lambda m, x, _: m(x).square().mean())
        scores.append(score(method, graph, statistics))
    torch.testing.assert_close(scores[1], scores[0][order], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", ["random", *WEIGHT_BASED, "norm_scale", "taylor"])
def test_scores_are_one_finite_number_per_unit_and_change_nothing(method: str) -> None:
    torch.manual_seed(0)
    x, net = torch.randn(2, 2, 5, 5), wide()
    graph = trace(net, x)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    statistics = collect(graph, [(x, None)], lambda m, x, _: m(x).square().mean())
    scores = score(method, graph, statistics)
    assert scores.shape == (40,)
    assert torch.isfinite(scores).all()
    assert not scores.requires_grad
    assert torch.equal(scores, score(method, graph, statistics))
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_geometric_median_of_duplicates_is_zero() -> None:
    """Filters that are all the same can all be replaced; rounding must not rank them."""
    net = wide()
    with torch.no_grad():
        net[0].weight.copy_(100 * net[0].weight[:1].expand(40, 2, 3, 3))
    assert torch.equal(score("geometric_median", trace(net, torch.randn(1, 2, 5, 5))), torch.zeros(40))


def test_random_is_reproducible_and_differs_by_seed_and_group() -> None:
    net = nn.Sequential(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 2))
    graph = trace(net, torch.randn(2, 4))
    draw = criterion("random").score

    def of(group: str, seed: int) -> torch.Tensor:
        return draw(GroupView(graph, group, None, seed))

    state = torch.get_rng_state()
    first = of("0", 3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(of("0", 3), first)
    assert not torch.equal(of("0", 4), first)
    assert not torch.equal(of("2", 3), first)


# -- choosing -----------------------------------------------------------------------------------------------------


def test_choose_keeps_the_best_and_breaks_ties_by_index(graph: Graph) -> None:
    assert Ranking(graph).choose("0", Cut(1, "l1")) == (0,)
    assert Ranking(graph).choose("0", Cut(2, "l1")) == (0, 1)
    assert Ranking(graph).choose("0", Cut(1, "l2")) == (1,)
    assert Ranking(graph).choose("0", Cut(2, "l2")) == (0, 1)
    assert Ranking(graph).choose("0", Cut(3, "l2")) == (0, 1, 2)


class Own(Criterion):
    name = "own"
    summary = "for the tests"
    source = "none"

    def __init__(self, scores: torch.Tensor):
        self.scores = scores

    def score(self, group: GroupView) -> torch.Tensor:
        return self.scores


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprune.methods import registry

    monkeypatch.setattr(registry, "_CRITERIA", dict(registry._CRITERIA))


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("scores", [torch.tensor([1.0, float("nan"), 2.0]), torch.tensor([1.0, float("inf"), 2.0]),
                                    torch.ones(2), torch.ones(3, 1), torch.ones(())])
def test_unusable_scores_are_an_error(graph: Graph, scores: torch.Tensor) -> None:
    register(Own(scores))
    with pytest.raises(ConfigError, match="no usable scores"):
        Ranking(graph).choose("0", Cut(2, "own"))


@pytest.mark.usefixtures("own")
def test_a_registered_criterion_is_used(graph: Graph) -> None:
    register(Own(torch.tensor([0, 5, 9])))
    assert "own" in method_names()
    assert Ranking(graph).choose("0", Cut(2, "own")) == (1, 2)


def test_unknown_methods_are_named(graph: Graph) -> None:
    with pytest.raises(ConfigError, match="did you mean 'l1'"):
        criterion("L1")


def test_every_method_says_where_it_comes_from() -> None:
    assert method_names()[:6] == ["random", "l1", "l2", "norm_scale", "geometric_median", "taylor"]
    for m in methods():
        assert m.summary
        assert m.source


def test_groups_without_a_producing_layer_are_ranked_by_what_they_have() -> None:
    """A bare parameter that is only read, e.g. a query that is learned."""

    class Query(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.out = nn.Parameter(torch.tensor([1.0, -5.0, 2.0])), nn.Linear(3, 2, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.out(self.query + x.sum(1, keepdim=True))
            return out

    graph = trace(Query(), torch.randn(2, 4))
    (name,) = graph.groups
    view = GroupView(graph, name)
    for method in ("l1", "l2", "geometric_median"):
        assert criterion(method).score(view).shape == (3,)
