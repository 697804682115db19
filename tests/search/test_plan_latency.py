"""A plan's latency from the table is what the prediction of its pruned model's ONNX says."""

from __future__ import annotations

import random
from functools import cache
from unittest import mock

import pytest

from autoprune.devices.device import load_device
from autoprune.devices.latency import Latency
from autoprune.devices.prices import nodes_for, predict
from autoprune.errors import ConfigError
from autoprune.graph.graph import Graph, trace
from autoprune.graph.onnx import export_onnx
from autoprune.graph.plan import Cut, Plan
from autoprune.search.node_sizes import CannotFollow, NodeSizes
from autoprune.search.plan_latency import PlanLatency

from . import latency_nets

NETS = ("residual", "dense", "excite", "attention", "flat", "recurrent", "bert", "resnet")
QUICK = ("residual", "dense", "attention", "bert")

pytestmark = pytest.mark.usefixtures("one_export_per_graph")


@cache
def graph_of(name: str) -> Graph:
    return trace(*latency_nets.build(name))


@cache
def table(name: str, device: str = "rpi4") -> PlanLatency:
    return PlanLatency(graph_of(name), device)


def random_plan(graph: Graph, seed: int) -> Plan:
    """Any width from 2 up, in most groups (with one head, the optimiser may leave out an addition)."""
    rng = random.Random(seed)
    return Plan({name: Cut(rng.randint(min(2, group.size), group.size), "random")
                 for name, group in graph.groups.items() if rng.random() < 0.8})


def of_its_model(graph: Graph, plan: Plan, device: str = "rpi4", percentile: str = "p50") -> Latency:
    """The long way: prune, export anew, optimise, predict."""
    found = load_device(device)
    return predict(nodes_for(export_onnx(graph.cut(plan), graph.example_inputs), found), found, percentile)


def test_the_dense_model() -> None:
    found, wanted = table("residual").latency(Plan()), of_its_model(graph_of("residual"), Plan())
    assert found.ms == pytest.approx(wanted.ms, rel=1e-4)
    assert found.notes == wanted.notes


@pytest.mark.parametrize("name", ["residual", pytest.param("attention", marks=pytest.mark.slow)])
def test_a_plan_is_priced_as_its_exported_model(name: str) -> None:
    """Once through the real exporter, so that nothing of the table's own making is taken for granted."""
    plan = random_plan(graph_of(name), 1)
    found, wanted = table(name).latency(plan), of_its_model(graph_of(name), plan)
    assert found.ms == pytest.approx(wanted.ms, rel=0.005)
    assert (found.lo_ms, found.hi_ms) == pytest.approx((wanted.lo_ms, wanted.hi_ms), rel=0.03)
    assert (found.device, found.threads, found.percentile) == (wanted.device, wanted.threads, wanted.percentile)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in NETS if n not in QUICK)])
def test_random_plans(name: str) -> None:
    """Against ONNX cut out of one export, which the graph's own tests hold equal to the exporter's."""
    graph, priced = graph_of(name), table(name)
    assert not priced.exact, priced.why
    assert priced.why == ""
    spread = set()
    for seed in range(8):
        plan = random_plan(graph, seed)
        wanted = predict(priced._nodes(plan), priced.device)
        assert priced.latency(plan).ms == pytest.approx(wanted.ms, rel=0.005), plan
        spread.add(round(wanted.ms, 6))
    assert len(spread) > 5  # the plans did differ


@pytest.mark.parametrize("name", ["dense", pytest.param("excite", marks=pytest.mark.slow)])
def test_another_device(name: str) -> None:
    graph, priced = graph_of(name), table(name, "rpi5")
    for seed in range(6):
        plan = random_plan(graph, seed)
        assert priced.latency(plan).ms == pytest.approx(predict(priced._nodes(plan), priced.device).ms, rel=0.005)
    assert priced.latency(Plan()).ms < table(name).latency(Plan()).ms


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_random_plans_by_the_exporter(name: str) -> None:
    for device in ("rpi4", "rpi5"):
        for seed in range(20, 24):
            plan = random_plan(graph_of(name), seed)
            wanted = of_its_model(graph_of(name), plan, device)
            assert table(name, device).latency(plan).ms == pytest.approx(wanted.ms, rel=0.005)


def test_which_units_stay_and_by_which_method_does_not_matter() -> None:
    graph, priced = graph_of("residual"), table("residual")
    name = max(graph.groups, key=lambda n: graph.groups[n].size)
    plans = [Plan({name: cut}) for cut in (Cut(3, "l1"), Cut(3, "random"), Cut(3, "l2", (0, 4, 9)))]
    assert len({priced.latency(plan).ms for plan in plans}) == 1


def test_threads_and_percentile() -> None:
    graph = graph_of("flat")
    plan = random_plan(graph, 3)
    one = PlanLatency(graph, "rpi4", threads=1, percentile="p90")
    found, wanted = one.latency(plan), predict(one._nodes(plan), one.device, "p90", 1)
    assert found.ms == pytest.approx(wanted.ms, rel=1e-6)
    assert (found.threads, found.percentile) == (1, "p90")


def test_sizes_that_no_group_explains_are_made_and_say_why() -> None:
    from graph import zoo

    graph = trace(*zoo.build("shufflenet"))
    priced = PlanLatency(graph, "rpi4")
    assert priced.exact
    assert "no group explains" in priced.why
    plan = random_plan(graph, 1)
    assert priced.latency(plan).ms == pytest.approx(of_its_model(graph, plan).ms, rel=0.005)
    assert priced.latency(plan).ms != priced.latency(Plan()).ms
    assert priced.prepare({}) == 0


def test_a_table_that_does_not_hold_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more plan is made to check the table with."""
    real = NodeSizes.node

    def wrong(self: NodeSizes, index: int, widths: list[int]) -> object:
        return real(self, index, [max(1, w // 2) for w in widths])

    monkeypatch.setattr(NodeSizes, "node", wrong)
    found = PlanLatency(graph_of("flat"), "rpi4")
    assert found.exact
    assert "the table is" in found.why


@pytest.mark.parametrize(("others", "exact"), [(0.012, False), (0.02, True)])
def test_a_table_in_doubt_is_asked_about_more_plans(monkeypatch: pytest.MonkeyPatch, others: float, exact: bool
                                                    ) -> None:
    """It is what it is off on average that counts, not the first plan."""
    asked: list[int] = []

    def off(self: PlanLatency, table: object, state: object, seed: int) -> float:
        asked.append(seed)
        return 0.03 if len(asked) == 1 else others

    monkeypatch.setattr(PlanLatency, "_off", off)
    assert PlanLatency(graph_of("flat"), "rpi4").exact is exact
    assert len(set(asked)) == 4


def test_a_graph_that_cannot_be_followed_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    followed = table("flat")  # made before the patch, and kept
    monkeypatch.setattr(NodeSizes, "__init__", mock.Mock(side_effect=CannotFollow("for a reason")))
    found = PlanLatency(graph_of("flat"), "rpi4")
    assert (found.exact, found.why) == (True, "for a reason")
    plan = random_plan(graph_of("flat"), 2)
    assert found.latency(plan).ms == pytest.approx(followed.latency(plan).ms, rel=0.005)
    for bad in (Plan({"nowhere": Cut(1)}), Plan(model="another")):
        with pytest.raises(ConfigError, match="does not fit"):
            found.latency(bad)


def test_a_measured_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="measured") as caught:
        PlanLatency(graph_of("flat"), "cpu")
    assert "calibrate" in str(caught.value)


def test_bad_threads_and_percentile_are_refused() -> None:
    for threads, percentile, words in ((99, "p50", "that many threads"), (None, "p1", "unknown percentile")):
        with pytest.raises(ConfigError, match=words):
            PlanLatency(graph_of("flat"), "rpi4", threads=threads, percentile=percentile)


@pytest.mark.parametrize("bad", ["group", "none left", "too many", "model", "branch"])
def test_a_plan_of_another_model_is_refused(bad: str) -> None:
    graph = graph_of("flat")
    name, group = next(iter(graph.groups.items()))
    plan = {"group": Plan({"nowhere": Cut(1)}), "none left": Plan({name: Cut(0)}),
            "too many": Plan({name: Cut(group.size + 1)}), "model": Plan({name: Cut(1)}, model="another"),
            "branch": Plan(dropped=("nowhere",))}[bad]
    with pytest.raises(ConfigError, match="does not fit"):
        table("flat").latency(plan)


def test_dropped_branches() -> None:
    graph, priced = graph_of("attention"), table("attention")
    assert graph.branches
    branch = next(iter(graph.branches))
    cut = {name: Cut(9, "random") for name, g in graph.groups.items() if g.size == 56}
    assert cut
    for plan in (Plan(dropped=(branch,)), Plan(cut, dropped=(branch,))):
        found = priced.latency(plan)
        assert found.ms == pytest.approx(of_its_model(graph, plan).ms, rel=0.005)
        assert found.ms < priced.latency(Plan(plan.cuts)).ms


@pytest.mark.parametrize(("name", "width", "words"), [("nowhere", 1, "no such group"), (None, 0, "is not in 1"),
                                                      (None, 999, "is not in 1")])
def test_prices_are_prepared_for_plans_of_this_model_only(name: str | None, width: int, words: str) -> None:
    priced = table("flat")
    known = priced.prepare({})
    with pytest.raises(ConfigError, match=words):
        priced.prepare({name or next(iter(priced.graph.groups)): [width]})
    assert priced.prepare({}) == known


def test_prepare_asks_for_all_that_plans_need(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of("flat")
    priced = PlanLatency(graph, "rpi4")
    choices = {name: [1, group.size // 2, group.size] for name, group in graph.groups.items()}
    before = priced.prepare({})
    known = priced.prepare(choices)
    assert known > before
    assert priced.prepare(choices) == known
    monkeypatch.setattr("autoprune.search.latency_table.prices_within", lambda *_: pytest.fail("asked again"))
    for seed in range(10):
        rng = random.Random(seed)
        assert priced.latency(Plan({n: Cut(rng.choice(c), "random") for n, c in choices.items()})).ms > 0
