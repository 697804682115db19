"""Widths that follow from scores over several groups."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from autoprune.errors import ConfigError
from autoprune.graph.graph import Graph, trace
from autoprune.graph.macs import count, saved_macs
from autoprune.graph.plan import Cut, Plan
from autoprune.methods.collect import collect
from autoprune.methods.ranked import buckets, ranked

X = torch.randn(2, 3)


def chain(*rows: float) -> Graph:
    """Two hidden layers with the same weight everywhere in a unit: 4 units of `rows[:4]`, then 4 of `rows[4:]`."""
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor(rows[:4])[:, None].expand(4, 3))
        net[2].weight.copy_(torch.tensor(rows[4:])[:, None].expand(4, 4))
    return trace(net, X)


def kept(plan: Plan) -> dict[str, tuple[int, ...] | None]:
    return {n: c.kept for n, c in plan.cuts.items()}


def test_global_divides_by_the_norm_of_each_group() -> None:
    """Scores 1 1 1 1 and 8 8 1 1 become 0.5 0.5 0.5 0.5 and 0.70 0.70 0.09 0.09."""
    graph = chain(1, 1, 1, 1, 8, 8, 1, 1)
    assert kept(ranked(graph, 0.75, "l1", "global")) == {"2": (0, 1)}
    assert kept(ranked(graph, 0.25, "l1", "global", min_keep=0)) == {"0": (0,), "2": (0, 1)}


def test_isomorphic_compares_as_it_is() -> None:
    """Both layers are linear, between linear layers; without normalisation the first layer loses."""
    graph = chain(1, 2, 3, 4, 5, 6, 7, 8)
    assert kept(ranked(graph, 0.5, "l1", "isomorphic", min_keep=0)) == {"0": (3,)}
    assert kept(ranked(graph, 0.5, "l1", "isomorphic", min_keep=0.5)) == {"0": (2, 3)}
    assert kept(ranked(graph, 0.5, "l1", "layer")) == {"0": (2, 3), "2": (2, 3)}


def test_lamp_is_not_normalised_again() -> None:
    """Scores ¼ ¼ ¼ ¼ and 1 0.3 0 0; divided by their norms they would be ½ ½ ½ ½ and 0.96 0.28 0 0."""
    graph = chain(1, 1, 1, 1, 10, 6.5, 0.01, 0.01)
    assert kept(ranked(graph, 0.5, "lamp", "global", min_keep=0)) == {"0": (0, 1), "2": (0, 1)}


def test_groups_of_one_structure_share_a_bucket_whatever_their_width() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8),
                        nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                        nn.Linear(6, 2)).eval()
    graph = trace(net, torch.randn(2, 2, 12, 12))
    names = list(graph.groups)
    assert buckets(graph, names, "isomorphic") == [["0", "3"], ["6"]]
    assert buckets(graph, names, "global") == [["0", "3", "6"]]
    assert buckets(graph, names, "layer") == [["0"], ["3"], ["6"]]


def test_what_a_unit_saves_decides_between_groups() -> None:
    torch.manual_seed(0)
    graph = chain(1, 2, 3, 4, 1, 2, 3, 4)
    batch = torch.rand(8, *X.shape[1:])
    statistics = collect(graph, [(batch, None)], lambda m, x, _: m(x).square().mean(), needs={"fisher"})

    def widths(first: float, second: float) -> tuple[int, int]:
        plan = ranked(graph, 0.5, "fisher_per_latency", statistics=statistics, saves={"0": first, "2": second},
                      min_keep=0)
        kept = {n: cut.keep for n, cut in plan.cuts.items()}
        return kept.get("0", 4), kept.get("2", 4)

    assert widths(1e9, 1.0) == (1, 4)
    assert widths(1.0, 1e9) == (4, 1)


@pytest.mark.parametrize("make", [
    lambda: nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3, stride=2), nn.ReLU(), nn.Flatten(),
                          nn.Linear(80, 3)),
    lambda: nn.Sequential(nn.Conv2d(2, 6, 1), nn.ConvTranspose2d(6, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4),
                          nn.Conv2d(4, 2, 1))], ids=["plain", "transposed, depthwise"])
def test_saved_multiply_adds_are_those_of_the_pruned_net(make: Callable[[], nn.Module]) -> None:
    x = torch.randn(1, 2, 12, 12)
    graph = trace(make().eval(), x)
    dense = count(graph.dense(), x).macs
    saved = {n: dense - count(graph.cut(Plan({n: Cut(g.size - 1)})), x).macs for n, g in graph.groups.items()}
    expected = saved_macs(graph)
    ratios = [saved[n] / expected[n] for n in saved]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))


def test_widths_are_aligned_and_the_plan_is_resolved() -> None:
    net = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)).eval()
    graph = trace(net, X)
    plan = ranked(graph, 0.4, "l2", "global", align=4)
    assert all(c.keep % 4 == 0 and c.kept is not None for c in plan.cuts.values())
    assert graph.prune(plan)(X).shape == (2, 2)


def test_groups_that_the_method_does_not_apply_to_stay_whole() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(),
                        nn.Linear(4, 2)).eval()
    graph = trace(net, X)
    assert set(ranked(graph, 0.5, "norm_scale").cuts) == {"0"}
    with pytest.raises(ConfigError, match="applies to no group"):
        ranked(chain(*range(1, 9)), 0.5, "norm_scale")


def test_bad_arguments() -> None:
    graph = chain(*range(1, 9))
    with pytest.raises(ConfigError, match="did you mean 'global'"):
        ranked(graph, 0.5, "l1", "globl")
    with pytest.raises(ConfigError, match="out of range"):
        ranked(graph, 1.5, "l1")
    with pytest.raises(ConfigError, match="needs gradients"):
        ranked(graph, 0.5, "taylor")
