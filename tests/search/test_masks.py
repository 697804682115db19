"""Masks as a choice of the search: which weights wear them, what holds them, and what is said about speed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CountingTask
from torch import Tensor, nn

from autoprune.devices.device import load_device
from autoprune.errors import ConfigError, ModelError
from autoprune.front.export import export_point
from autoprune.front.front import Front, Point
from autoprune.graph.graph import Graph, trace
from autoprune.graph.module import load_module
from autoprune.graph.plan import Cut, Mask, Plan
from autoprune.methods.masks.patterns import parse_pattern
from autoprune.methods.masks.size import load_sparse, sparse_zip
from autoprune.methods.masks.weights import find_maskable
from autoprune.nas.session import Session
from autoprune.recover.finetune import examples
from autoprune.recover.sparsify import mask_planned
from autoprune.search.finish import tune
from autoprune.search.outcome import pareto
from autoprune.search.propose import DENSE, Proposer
from autoprune.search.run import Search
from autoprune.search.run_folder import RunFolder
from autoprune.search.space import Space, load_space

from .conftest import Open

pytestmark = pytest.mark.system

RECOVER = {"steps": 2, "lr": 1e-3, "calibration_batches": 1}
MASKS = {"pattern": "weight", "sparsity": 0.75, "methods": ["magnitude", "wanda", "snip"], "skip": ["stem.*"]}
MASKED = Space("masked", methods=("l1",), recover=RECOVER, masks=MASKS)
WORN = {"inner.weight", "outer.weight", "head.weight"}


def zeros(tensors: dict[str, Tensor]) -> dict[str, float]:
    return {n: float((t == 0).double().mean()) for n, t in tensors.items() if n in {*WORN, "stem.weight"}}


def test_a_search_with_masks(open_search: Open, tiny_graph: Graph) -> None:
    with open_search(trials=9, space=MASKED) as search:
        outcome = search.run()
        found = {c.origin: c for c in outcome.candidates}
        assert all(c.status == "ok" for c in outcome.candidates)
        dense, alone = found[DENSE], found["control: masks alone"]
        assert not dense.plan.masks
        assert dense.latency is not None
        assert not dense.latency.notes
        assert not alone.plan.cuts
        assert alone.ms == dense.ms  # masks are not what makes a model fast, and it says so
        assert alone.latency is not None
        assert any("do not change the latency" in note for note in alone.latency.notes)
        assert alone.size_bytes == dense.size_bytes
        assert alone.steps == 2
        assert alone.compressed_bytes < 0.6 * dense.compressed_bytes
        for c in outcome.candidates[1:]:
            assert set(c.plan.masks) == WORN
            assert {(m.pattern, m.kept) for m in c.plan.masks.values()} == {("weight", 0.25)}
        by = found["start: at budget, masks by wanda"].plan.masks.values()
        assert {m.method for m in by} == {"wanda"}
        assert len({str(sorted((n, m.method) for n, m in c.plan.masks.items())) for c in outcome.candidates}) > 3
        for c in pareto(outcome.candidates):
            if not c.plan.is_dense:
                model = load_module(search.folder.candidate(c.number))
                assert model.plan.masks == c.plan.masks
                assert {n: round(z, 2) for n, z in zeros(model.tensors()).items()} == {
                    **dict.fromkeys(WORN, 0.75), "stem.weight": 0.0}
                assert c.compressed_bytes == len(sparse_zip(model.tensors()))
    with open_search(trials=9, space=MASKED) as again:
        assert again.run().candidates == outcome.candidates


def test_tuning_keeps_the_zeros(open_search: Open) -> None:
    with open_search(trials=3, space=MASKED) as search:
        outcome = search.run()
        chosen = next(c for c in outcome.candidates if c.origin == "control: masks alone")
        if not search.folder.candidate(chosen.number).is_dir():  # dominated: its weights were dropped
            latency = search.latencies.of(chosen.plan)
            search.folder.save_model(chosen.number, search.pipeline.evaluate(9, "", chosen.plan, latency)[1])
        before = load_module(search.folder.candidate(chosen.number)).tensors()
        model = load_module(search.folder.candidate(chosen.number))
        search.pipeline.tune(model)
        after = model.tensors()
        assert zeros(after) == zeros(before)
        assert all(torch.equal(after[n] == 0, before[n] == 0) for n in WORN)
        assert not torch.equal(after["inner.weight"], before["inner.weight"])
        tuned = tune(search, outcome, chosen.number)  # weights alone: there are no cuts to go by
        noted = search.study.attributes["tuned"][str(chosen.number)]
        again = next(c for c in tuned.candidates if c.number == chosen.number)
        assert again.score is not None
        assert (again.steps, again.score.to_json()) == (noted["steps"], noted["score"])
        assert zeros(load_module(search.folder.candidate(chosen.number)).tensors()) == zeros(before)


def test_masks_hold_while_features_are_distilled(open_search: Open) -> None:
    space = replace(MASKED, recover={**RECOVER, "steps": 3, "distill_features": 0.5},
                    groups={"stem": {"keep": "whole"}})  # its states stay comparable
    with open_search(trials=3, space=space) as search:
        outcome = search.run()
        assert [c.reason for c in outcome.candidates] == [None] * 3
        cut = next(c for c in outcome.candidates if c.plan.cuts)
        model = search.pipeline.evaluate(9, "", cut.plan, search.latencies.of(cut.plan))[1]
        search.pipeline.tune(model)
        assert zeros(model.tensors())["inner.weight"] == pytest.approx(0.75, abs=0.01)


def test_plans_that_differ_in_masks_are_measured_once(open_search: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_search(trials=1, space=MASKED) as search:
        asked = []
        real = search.profiler.latency
        monkeypatch.setattr(search.profiler, "latency", lambda model: (asked.append(1), real(model))[1])
        plan = search.proposer.plan(search.proposer.uniform(0.5, "l1"))
        other = replace(plan, masks={**plan.masks, "head.weight": Mask("wanda", "weight", 0.25)})
        assert plan.digest != other.digest
        assert search.latencies.of(plan) == search.latencies.of(other)
        assert len(asked) == 1


@pytest.mark.parametrize("pattern", ["2:4", "block:4x8"])
def test_widths_are_such_that_the_pattern_fits(tiny_graph: Graph, pattern: str) -> None:
    multiple = 4 if pattern == "2:4" else 8
    space = replace(MASKED, masks={"pattern": pattern, "skip": ["stem.*"], "sparsity": 0.5})
    choices = space.choices(tiny_graph, 2)
    assert all(w % multiple == 0 for c in choices.values() for w in c.widths)
    assert any(w % multiple for c in MASKED.choices(tiny_graph, 2).values() for w in c.widths)
    assert all(c.widths[:-1] for c in choices.values())
    assert {m.kept for found in space.mask_choices(tiny_graph).values() for m in found} == {0.5}


def test_head_dimensions_fit_whatever_the_heads() -> None:
    """The rows of an output projection are heads × head dimension: one of the two is a multiple already."""
    torch.manual_seed(0)
    net = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    graph = trace(net, torch.randn(2, 5, 32))
    choices = replace(MASKED, masks={"pattern": "2:4"}).choices(graph, 1)
    by_kind = {graph.groups[n].kind: c.widths for n, c in choices.items()}
    assert by_kind["heads"] == (1, 2, 3, 4)
    assert by_kind["head_dim"] == (4, 8)


def test_a_reader_of_several_groups_goes_on_fitting() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, 6), nn.Linear(4, 10), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(torch.relu(torch.cat([self.a(x), self.b(x)], 1)))
            return out

    graph = trace(Joined(), torch.randn(2, 4))
    for align in (1, 4):
        choices = replace(MASKED, masks={"pattern": "2:4"}).choices(graph, align)
        assert {n: c.widths for n, c in choices.items()} == {"a": (2, 6), "b": (2, 6, 10)}


def test_what_a_pattern_or_method_does_not_fit_is_listed(tiny_graph: Graph) -> None:
    with pytest.raises(ConfigError, match=r"2:4 does not fit 1 of 4 weights.*\n.*stem.weight: 1 inputs.*\n(.*\n)*"
                                          r".*\[masks\] skip_unfit = true"):
        replace(MASKED, masks={"pattern": "2:4"}).mask_choices(tiny_graph)
    with pytest.raises(ConfigError, match=r"wanda, obs compare.s. the inputs of weights, and 1 .*\n.*stem.weight"):
        replace(MASKED, masks={"sparsity": 0.5, "methods": ["wanda", "obs"]}).mask_choices(tiny_graph)
    left = replace(MASKED, masks={"pattern": "2:4", "skip_unfit": True}).mask_choices(tiny_graph)
    assert set(left) == WORN
    some = replace(MASKED, masks={"sparsity": 0.5, "methods": ["wanda", "lamp"]}).mask_choices(tiny_graph)
    assert [m.method for m in some["stem.weight"]] == ["lamp"]  # one input channel: nothing to compare
    assert [m.method for m in some["inner.weight"]] == ["wanda", "lamp"]
    with pytest.raises(ConfigError, match="no weight has the name to skip"):
        replace(MASKED, masks={"sparsity": 0.5, "skip": ["steam.*"]}).mask_choices(tiny_graph)
    with pytest.raises(ConfigError, match="every weight that could wear a mask is skipped"):
        replace(MASKED, masks={"sparsity": 0.5, "skip": ["*"]}).mask_choices(tiny_graph)


def test_a_plan_that_a_pattern_does_not_fit_fails_alone(open_search: Open) -> None:
    space = replace(MASKED, masks={"pattern": "2:4", "skip": ["stem.*"]})
    with open_search(trials=1, space=space) as search:
        search.run()
        plan = search.proposer.plan(search.proposer.uniform(0.5, "l1"))
        odd = replace(plan, cuts={**plan.cuts, "inner": Cut(7, "l1")})
        with pytest.raises(ModelError, match="does not fit the widths of this plan"):
            search.pipeline.evaluate(5, "search", odd, search.latencies.of(odd))


class Mixed(nn.Module):
    """An embedding, recurrent cells, attention and a depthwise convolution: names survive the cut of all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.mix = nn.Conv1d(16, 16, 3, padding=1, groups=16)
        self.attend = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
        self.recur = nn.GRU(16, 12, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = self.attend(self.mix(x.mT).mT)
        out: Tensor = self.head(self.recur(x)[0][:, -1])
        return out


def test_inputs_of_a_grouped_transposed_convolution_are_those_of_a_group() -> None:
    net = nn.Sequential(nn.ConvTranspose2d(8, 16, 3, groups=4), nn.Conv2d(16, 4, 1)).eval()
    found = find_maskable(trace(net, torch.randn(2, 8, 6, 6)))  # the first reads the input, which has no units
    assert (found["0.weight"].input_axis, found["0.weight"].groups, found["0.weight"].inputs) == (0, 4, 2)
    assert parse_pattern("2:4").problem(found["0.weight"]) == "2 inputs are no multiple of 4"
    assert found["1.weight"].inputs == 16


@pytest.mark.parametrize("pattern", ["weight", "row"])
def test_masks_on_any_kind_of_weight(pattern: str) -> None:
    torch.manual_seed(0)
    data = [(torch.randint(0, 11, (8, 6)), torch.randint(0, 4, (8,))) for _ in range(2)]
    task = CountingTask(Mixed().eval(), train=data, validation=data, test=data, name="mixed")
    graph = trace(task.model, task.example_inputs)
    space = replace(MASKED, masks={"sparsity": 0.5, "pattern": pattern, "methods": ["obs", "magnitude"]})
    proposer = Proposer(graph, space.choices(graph, 1), 0, masks=space.mask_choices(graph))
    plan = proposer.plan(proposer.uniform(0.5, "l1"))
    assert set(plan.masks) == set(find_maskable(graph))
    assert {m.method for m in plan.masks.values()} == {"obs", "magnitude"}
    model = graph.cut(plan)
    masks = mask_planned(model, graph.example_inputs, task, examples(task, graph.dense(), data, 2))
    masks.make_permanent()
    tensors = model.tensors()
    for name in plan.masks:
        assert float((tensors[name] == 0).double().mean()) == pytest.approx(0.5, abs=0.1), name
    with pytest.raises(ConfigError, match="trains nothing"):
        graph.prune(plan)


def test_a_plan_without_masks_is_written_as_it_always_was(tiny_graph: Graph) -> None:
    plan = Plan({"inner": Cut(3, "l2")}, tiny_graph.fingerprint)
    assert "masks" not in plan.to_json()
    worn = replace(plan, masks={"inner.weight": Mask("wanda", "2:4", 0.5)})
    assert Plan.from_json(worn.to_json()) == worn
    digests = {p.digest for p in (plan, worn, replace(plan, precision="int8"), replace(worn, precision="int8"),
                                  replace(plan, masks={"inner.weight": Mask("obs", "2:4", 0.5)}))}
    assert len(digests) == 5
    assert not replace(worn, cuts={}).is_dense
    assert Plan(precision="int8").is_dense
    with pytest.raises(ConfigError, match=r"iner\.weight: no parameter to mask; did you mean 'inner\.weight'"):
        tiny_graph.check(replace(plan, masks={"iner.weight": Mask("wanda", "2:4", 0.5)}))
    with pytest.raises(ConfigError, match="the plan is damaged"):
        Plan.from_json({**worn.to_json(), "masks": {"inner.weight": {"method": "wanda"}}})


@pytest.mark.parametrize(("table", "words"), [
    ('pattern = "3:2"\nsparsity = 0.5', "unknown pattern"), ('pattern = "weight"', "need the share"),
    ('pattern = "2:4"\nsparsity = 0.9', "says itself how much"), ("sparsity = 1.0", "0 ≤ sparsity < 1"),
    ('sparsity = 0.5\nmethods = ["magnitud"]', "did you mean 'magnitude'"), ("sparsity = true", "must be a number"),
    ("sparsity = 0.5\nmethods = []", "masks.methods must be a list"),
    ("sparsity = 0.5\nskip = \"stem\"", "masks.skip must be"),
    ("sparsity = 0.5\nsparsty = 1", "line 3: unknown key masks.sparsty; did you mean 'sparsity'"),
    ("sparsity = 0.5\nskip_unfit = 1", "true or false"), ("sparsity = 0.5\npattern = 4", "masks.pattern must be text"),
    ('sparsity = 0.5\n[recover]\nstart = "random"', "throws away"),
    ('sparsity = 0.5\nmethods = ["wanda"]\n[recover]\ncalibration_batches = 0', "line 5: masks by wanda need cal")])
def test_space_files(table: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"[masks]\n{table}", encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        load_space(path)


def test_the_shipped_space_is_the_default_with_masks() -> None:
    sparse, default = load_space("sparse"), load_space("default")
    assert replace(sparse, name="", description="", masks={}) == replace(default, name="", description="")
    assert sparse.masks["sparsity"] == 0.5
    assert "masks" not in default.to_json()


def test_who_has_no_use_for_masks(memory_path: Path, task: CountingTask, tiny_graph: Graph) -> None:
    with RunFolder(memory_path / "run").open({"model_fingerprint": "abc"}) as folder, \
            pytest.raises(ConfigError, match="does not choose masks"):
        Search(task, tiny_graph, load_device("rpi4"), MASKED, folder, trials=1, sampler="knapsack")
    with pytest.raises(ConfigError, match="trains nothing"):
        Session(tiny_graph, MASKED)


def test_a_picked_model_says_what_masks_are_for(open_search: Open, tmp_path: Path) -> None:
    with open_search(trials=2, space=MASKED) as search:
        outcome = search.run()
        alone = outcome.candidates[1]
        model = search.pipeline.evaluate(1, alone.origin, alone.plan, search.latencies.of(alone.plan))[1]
        assert outcome.dense is not None
        front = Front(tmp_path, "tiny", "accuracy", True, "rpi4", None, None, None, outcome.dense, outcome.candidates)
        export_point(front, Point(alone, tmp_path), model, search.graph.example_inputs, tmp_path / "out")
    card = (tmp_path / "out" / "card.md").read_text()
    assert "masks do not change the latency on rpi4" in card
    assert f"| bytes without zeros, zipped | {alone.compressed_bytes:,} | {outcome.dense.compressed_bytes:,} |" in card
    assert "| inner.weight | weight | 0.25 | magnitude |" in card
    stored = load_sparse(tmp_path / "out" / "weights.sparse.zip")
    assert all(torch.equal(stored[n], t) for n, t in model.tensors().items())
    assert (tmp_path / "out" / "weights.sparse.zip").stat().st_size == alone.compressed_bytes


@pytest.mark.parametrize("thing", [MASKED, None, {"methods": ["l1"]}, 3])
def test_a_space_is_named_or_a_file(thing: Any) -> None:
    with pytest.raises(ConfigError, match="named, or read from a file"):
        load_space(thing)
