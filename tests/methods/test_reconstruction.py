"""Criteria that reconstruct: orders against brute force and by hand, and that they beat what they rebuild."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import ConfigError
from autoprune.graph.graph import trace
from autoprune.graph.plan import Plan
from autoprune.methods.choose import Ranking
from autoprune.methods.collect import collect
from autoprune.methods.criterion import GroupView
from autoprune.methods.reconstruction import Greedy, Lasso, ReduceAndReuse, StructuredOBS
from autoprune.methods.registry import criterion
from autoprune.methods.selection import Reading, backward_order, forward_order, lasso_order
from autoprune.methods.statistics import GRAM, Gram, Statistics
from autoprune.testing import check_criterion
from tests.graph.nets import Spec, make
from tests.methods.conftest import small

ALL = ("reduce_and_reuse", "lasso", "greedy", "obs")


def reading(matrix: list[list[float]], weight: list[list[float]], rest: int = 0) -> Reading:
    return Reading(torch.tensor(matrix, dtype=torch.float64), torch.tensor(weight, dtype=torch.float64), rest)


def random_readings(units: int, width: int, rest: int, seed: int, count: int = 2) -> list[Reading]:
    torch.manual_seed(seed)
    n = units * width + rest
    mixed = [torch.randn(100, n, dtype=torch.float64) @ torch.randn(n, n, dtype=torch.float64) for _ in range(count)]
    return [Reading(x.T @ x / 100, torch.randn(n, 5, dtype=torch.float64), rest) for x in mixed]


def unexplained(r: Reading, units: int, taken: set[int]) -> float:
    """Share of the output's energy that least squares on the units `taken` and the rest leaves."""
    n = len(r.gram) - r.rest
    stay = [i for i in range(len(r.gram)) if i >= n or i // (n // units) in taken]
    gone = [i for i in range(n) if i // (n // units) not in taken]
    left = r.gram[gone][:, gone]
    if stay:
        left = left - r.gram[gone][:, stay] @ torch.linalg.solve(r.gram[stay][:, stay], r.gram[stay][:, gone])
    whole = (r.weight * (r.gram @ r.weight)).sum()
    return float((r.weight[gone] * (left @ r.weight[gone])).sum() / whole)


@pytest.mark.parametrize(("width", "rest"), [(1, 0), (1, 2), (3, 0), (2, 3)])
@pytest.mark.parametrize("seed", range(3))
def test_greedy_orders_are_those_of_solving_every_fit(width: int, rest: int, seed: int) -> None:
    units = 6
    readings = random_readings(units, width, rest, seed)

    def error(taken: set[int]) -> float:
        return sum(unexplained(r, units, taken) for r in readings)

    forward: list[int] = []
    while len(forward) < units:
        forward.append(min((j for j in range(units) if j not in forward), key=lambda j: error({*forward, j})))
    assert forward_order(readings, units) == forward
    left, removed = set(range(units)), []
    while left:
        removed.append(min(left, key=lambda j: error(left - {j})))
        left.remove(removed[-1])
    assert backward_order(readings, units) == removed[::-1]


def test_the_lasso_path_by_hand() -> None:
    """Contributions at right angles with squares 4, 9 and 1: unit j leaves when the penalty passes ‖Y_j‖²."""
    r = reading([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[2.0], [3.0], [1.0]])
    eye = Reading(r.gram, torch.diag(r.weight[:, 0]))
    assert lasso_order([eye], 3) == [1, 0, 2]


def test_the_lasso_drops_one_of_two_copies() -> None:
    """Units 0 and 1 are the same; either can stand for both, and one of them leaves before the independent unit 2."""
    r = reading([[1, 1, 0], [1, 1, 0], [0, 0, 1]], [[1.0, 0.0], [1.0, 0.0], [0.0, 0.5]])
    order = lasso_order([r], 3)
    assert order[0] in (0, 1)
    few = forward_order([Reading(r.gram + 1e-9 * torch.eye(3), r.weight)], 3)
    assert few[1] == 2


def test_lasso_scores_satisfy_the_optimality_of_the_path() -> None:
    """What enters first is the unit with the largest |Y_j·Y|."""
    for seed in range(5):
        readings = random_readings(7, 1, 0, seed, count=1)
        both = readings[0].gram * (readings[0].weight @ readings[0].weight.T)
        assert lasso_order(readings, 7)[0] == int(both.sum(1).abs().argmax())


def test_reduce_and_reuse_by_hand() -> None:
    """Second moments minus squared means: 5 − 1, 2 − 1, 9 − 0."""
    graph = trace(small(), torch.zeros(2, 2))
    mean = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
    second = torch.diag(torch.tensor([5.0, 2.0, 9.0], dtype=torch.float64))
    statistics = Statistics(gram={"3.weight": Gram(second, mean, 4)}, gathered=frozenset({GRAM}))
    scores = ReduceAndReuse().score(GroupView(graph, "0", statistics))
    torch.testing.assert_close(scores / scores[1], torch.tensor([4.0, 1.0, 9.0], dtype=torch.float64))


@pytest.mark.parametrize("make_criterion", [ReduceAndReuse, Lasso, Greedy, StructuredOBS])
def test_they_keep_the_contract(make_criterion: type) -> None:
    assert make_criterion.refits
    check_criterion(make_criterion())


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("spec", [Spec("image", 8, ("residual", "cat"), "gap", 0), Spec("image", 8, ("inverted",),
                                  "flatten", 1), Spec("tokens", 8, ("attention", "mlp"), "mean", 2)])
def test_they_reconstruct_on_any_net(method: str, spec: Spec) -> None:
    """A quarter of every group goes: what comes out is nearer to the dense output than with the worst by L2."""
    net, x = make(spec)
    torch.manual_seed(1)
    x = torch.randn(48, *x.shape[1:])
    graph = trace(net, x[:2])
    statistics = collect(graph, [(x, None)], needs={GRAM})
    wanted = net(x).detach()

    ranking = Ranking(graph, statistics)

    def error(name: str) -> float:
        used = {group: name if ranking.applies(group, name) else "l2" for group in graph.groups}
        plan = Plan.of(graph, dict.fromkeys(graph.groups, 0.75), used)
        return float((graph.cut(plan, statistics)(x).detach() - wanted).square().mean())

    assert error(method) < error("l2")


def test_groups_that_no_weight_reads_are_refused() -> None:
    net, x = make(Spec("tokens", 8, ("attention",), "mean", 0))
    graph = trace(net, x)
    statistics = collect(graph, [(x, None)], needs={GRAM})
    inner = [n for n, g in graph.groups.items() if not GroupView(graph, n).readers]
    assert inner
    for name, method in itertools.product(inner, ALL):
        assert not criterion(method).applies(GroupView(graph, name))
        with pytest.raises(ConfigError, match=method):
            graph.resolve(Plan.of(graph, {name: graph.groups[name].size - 1}, method), statistics)


def test_constant_units_are_the_first_to_go() -> None:
    """A dead unit and one that is always on: the bias of the reader makes up for both."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    with torch.no_grad():
        net[0].weight[2:4] = 0.0
        net[0].bias[2:4] = torch.tensor([-1.0, 7.0])
    x: Tensor = torch.randn(64, 5)
    graph = trace(net, x[:2])
    statistics = collect(graph, [(x, None)], needs={GRAM})
    for method in ALL:
        plan = graph.resolve(Plan.of(graph, {"0": 4}, method), statistics)
        assert plan.cuts["0"].kept == (0, 1, 4, 5)
        torch.testing.assert_close(graph.cut(plan, statistics)(x), net(x), atol=1e-3, rtol=1e-3)
