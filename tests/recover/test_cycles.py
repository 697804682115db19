"""Cycles of pruning and training: widths on the way, what may come back, and what is put to zero."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autoprune.graph.graph import Graph, trace
from autoprune.graph.module import PrunedModule
from autoprune.graph.plan import Plan
from autoprune.methods.choose import Ranking
from autoprune.methods.schedules import Schedule
from autoprune.recover.cycles import shrink, silence
from autoprune.recover.finetune import FineTune
from autoprune.recover.recovery import Recovery
from tests.graph.nets import Spec, make
from tests.recover.conftest import data, net


class Log:
    """Does the work by L1 and notes what it was asked; `change` stands for training."""

    def __init__(self, change: Any = None):
        self.plans: list[Plan] = []
        self.steps: list[tuple[int, int]] = []
        self.change = change

    def choose(self, graph: Graph, plan: Plan, within: Plan | None = None) -> Plan:
        self.plans.append(Ranking(graph).resolve(plan, within))
        return self.plans[-1]

    def cut(self, graph: Graph, plan: Plan) -> PrunedModule:
        return graph.cut(plan)

    def recover(self, model: PrunedModule, steps: int, cycle: int) -> None:
        self.steps.append((steps, cycle))
        if self.change is not None:
            with torch.no_grad():
                self.change(model)


def kept(plan: Plan, group: str = "0") -> set[int]:
    return set(plan.cuts[group].kept or ())


@pytest.fixture(scope="module")
def graph() -> Graph:
    return trace(net(), data(1)[0].inputs)


def recovery(kind: str, cuts: int, steps: int = 10, soft: bool = False) -> Recovery:
    return Recovery(FineTune(steps=steps), schedule=Schedule(kind, cuts), soft=soft)


@pytest.mark.parametrize(("kind", "widths"), [("one-shot", [2]), ("iterative", [5, 3, 2]), ("gradual", [4, 2, 2])])
def test_the_widths_follow_the_schedule_and_reach_the_plan(graph: Graph, kind: str, widths: list[int]) -> None:
    log = Log()
    model = shrink(graph, Plan.of(graph, {"0": 2}), recovery(kind, len(widths)), log)
    assert [p.cuts["0"].keep for p in log.plans] == widths
    assert model.plan.cuts["0"].keep == 2
    assert model.get_submodule("0").weight.shape == (2, 4)
    assert log.steps == ([(10, 0)] if kind == "one-shot" else [(3, 0), (3, 1), (4, 2)])


def test_what_is_gone_stays_gone_and_the_rest_is_ranked_anew(graph: Graph) -> None:
    """Training turns the order of what is left around; hard cuts choose among that."""
    def turn(model: PrunedModule) -> None:
        rows = model.get_submodule("0").weight
        rows.copy_(rows / rows.abs().sum(1, keepdim=True).square())

    still, turned = Log(), Log(turn)
    for log in (still, turned):
        shrink(graph, Plan.of(graph, {"0": 2}), recovery("iterative", 3), log)
        first, second, third = (kept(p) for p in log.plans)
        assert third < second < first
    assert kept(still.plans[-1]) == kept(graph.resolve(Plan.of(graph, {"0": 2})))
    assert kept(turned.plans[0]) == kept(still.plans[0])
    assert kept(turned.plans[-1]) != kept(still.plans[-1])


def test_trained_weights_go_into_the_next_cut(graph: Graph) -> None:
    def grow(model: PrunedModule) -> None:
        model.get_submodule("0").weight.mul_(2.0)

    model = shrink(graph, Plan.of(graph, {"0": 2}), recovery("iterative", 3), Log(grow))
    dense = graph.captured.tensors["0.weight"][list(model.plan.cuts["0"].kept or ())]
    torch.testing.assert_close(model.get_submodule("0").weight, 8 * dense)


def test_soft_cuts_train_the_dense_net_and_units_come_back(graph: Graph) -> None:
    """What was put to zero grows largest while training: the final cut keeps it."""
    shapes: list[tuple[int, ...]] = []

    def revive(model: PrunedModule) -> None:
        weight = model.get_submodule("0").weight
        shapes.append(tuple(weight.shape))
        if len(weight) == 8:
            zero = weight.abs().sum(1) == 0
            assert int(zero.sum()) == 8 - log.plans[-1].cuts["0"].keep
            weight[zero] = 100.0

    log = Log(revive)
    model = shrink(graph, Plan.of(graph, {"0": 3}), recovery("gradual", 2, soft=True), log)
    assert shapes == [(8, 4), (3, 4)]
    assert kept(log.plans[-1]) - kept(log.plans[0])
    assert model.plan.cuts["0"].keep == 3


@pytest.mark.parametrize("spec", [Spec("image", 8, ("residual", "depthwise"), "gap", 0),
                                  Spec("tokens", 8, ("attention", "mlp"), "mean", 1)])
def test_silenced_units_are_computed_by_zeros(spec: Spec) -> None:
    model, x = make(spec)
    graph = trace(model, x)
    plan = graph.resolve(Plan.uniform(graph, 0.5))
    dense = graph.dense()
    silence(graph, dense, plan)
    for name, cut in plan.cuts.items():
        gone = sorted(set(range(graph.groups[name].size)) - set(cut.kept or ()))
        for s in graph.slices(name, dense.tensors()):
            if s.role == "out":
                assert not bool(s.values[gone].any())
    assert bool(torch.isfinite(dense(x)).all())
    whole = graph.dense()
    silence(graph, whole, Plan({}, graph.fingerprint))
    assert all(torch.equal(t, graph.captured.tensors[n]) for n, t in whole.tensors().items())


@pytest.mark.parametrize("spec", [Spec("image", 8, ("residual", "cat", "grouped"), "flatten", 0),
                                  Spec("tokens", 8, ("qkv", "gated"), "first", 1)])
def test_a_pruned_model_spreads_into_the_places_that_it_was_cut_from(spec: Spec) -> None:
    model, x = make(spec)
    graph = trace(model, x)
    pruned = graph.cut(Plan.uniform(graph, 0.6))
    spread = graph.spread(pruned)
    assert {n: t.shape for n, t in spread.items()} == {n: graph.captured.tensors[n].shape for n in spread}
    again = graph.with_tensors(spread).build(pruned.plan)
    assert all(torch.equal(t, pruned.tensors()[n]) for n, t in again.tensors().items())
    for name, t in spread.items():
        assert int((t != 0).sum()) == int((pruned.tensors()[name] != 0).sum())
