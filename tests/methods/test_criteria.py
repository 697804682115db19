"""Criteria against values worked out by hand, and what must hold for any weights."""

from __future__ import annotations

from math import log, sqrt

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
from autoprune.methods.statistics import NEEDS
from tests.methods.conftest import BIAS, FIRST, X, coupled, small


def score(method: str, graph: Graph, statistics: Statistics | None = None, seed: int = 0) -> torch.Tensor:
    (name,) = graph.groups
    return criterion(method).score(GroupView(graph, name, statistics, seed))


def close(a: torch.Tensor, b: list[float]) -> bool:
    return bool(torch.allclose(a.double(), torch.tensor(b, dtype=torch.float64), atol=1e-5))


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


def test_norm_scale_without_norms_is_an_error_that_says_what_applies(graph: Graph) -> None:
    assert not criterion("norm_scale").applies(GroupView(graph, "0"))
    with pytest.raises(ConfigError, match=r"'norm_scale' does not apply to 0\n(.*\n)*.*allowed: .*l1"):
        graph.prune(Plan({"0": Cut(2, "norm_scale")}))


def test_norm_scale_does_not_take_slopes_for_scales() -> None:
    graph = trace(small(activation=nn.PReLU(3)), X)
    assert not criterion("norm_scale").applies(GroupView(graph, next(iter(graph.groups))))


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


HIDDEN = torch.tensor([[-2.5, 2.5, 1.0], [5.5, 8.5, -4.0]])  # FIRST · X + BIAS, a row per sample
OUTGOING = torch.tensor([2.0, 2.0, 2.0]) / 4  # gradient of the mean of both outputs of both samples


def mean_output(model: nn.Module, inputs: torch.Tensor, _: object) -> torch.Tensor:
    out: torch.Tensor = model(inputs).mean()
    return out


@pytest.fixture
def statistics(graph: Graph) -> Statistics:
    return collect(graph, [(X, None)], mean_output, needs=NEEDS)


def test_outgoing_is_the_norm_of_the_next_columns(graph: Graph) -> None:
    assert close(score("outgoing", graph), [sqrt(4 / 2), sqrt(2 / 2), sqrt(10 / 2)])


def test_lamp_is_the_share_among_the_larger(graph: Graph) -> None:
    """Squared norms 5, 9, 2 (over two elements each): 5/14, 9/9, 2/16."""
    assert close(score("lamp", graph), [5 / 14, 1, 2 / 16])


def test_lamp_of_weights_that_are_all_zero_is_zero() -> None:
    net = small()
    with torch.no_grad():
        net[0].weight.zero_()
    assert close(score("lamp", trace(net, X)), [0, 0, 0])


def test_activation_criteria(graph: Graph, statistics: Statistics) -> None:
    variance = [16.0, 9.0, 6.25]
    assert close(score("mean_activation", graph, statistics), [1.5, 5.5, 1.5])
    assert close(score("variance", graph, statistics), variance)
    outgoing = [4.0, 2.0, 10.0]
    moved = [sqrt(v * o) for v, o in zip(variance, outgoing, strict=True)]
    assert close(score("sensitivity", graph, statistics), moved)
    columns = torch.tensor([2.0, 2.0, 4.0])  # Σ |LAST| over its rows
    assert close(score("wanda", graph, statistics), (HIDDEN.square().mean(0).sqrt() * columns).tolist())
    assert close(score("taylor_activation", graph, statistics), (HIDDEN * OUTGOING).abs().sum(0).tolist())


def test_apoz_is_the_share_of_samples_where_the_unit_is_on() -> None:
    graph = trace(small(activation=nn.ReLU()), X)
    assert close(score("apoz", graph, collect(graph, [(X, None)], needs={"activations"})), [0.5, 1.0, 0.5])


def test_apoz_needs_something_that_makes_zeros(graph: Graph) -> None:
    for activation, makes in ((nn.ReLU(), True), (nn.ReLU6(), True), (nn.Hardswish(), True), (nn.GELU(), False),
                              (nn.Hardtanh(), False)):
        traced = trace(small(activation=activation), X)
        assert criterion("apoz").applies(GroupView(traced, "0")) is makes
    assert not criterion("apoz").applies(GroupView(graph, "0"))


def test_entropy_counts_bins() -> None:
    """Four samples: all alike, two and two, all apart."""
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 1)).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(3))
    x = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 1.0], [1.0, 5.0, 2.0], [1.0, 5.0, 3.0]])
    graph = trace(net, x)
    assert close(score("entropy", graph, collect(graph, [(x, None)], needs={"activations"})), [0, log(2), log(4)])


def test_first_order_criteria(graph: Graph, statistics: Statistics) -> None:
    """∂L/∂w_ij = Σ_n x_nj·OUTGOING_i, and the bias has Σ_n 1."""
    gradient = OUTGOING[:, None] * X.sum(0)
    first, bias = torch.tensor(FIRST), torch.tensor(BIAS)
    products = torch.cat([first * gradient, (bias * OUTGOING * 2)[:, None]], 1)
    assert close(score("taylor", graph, statistics), products.sum(1).square().tolist())
    assert close(score("snip", graph, statistics), products.abs().sum(1).tolist())
    assert close(score("movement", graph, statistics), (-products.sum(1)).tolist())


def test_fisher_is_half_of_squared_products(graph: Graph, statistics: Statistics) -> None:
    gradient = OUTGOING[:, None] * X.sum(0)
    first, bias = torch.tensor(FIRST), torch.tensor(BIAS)
    expected = ((first * gradient).square().sum(1) + (bias * OUTGOING * 2).square()) / 2
    assert close(score("fisher", graph, statistics), expected.tolist())
    divided = criterion("fisher_per_latency").score(GroupView(graph, "0", statistics, saves=4.0))
    assert close(divided, (expected / 4).tolist())


def test_curvature_of_a_quadratic_loss(graph: Graph) -> None:
    """L = ½ Σ c w² + Σ b²/2 has the diagonal c for the weights and 1 for the bias."""
    c = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    first, bias = torch.tensor(FIRST), torch.tensor(BIAS)

    def quadratic(model: nn.Module, inputs: torch.Tensor, _: object) -> torch.Tensor:
        w = dict(model.named_parameters())
        return (c * w["0.weight"].square()).sum() / 2 + w["0.bias"].square().sum() / 2

    statistics = collect(graph, [(X, None)], quadratic, needs={"hessian"})
    assert close(score("obd", graph, statistics), (((c * first.square()).sum(1) + bias.square()) / 2).tolist())
    trace_of_unit, square = c.sum(1) + 1, first.square().sum(1) + bias.square()
    assert close(score("hap", graph, statistics), (trace_of_unit * square / (2 * 3)).tolist())


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


@pytest.mark.parametrize("method", [m for m in methods() if m.needs], ids=lambda m: m.name)
def test_what_needs_data_says_so_without(method: Criterion) -> None:
    graph = trace(small(nn.BatchNorm1d(3), nn.ReLU()), X)
    (name,) = graph.groups
    with pytest.raises(ConfigError, match=r"needs (activations|gradients|fisher|hessian|gram)"):
        graph.prune(Plan({name: Cut(2, method.name)}))


# -- others ---------------------------------------------------------------------------------------------------------


def test_geometric_median_of_duplicates_is_zero() -> None:
    """Filters that are all the same can all be replaced; rounding must not rank them."""
    net = nn.Sequential(nn.Conv2d(2, 40, 3), nn.ReLU(), nn.Conv2d(40, 3, 1)).eval()
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
