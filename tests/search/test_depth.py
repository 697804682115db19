"""Residual branches that a search may drop whole."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny import CountingTask, batches
from torch import Tensor, nn

from autoprune.errors import ConfigError
from autoprune.graph.graph import Graph, trace
from autoprune.graph.module import load_module
from autoprune.graph.onnx_maker import OnnxMaker
from autoprune.graph.onnx_template import OnnxTemplate
from autoprune.graph.plan import Plan
from autoprune.recover.features import unchanged
from autoprune.search.depth import depth_starts
from autoprune.search.knapsack.sampler import KnapsackSampler
from autoprune.search.outcome import pareto
from autoprune.search.plan_latency import PlanLatency
from autoprune.search.propose import DENSE, Proposer
from autoprune.search.reuse import Reused
from autoprune.search.space import Space, load_space

from .conftest import Open

RECOVER = {"steps": 2, "calibration_batches": 1}
DEEP = Space("deep", methods=("l1",), recover=RECOVER, drop=("blocks.*",))
BLOCKS = ("blocks.0", "blocks.1", "blocks.2")


class Block(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        with torch.no_grad():
            self.b.weight.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.b(torch.relu(self.a(x))))


class Residual(nn.Module):
    """The middle block computes next to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.blocks = nn.Sequential(Block(3.0), Block(1e-4), Block(3.0))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))
        return out


@pytest.fixture(scope="module")
def deep_task() -> CountingTask:
    torch.manual_seed(0)
    return CountingTask(Residual().eval(), train=batches(3, 2), validation=batches(1, 3), test=batches(1, 4),
                        name="deep")


@pytest.fixture(scope="module")
def deep_graph(deep_task: CountingTask) -> Graph:
    return trace(deep_task.model, deep_task.example_inputs)


@pytest.fixture(scope="module")
def deep_template(deep_graph: Graph) -> OnnxTemplate:
    return OnnxTemplate(deep_graph)


@pytest.fixture
def open_deep(open_search: Open, deep_task: CountingTask, deep_graph: Graph, deep_template: OnnxTemplate,
              monkeypatch: pytest.MonkeyPatch) -> Open:
    monkeypatch.setattr(OnnxMaker, "_template", deep_template)
    return partial(open_search, task=deep_task, graph=deep_graph)


@pytest.fixture
def proposer(deep_graph: Graph) -> Proposer:
    return Proposer(deep_graph, DEEP.choices(deep_graph, 4), 0, branches=DEEP.branches(deep_graph))


def test_what_lies_within_a_dropped_branch_is_not_cut(proposer: Proposer) -> None:
    assert proposer.branches == BLOCKS
    values = proposer.uniform(0.5, "l1", dropped=["blocks.1"])
    plan = proposer.plan(values)
    assert plan.dropped == ("blocks.1",)
    assert set(plan.cuts) == {"stem", "blocks.0.a", "blocks.2.a"}
    other = proposer.plan({**values, "blocks.1.a.keep": 1.0})
    assert other.digest == plan.digest  # the same model
    assert proposer.plan(proposer.parameters_of(plan)) == plan


def test_branches_come_and_go_in_variations_and_random_plans(proposer: Proposer) -> None:
    from autoprune.search.candidate import Candidate

    parent = Candidate(1, "search", proposer.plan(proposer.uniform(0.5, "l1", dropped=["blocks.0"])))
    seen = {proposer.plan(proposer.vary(parent)).dropped for _ in range(80)}
    assert {("blocks.0",), (), ("blocks.0", "blocks.1"), ("blocks.0", "blocks.2")} == seen
    drawn = [proposer.untried(set()) for _ in range(80)]
    assert len({proposer.plan(v).dropped for v in drawn if v is not None}) > 2


@pytest.mark.parametrize("schedule", [{"kind": "iterative", "cycles": 2},
                                      {"kind": "gradual", "cycles": 2, "soft": True}])
def test_a_search_drops_branches(open_deep: Open, schedule: dict[str, object]) -> None:
    space = replace(DEEP, schedule=schedule, recover={**RECOVER, "distill_features": 0.5, "least_squares": True})
    with open_deep(budget="0.8x", trials=9, space=space) as search:
        outcome = search.run()
        assert [c.reason for c in outcome.candidates] == [None] * len(outcome.candidates)
        first = next(c for c in outcome.candidates if c.origin.startswith("start: 1 of 3 branches"))
        assert first.plan.dropped == ("blocks.1",)  # the one that computes next to nothing
        dense = next(c for c in outcome.candidates if c.origin == DENSE)
        assert first.ms < dense.ms
        assert first.macs < dense.macs
        assert first.params < dense.params
        assert first.steps == 2
        for c in pareto(outcome.candidates):
            if c.plan.dropped:
                model = load_module(search.folder.candidate(c.number))
                assert model.plan.dropped == c.plan.dropped
                assert not any(n.startswith(tuple(c.plan.dropped)) for n, _ in model.named_parameters())
                assert search.pipeline.score(model, None, "validation") == c.score


def test_the_least_harmful_branches_go_first(open_deep: Open) -> None:
    with open_deep(space=DEEP) as search:
        latency_ms = {0: 10.0, 1: 7.0, 2: 4.0, 3: 1.0}
        starts = depth_starts(search.pipeline, search.proposer, 4.5, lambda plan: latency_ms[len(plan.dropped)])
        plans = {origin: search.proposer.plan(values) for origin, values in starts.items()}
        assert list(plans) == ["start: 2 of 3 branches dropped", "start: 1 of 3 branches dropped"]
        assert plans["start: 1 of 3 branches dropped"].dropped == ("blocks.1",)
        whole = plans["start: 2 of 3 branches dropped"]
        assert not whole.cuts  # it is fast enough
        assert "blocks.1" in whole.dropped


def test_features_are_distilled_from_what_is_left(deep_graph: Graph) -> None:
    nodes = unchanged(deep_graph, Plan(model=deep_graph.fingerprint, dropped=("blocks.1",)))
    names = {n.name for n in deep_graph.captured.graph.nodes}
    total = deep_graph.branches["blocks.1"].total.name
    assert nodes
    assert set(nodes) <= names - {total}


def test_a_second_device_may_need_branches_that_its_space_keeps(deep_graph: Graph) -> None:
    from autoprune.search.candidate import Candidate

    found = Candidate(1, "search", Plan(model=deep_graph.fingerprint, dropped=("blocks.2",)))
    assert Reused({found.plan.digest: found}).dropped(deep_graph) == ["blocks.2"]
    assert Reused().dropped(deep_graph) == []


def test_spaces(tmp_path: Path, deep_graph: Graph) -> None:
    depth, default = load_space("depth"), load_space("default")
    assert replace(depth, name="", description="", drop=()) == replace(default, name="", description="")
    assert depth.branches(deep_graph) == BLOCKS
    assert default.branches(deep_graph) == ()
    assert "drop" not in default.to_json()
    path = tmp_path / "mine.toml"
    path.write_text('drop = "all"')
    with pytest.raises(ConfigError, match="drop must be a list"):
        load_space(path)
    path.write_text('drop = ["blocks.0"]')
    assert load_space(path).branches(deep_graph) == ("blocks.0",)
    assert load_space(path).to_json()["drop"] == ["blocks.0"]


def test_the_knapsack_drops_what_computes_nothing(open_deep: Open) -> None:
    with open_deep(space=DEEP, sampler="knapsack", trials=14) as search:
        outcome = search.run()
        scanned = search.study.attributes["knapsack"]["curves"]
        damage = {b: scanned[f"{b}.drop"]["damage"][0] for b in BLOCKS}
        assert min(damage, key=lambda b: damage[b]) == "blocks.1"
        proposed = [c.plan for c in outcome.candidates if not c.origin.startswith(("control", "start: 2 of"))]
        assert all(c.status == "ok" for c in outcome.candidates)
        assert {"blocks.1"} <= {b for plan in proposed for b in plan.dropped}
        sampler = search.study._study.sampler
        assert isinstance(sampler, KnapsackSampler)
        target_ms = 0.7 * search.study.attributes["dense_ms"]
        plan = search.proposer.plan(sampler.at(target_ms))
        assert "blocks.1" in plan.dropped
        assert search.latencies.ms(plan) == pytest.approx(target_ms, rel=0.15)


@pytest.mark.parametrize("dropped", [("blocks.1",), ("blocks.0", "blocks.2")])
def test_a_plan_without_branches_is_priced_near_its_latency(deep_graph: Graph, dropped: tuple[str, ...]) -> None:
    table = PlanLatency(deep_graph, "rpi4")
    for keep in (1.0, 0.5):
        plan = replace(Plan.uniform(deep_graph, keep, "random"), dropped=dropped)
        whole_ms = table.ms(replace(plan, dropped=()))
        assert table.ms(plan) == pytest.approx(table.latency(plan).ms, rel=0.03)
        assert table.ms(plan) < whole_ms


class Perceptrons(nn.Module):
    """onnxruntime makes a node of bias and GELU, and numbers it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 32)
        self.wide = nn.Sequential(nn.Linear(32, 256), nn.GELU(), nn.Linear(256, 32))
        self.narrow = nn.Sequential(nn.Linear(32, 16), nn.GELU(), nn.Linear(16, 32))
        self.head = nn.Linear(32, 512)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.wide(x)
        out: Tensor = self.head((x + self.narrow(x)).mean(1))
        return out


def test_nodes_that_the_runtime_numbers_go_with_their_own_branch() -> None:
    graph = trace(Perceptrons(), (torch.randn(2, 64, 8),))
    table = PlanLatency(graph, "rpi4")
    assert len(graph.branches) == 2
    for name in graph.branches:
        for keep in (1.0, 0.5):
            cuts = {n: c for n, c in Plan.uniform(graph, keep, "random").cuts.items()
                    if any(t not in graph.branches[name].tensors for t, _ in graph.groups[n].tensors)}
            plan = Plan(cuts, dropped=(name,))
            assert table.ms(plan) == pytest.approx(table.latency(plan).ms, rel=0.03)
