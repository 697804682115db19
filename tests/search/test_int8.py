from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny import CountingTask

from autoprune.devices.device import load_device
from autoprune.errors import ConfigError, ModelError
from autoprune.graph.graph import Graph
from autoprune.graph.onnx_int8 import weight_bytes
from autoprune.graph.onnx_module import OnnxModule
from autoprune.graph.plan import Cut, Plan
from autoprune.nas.session import Session
from autoprune.search.candidate import Candidate
from autoprune.search.outcome import pareto
from autoprune.search.propose import DENSE
from autoprune.search.run import Search
from autoprune.search.run_folder import RunFolder
from autoprune.search.space import Space, load_space

from .conftest import Open

BOTH = Space("both", precisions=("fp32", "int8"), recover={"steps": 1, "calibration_batches": 1})


def test_a_search_in_both_precisions(open_search: Open, task: CountingTask) -> None:
    with open_search(trials=4, space=BOTH) as search:
        found = {c.origin: c for c in search.run().candidates}
        dense, int8 = found[DENSE], found[f"{DENSE}, int8"]
        assert {c.plan.precision for c in found.values()} == {"fp32", "int8"}
        assert all(c.status == "ok" for c in found.values())
        assert int8.plan.digest != dense.plan.digest
        assert int8.ms != dense.ms
        assert int8.size_bytes < 0.5 * dense.size_bytes
        assert int8.macs == dense.macs
        for c in pareto(list(found.values())):
            kept = search.folder.int8(c.number)
            assert (kept is not None) == (c.plan.precision == "int8")
            if kept is not None:  # what is kept is what was scored
                deployed = OnnxModule(kept, search.pipeline.dense, search.graph.example_inputs)
                assert task.evaluate(deployed) == c.score
                assert c.size_bytes == weight_bytes(kept)


def test_what_cannot_be_quantised_is_found_before_anything_is_trained(
        open_search: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bytes:
        raise ModelError("no int8 today")
    monkeypatch.setattr("autoprune.search.pipeline.quantize", broken)
    with open_search(space=BOTH) as search:
        with pytest.raises(ModelError, match="no int8 today"):
            search.run()
        assert not search.study.candidates()


@pytest.mark.parametrize(("device", "sampler", "words"), [
    ("jetson-nano", "tpe", "run onnxruntime"), ("rpi4-ncnn", "tpe", "run onnxruntime"),
    ("rpi4", "knapsack", "does not choose a precision")])
def test_devices_and_samplers_that_know_fp32_only(device: str, sampler: str, words: str, memory_path: Path,
                                                  task: CountingTask, tiny_graph: Graph) -> None:
    with RunFolder(memory_path / "run").open({"model_fingerprint": "abc"}) as folder, \
            pytest.raises(ConfigError, match=words):
        Search(task, tiny_graph, load_device(device), BOTH, folder, trials=1, sampler=sampler)


def test_a_session_has_nothing_to_calibrate_with(tiny_graph: Graph) -> None:
    with pytest.raises(ConfigError, match="calibrate int8"):
        Session(tiny_graph, BOTH)


def test_a_plan_in_fp32_is_written_as_it_always_was() -> None:
    plan = Plan({"a": Cut(3, "l2")}, "model")
    assert "precision" not in plan.to_json()
    assert Plan.from_json(plan.to_json()) == plan
    int8 = replace(plan, precision="int8")
    assert Plan.from_json(int8.to_json()) == int8
    assert int8.digest != plan.digest
    candidate = Candidate(1, "search", int8)
    assert Candidate.from_json(candidate.to_json()).plan == int8


def test_a_precision_that_does_not_exist(tiny_graph: Graph) -> None:
    with pytest.raises(ConfigError, match="the precision 'int4' is none of fp32, int8"):
        tiny_graph.check(Plan(precision="int4"))


@pytest.mark.parametrize(("text", "words"), [
    ('precisions = ["int8"]', "precisions must be"), ('precisions = "int8"', "precisions must be"),
    ('precisions = ["fp32", "int4"]', "precisions must be"),
    ('precisions = ["fp32", "int8"]\n[recover]\ncalibration_batches = 0', "int8 needs calibration data")])
def test_space_files(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        load_space(path)
    path.write_text('precisions = ["fp32", "int8"]', encoding="utf-8")
    assert load_space(path).precisions == ("fp32", "int8")
