from __future__ import annotations

import json

import optuna
import pytest
from torch import nn

import autoprune
from autoprune.devices.latency import Latency
from autoprune.errors import ConfigError, ModelError
from autoprune.graph.graph import Graph
from autoprune.graph.plan import Plan
from autoprune.search.space import Space


def units(graph: Graph, plan: Plan) -> int:
    return sum(plan.cuts[n].keep if n in plan.cuts else g.size for n, g in graph.groups.items())


def test_the_space_as_json(tiny_graph: Graph) -> None:
    space = json.loads(json.dumps(autoprune.space_of(tiny_graph, align=4)))
    assert set(space) == set(tiny_graph.groups)
    for name, choice in space.items():
        assert choice["size"] == tiny_graph.groups[name].size == choice["widths"][-1]
        assert all(w % 4 == 0 for w in choice["widths"])
        assert "l1" in choice["methods"]
    assert not autoprune.space_of(tiny_graph, Space("x", min_keep=1.0))


def test_ask_and_tell(tiny_graph: Graph) -> None:
    session = autoprune.Session(tiny_graph, align=4, seed=0)
    for _ in range(6):
        plan = session.ask()
        tiny_graph.check(plan)
        assert all(c.keep % 4 == 0 for c in plan.cuts.values())
        session.tell(plan, score=units(tiny_graph, plan) / 100, latency_ms=1.0 + units(tiny_graph, plan))
    best = session.best_plans
    assert best
    for plan in best:
        tiny_graph.check(plan)


def test_a_resolved_plan_is_the_same_plan(tiny_graph: Graph) -> None:
    """`graph.prune` fills in the units; the plan of the pruned model may be told."""
    session = autoprune.Session(tiny_graph, autoprune.Space("weights", methods=("l1", "l2")), seed=1)
    pruned = tiny_graph.prune(session.ask())
    session.tell(pruned.plan, 0.5, 1.0)
    assert len(session.best_plans) == 1


def test_plans_that_were_not_asked_for(tiny_graph: Graph) -> None:
    session = autoprune.Session(tiny_graph, seed=0)
    with pytest.raises(ConfigError, match="not asked for"):
        session.tell(Plan.uniform(tiny_graph, 0.5), 0.5, 1.0)
    plan = session.ask()
    session.tell(plan, 0.5, 1.0)
    with pytest.raises(ConfigError, match="told already"):
        session.tell(plan, 0.5, 1.0)


def test_plans_may_be_told_in_any_order(tiny_graph: Graph) -> None:
    session = autoprune.Session(tiny_graph, seed=0)
    plans = [session.ask() for _ in range(4)]
    for i, plan in enumerate(reversed(plans)):
        session.tell(plan, 0.1 * i, 1.0 + i)
    assert {p.digest for p in session.best_plans} <= {p.digest for p in plans}


@pytest.mark.parametrize(("score", "ms"), [(float("nan"), 1.0), (0.5, float("nan")), (float("inf"), 1.0), (0.5, 0.0),
                                           (0.5, float("inf")), (0.5, -1.0)])
def test_values_that_are_no_result_are_refused_and_the_plan_stays_open(tiny_graph: Graph, score: float,
                                                                         ms: float) -> None:
    session = autoprune.Session(tiny_graph, seed=0)
    plan = session.ask()
    with pytest.raises(ConfigError, match="finite"):
        session.tell(plan, score, ms)
    with pytest.raises(ConfigError, match="a score and a latency"):
        session.tell(plan, score, "1ms")  # type: ignore[arg-type]
    session.tell(plan, 0.5, 1.0)


def test_a_latency_may_be_told_as_it_is(tiny_graph: Graph) -> None:
    session = autoprune.Session(tiny_graph, seed=0)
    plan = session.ask()
    session.tell(plan, 0.5, Latency(1.0, 0.9, 1.1, "p50", "profile", "rpi4", "onnxruntime", "1", 4, 1))
    assert session.best_plans == [plan]


def test_any_sampler_and_the_same_seed(tiny_graph: Graph) -> None:
    def proposals() -> list[Plan]:
        session = autoprune.Session(tiny_graph, sampler=optuna.samplers.RandomSampler(seed=4))
        return [session.ask() for _ in range(3)]
    assert proposals() == proposals()


def test_a_model_without_room_says_so(tiny_graph: Graph) -> None:
    with pytest.raises(ModelError, match="nothing in this model can be pruned"):
        autoprune.Session(tiny_graph, Space("x", min_keep=1.0))
    import torch

    fixed = autoprune.trace(nn.Linear(4, 3), (torch.zeros(1, 4),))
    assert autoprune.space_of(fixed) == {}
