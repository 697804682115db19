"""What runs on a GPU comes back to the CPU. Without a GPU: who is moved, and when."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import torch
from torch import nn

import autoprune
from autoprune.accelerator import device_of, on_accelerator
from autoprune.devices.device import load_device
from autoprune.devices.measure import Measurer
from autoprune.graph.onnx import check_onnx, export_onnx
from autoprune.graph.plan import Cut, Plan
from autoprune.methods.registry import method_names
from autoprune.recover.finetune import Example, FineTune
from autoprune.recover.sparsify import Recipe, sparsify
from autoprune.search.pipeline import Pipeline
from autoprune.search.space import load_space
from autoprune.search.workers.cluster import take_gpu
from tests.tiny import batches, tiny_task, trained

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch sees")


class _Recorded(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)
        self.places: list[str] = []

    def to(self, *args: Any, **_: Any) -> Any:
        self.places.append(str(args[0]))
        return self


def test_only_models_on_the_cpu_are_moved_and_only_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = _Recorded(), _Recorded()
    there.weight = there.bias = nn.Parameter(torch.empty(2, 2, device="meta"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with on_accelerator(here, there):
        assert not here.places
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def fail() -> None:
        with on_accelerator(here, there):
            assert here.places == ["cuda"]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert here.places == ["cuda", "cpu"]
    assert not there.places


def test_a_model_elsewhere_is_traced_as_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained().double()  # any change that is seen: there is no second device here
    monkeypatch.setattr("autoprune.graph.graph.device_of", lambda m: torch.device("meta"))
    monkeypatch.setattr(type(model), "cpu", lambda self: self.float())
    graph = autoprune.trace(model, torch.zeros(1, 1, 8, 8))
    assert next(graph.dense().parameters()).dtype == torch.float32
    assert next(model.parameters()).dtype == torch.float64


@pytest.mark.parametrize(("lent", "visible", "place"), [
    ("3", None, 3), ("3", "2,3", 1), ("GPU-5d", "GPU-07,GPU-5d", 1)])
def test_the_gpu_that_a_cluster_lends_becomes_the_current_one(lent: str, visible: str | None, place: int,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    name = int(lent) if lent.isdigit() else lent
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get_gpu_ids=lambda: [name]))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.delenv("HIP_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    take_gpu()
    assert taken == [place]


class Positions(nn.Module):
    """A device stands in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.place, self.inner, self.head = nn.Embedding(8, 16), nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, 0] @ torch.ones(8, 16, device=x.device) + self.place(torch.arange(8, device=x.device))
        out: torch.Tensor = self.head(torch.relu(self.inner(x)).mean(1))
        return out


@needs_gpu
@pytest.mark.slow
@pytest.mark.parametrize("net", [trained, Positions])
@pytest.mark.parametrize("recover", [{}, {"distill_features": 1.0}, {"patience": 2}])
def test_a_candidate_trains_on_the_gpu_and_comes_back(net: Any, recover: dict[str, Any],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    task = tiny_task()
    task.model = net()
    graph = autoprune.trace(task.model, task.example_inputs)
    pipeline = Pipeline(task, graph, replace(load_space("default"), recover=recover))
    seen = set()
    forward = task.forward
    monkeypatch.setattr(task, "forward", lambda model, inputs: (seen.add(device_of(model).type),
                                                                forward(model, inputs))[1])
    model = pipeline.prune(Plan.uniform(graph, 0.5, "taylor"))
    before = {n: t.clone() for n, t in model.tensors().items()}
    pipeline.recover(model, 8)
    score = pipeline.score(model, None, "validation")
    assert seen == {"cuda"}
    assert math.isfinite(score.value)
    assert all(t.device.type == "cpu" for t in model.tensors().values())
    assert any(not torch.equal(t, before[n]) for n, t in model.tensors().items())
    check_onnx(pipeline.onnx(model), model, graph.example_inputs)


def kept_by(method: str) -> dict[str, set[int]]:
    """The half of the units that stays of every group that the method applies to."""
    task = tiny_task()
    graph = autoprune.trace(task.model, task.example_inputs)
    space = replace(load_space("default"), methods=tuple(dict.fromkeys([method, "l1"])))  # one of them always applies
    choices = space.choices(graph, 1)
    cuts = {n: Cut(graph.groups[n].size // 2, method) for n, c in choices.items() if method in c.methods}
    plan = Pipeline(task, graph, space).prune(Plan(cuts, graph.fingerprint)).plan
    return {name: set(cut.kept or ()) for name, cut in plan.cuts.items()}


@pytest.mark.parametrize(("method", "halves"), [("norm_scale", {"stem": 8}), ("taylor", {"stem": 8, "inner": 12})])
def test_kept_by(method: str, halves: dict[str, int]) -> None:
    assert {n: len(k) for n, k in kept_by(method).items()} == halves


@needs_gpu
@pytest.mark.slow
@pytest.mark.parametrize("method", method_names())
def test_every_method_chooses_there_what_it_chooses_here(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there = kept_by(method)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    here = kept_by(method)
    same = sum(len(here[n] & there[n]) for n in here) / sum(len(k) for k in here.values())
    assert same >= 0.9  # sums in another order decide between units that are nearly equal


@needs_gpu
@pytest.mark.slow
@pytest.mark.parametrize("method", ["magnitude", "wanda", "obs", "obd", "movement"])
def test_masks_are_set_while_training_there(method: str) -> None:
    task = tiny_task()
    graph = autoprune.trace(task.model, task.example_inputs)
    model = graph.dense()
    data = [Example(x, y, None) for x, y in batches(4, 1)]
    masks = sparsify(model, graph, task, data, Recipe(0.5, method=method, skip_unfit=True), FineTune(steps=8))
    masks.make_permanent()
    assert any((t == 0).float().mean() > 0.4 for t in model.tensors().values())
    assert device_of(model).type == "cpu"


@needs_gpu
@pytest.mark.slow
def test_a_search_of_a_model_that_lies_on_the_gpu(tmp_path: Path) -> None:
    task = tiny_task()
    task.model.cuda()
    front = autoprune.search(task, "rpi4", "0.8x", trials=5, steps=4, run=str(tmp_path / "run"))
    assert {c.status for c in front.candidates} == {"ok"}
    assert device_of(task.model).type == "cuda"


@pytest.mark.skipif("CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="no onnxruntime-gpu")
@needs_gpu
@pytest.mark.slow
def test_latency_on_the_gpu_with_its_nodes() -> None:
    graph = autoprune.trace(trained(), torch.zeros(1, 1, 8, 8))
    with Measurer(load_device("cuda")) as measurer:
        found = measurer.measure(export_onnx(graph.dense(), graph.example_inputs), profile_runs=3)
    assert found.latency.source == "measured"
    assert found.latency.ms > 0
    assert found.nodes
