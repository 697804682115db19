from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from tiny import tiny_task, trained

import autoprune
from autoprune.errors import ConfigError, ModelError
from autoprune.front.export import _check_sizes, export_model, export_point
from autoprune.front.front import Point
from autoprune.graph.onnx import export_onnx
from autoprune.graph.onnx_maker import OnnxMaker
from autoprune.graph.plan import Plan

FILES = {"model.onnx", "model.pt2", "weights.safetensors", "plan.json", "graph.json"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    task = tiny_task()
    graph = autoprune.trace(task.model, task.example_inputs)
    model = graph.cut(Plan.uniform(graph, 0.5))
    folder = tmp_path_factory.mktemp("export") / "new" / "folder"
    facts = export_model(model, task.example_inputs, folder)
    return SimpleNamespace(model=model, graph=graph, folder=folder, facts=facts, inputs=task.example_inputs)


def rows(count: int) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(count))


def test_everything_is_written(exported: Any) -> None:
    assert {f.name for f in exported.folder.iterdir()} == FILES
    assert set(exported.facts["files"]) == FILES
    assert all(size > 0 for size in exported.facts["files"].values())
    assert exported.facts["onnx_difference"] <= 1e-4
    for name in ("plan.json", "graph.json"):
        json.loads((exported.folder / name).read_text(encoding="utf-8"))
    for name in FILES:
        assert b"pickle" not in (exported.folder / name).read_bytes()[:64]


@pytest.mark.parametrize("batch", [1, 3])
def test_the_onnx_agrees_with_torch(exported: Any, batch: int) -> None:
    onnx.checker.check_model(str(exported.folder / "model.onnx"))
    session = ort.InferenceSession(exported.folder / "model.onnx", providers=["CPUExecutionProvider"])
    x = rows(batch)
    got = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    with torch.no_grad():
        expected = exported.model(x).numpy()
    assert got.shape == (batch, 4)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_pt2_agrees_with_torch(exported: Any, batch: int) -> None:
    loaded = torch.export.load(exported.folder / "model.pt2").module()
    x = rows(batch)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), exported.model(x))


def test_load_gives_the_same_model(exported: Any) -> None:
    loaded = autoprune.load(exported.folder)
    x = rows(2)
    with torch.no_grad():
        assert torch.equal(loaded(x), exported.model(x))
    assert not loaded.training
    assert loaded.plan == exported.model.plan
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), exported.model.state_dict().values(),
                                                 strict=True))


def test_the_sizes_in_the_onnx_are_the_pruned_ones(exported: Any) -> None:
    proto = onnx.load(exported.folder / "model.onnx")
    shapes = sorted(tuple(i.dims) for i in proto.graph.initializer if len(i.dims) == 4)
    own = sorted(tuple(p.shape) for p in exported.model.parameters() if p.dim() == 4)
    assert shapes == own
    assert {s[0] for s in shapes} == {8, 12}


class Masked(torch.nn.Module):
    """Attention whose mask is made in `forward`: the exporter makes a constant of it, larger than the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.out = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = torch.full((x.shape[1], x.shape[1]), -1e9).triu(1)
        scores = self.q(x) @ x.transpose(1, 2) + mask
        out: torch.Tensor = self.out(scores.softmax(-1) @ x)
        return out


def test_a_mask_that_the_export_folds_is_no_weight() -> None:
    model, x = Masked().eval(), torch.randn(2, 96, 4)
    folded = export_onnx(model, x)
    assert max(int(np.prod(i.dims)) for i in onnx.load_from_string(folded).graph.initializer) == 96 * 96
    _check_sizes(folded, model)


class Repeated(torch.nn.Module):
    """One layer four times: an optimiser computes its transpose for each."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.shared, self.o = torch.nn.Linear(10, 128), torch.nn.Linear(128, 128), torch.nn.Linear(128, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        for _ in range(4):
            x = torch.relu(self.shared(x))
        out: torch.Tensor = self.o(x.mean(1))
        return out


def test_a_layer_that_repeats_is_in_the_file_once(tmp_path: Path) -> None:
    graph = autoprune.trace(Repeated(), torch.randn(1, 4, 10))
    model = graph.cut(Plan.uniform(graph, 0.5))
    for name, content in (("exported", None), ("sliced", OnnxMaker(graph).optimized(model))):
        export_model(model, graph.example_inputs, tmp_path / name, onnx=content)
        held = [list(i.dims) for i in onnx.load(tmp_path / name / "model.onnx").graph.initializer]
        assert held.count([64, 64]) == 1


def test_a_dense_export_of_a_pruned_model_is_refused(exported: Any, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprune.front import export

    dense = export_onnx(trained(), exported.inputs)
    # the whole tiny net is within the tolerance of the check (4096 elements): something far smaller stands for it
    small = torch.nn.Linear(2, 2)
    with pytest.raises(ModelError, match="larger than the pruned model") as caught:
        _check_sizes(dense, small)
    assert caught.value.exit_code == 5
    _check_sizes((exported.folder / "model.onnx").read_bytes(), exported.model)
    monkeypatch.setattr(export, "export_onnx", lambda *_: dense)
    with pytest.raises(ModelError):
        export_model(exported.model, exported.inputs, tmp_path / "x")
    assert not (tmp_path / "x" / "model.onnx").exists()


def test_the_int8_model_lies_beside_the_one_in_fp32(exported: Any, finished: Any, tmp_path: Path) -> None:
    found = finished.front.pick(trial=finished.front.recommended)
    candidate = replace(found.candidate, plan=replace(found.candidate.plan, precision="int8"))
    point = Point(candidate, found.run)
    facts = export_point(finished.front, point, exported.model, exported.inputs, tmp_path, b"int8")
    assert (tmp_path / "model_int8.onnx").read_bytes() == b"int8"
    assert set(facts["files"]) == FILES | {"model_int8.onnx"}
    card = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert "| precision | int8 | fp32 |" in card
    assert "Measure `model_int8.onnx`" in card


def test_a_folder_that_cannot_be_written(exported: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written") as caught:
        export_model(exported.model, exported.inputs, tmp_path / "file" / "x")
    assert "--output" in str(caught.value)


def test_the_card_says_what_it_is(finished: Any) -> None:
    number = finished.front.recommended
    folder = finished.run / "picked" / f"{number:04d}"
    assert {f.name for f in folder.iterdir()} == FILES | {"card.md"}
    card = (folder / "card.md").read_text(encoding="utf-8")
    assert f"trial {number}" in card
    assert "prediction from a device profile" in card
    assert "test split" in card
    for name, size in finished.front.groups.items():
        assert f"| {name} | {size} |" in card


def test_the_exported_point_is_the_picked_one(finished: Any, tmp_path: Path) -> None:
    point = finished.front.pick(trial=finished.front.recommended)
    export_point(finished.front, point, point.load(), tiny_task().example_inputs, tmp_path)
    loaded = autoprune.load(tmp_path)
    x = rows(3)
    with torch.no_grad():
        assert torch.equal(loaded(x), point.load()(x))
        assert torch.equal(loaded(x), autoprune.load(finished.run, trial=point.number)(x))
