"""What a search gathers from data, and which methods it leaves out where they do not apply."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import CountingTask
from torch import nn

from autoprune.errors import ConfigError
from autoprune.graph.graph import Graph, trace
from autoprune.graph.plan import Cut, Plan
from autoprune.methods.registry import methods
from autoprune.search import pipeline as module
from autoprune.search.pipeline import Pipeline
from autoprune.search.space import Space, load_space


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[frozenset[str]]:
    """The needs of each pass over the data."""
    seen: list[frozenset[str]] = []
    collect = module.collect

    def counted(*args: Any, needs: frozenset[str], **options: Any) -> Any:
        seen.append(needs)
        return collect(*args, needs=needs, **options)

    monkeypatch.setattr(module, "collect", counted)
    return seen


def prune(task: CountingTask, graph: Graph, space: Space, *wanted: str) -> None:
    pipeline = Pipeline(task, graph, space)
    name, group = next(iter(graph.groups.items()))
    for method in wanted:
        pipeline.prune(Plan({name: Cut(group.size - 1, method)}))


def test_nothing_is_gathered_before_it_is_needed(task: CountingTask, tiny_graph: Graph, passes: list[frozenset[str]]
                                                 ) -> None:
    prune(task, tiny_graph, Space("x", methods=("l1", "taylor")), "l1", "random")
    assert passes == []


def test_one_pass_gathers_what_all_methods_of_the_space_need(task: CountingTask, tiny_graph: Graph,
                                                             passes: list[frozenset[str]]) -> None:
    space = Space("x", methods=("l1", "taylor"), groups={"*": {"methods": ["variance"]}})
    prune(task, tiny_graph, space, "taylor", "variance", "taylor_activation", "snip")
    assert passes == [{"gradients", "activations"}]


def test_a_need_that_comes_later_is_gathered_alone(task: CountingTask, tiny_graph: Graph, passes: list[frozenset[str]]
                                                   ) -> None:
    prune(task, tiny_graph, Space("x", methods=("taylor",)), "taylor", "fisher", "taylor", "fisher")
    assert passes == [{"gradients"}, {"fisher"}]


def test_methods_are_left_out_where_they_do_not_apply() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 2))
    graph = trace(net, torch.randn(2, 4))
    first, second = Space("x", methods=("norm_scale", "l1", "apoz")).choices(graph, 1).values()
    assert first.methods == ("norm_scale", "l1", "apoz")
    assert first.left_out == ()
    assert second.methods == ("l1",)
    assert second.left_out == ("norm_scale", "apoz")
    with pytest.raises(ConfigError, match=r"names no method that applies to 1 group\(s\)\n.*3: norm_scale, apoz"):
        Space("x", methods=("norm_scale", "apoz")).choices(graph, 1)


def test_the_space_of_all_criteria_has_all_that_order_units_differently() -> None:
    same = {"lamp", "fisher_per_latency"}
    assert set(load_space("criteria").methods) == {m.name for m in methods()} - same
