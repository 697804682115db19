"""`autoprune profile`: one model or two, per node or by operator."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autoprune.cli.main import run

Capture = pytest.CaptureFixture[str]
Write = Callable[[int], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a model of two products and a softmax, of the width that is asked for, and returns its path."""
    def make(width: int) -> str:
        weights = [numpy_helper.from_array(np.ones(shape, np.float32), name)
                   for name, shape in (("w", (64, width)), ("v", (width, 8)))]
        nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
                 helper.make_node("MatMul", ["h", "v"], ["l"], name="second"),
                 helper.make_node("Softmax", ["l"], ["y"], name="probabilities")]
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [4, 64]), ("y", [4, 8]))]
        graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
        path = tmp_path / f"{width}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
        return str(path)
    return make


def told(capsys: Capture, *arguments: str) -> Any:
    assert run(["profile", *arguments, "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_predicted_node_by_node(write: Write, capsys: Capture) -> None:
    found = told(capsys, "--model", write(512), "--device", "raspberrypi")
    assert (found["latency"]["source"], found["latency"]["device"]) == ("profile", "rpi4")
    assert [n["node"] for n in found["nodes"]] == ["first", "second", "probabilities"]
    assert found["nodes"][0]["macs"] == 4 * 64 * 512
    assert sum(n["share"] for n in found["nodes"]) == pytest.approx(1)
    assert sum(n["ms"] for n in found["nodes"]) == pytest.approx(found["latency"]["ms"], rel=0.05)


def test_measured_node_by_node(write: Write, capsys: Capture) -> None:
    found = told(capsys, "--model", write(512), "--device", "cpu", "--threads", "1")
    assert (found["latency"]["source"], found["latency"]["threads"]) == ("measured", 1)
    assert [(n["node"], n["macs"]) for n in found["nodes"]][:2] == [("first", 4 * 64 * 512), ("second", 4 * 512 * 8)]


def test_a_model_of_the_users(user_file: Path, capsys: Capture) -> None:
    found = told(capsys, "--model", f"{user_file}:make", "--input", "1x1x8x8", "--device", "rpi5")
    assert len(found["nodes"]) > 1


def test_by_operator_and_the_slowest_first(write: Write, capsys: Capture) -> None:
    found = told(capsys, "--model", write(512), "--device", "rpi4", "--by", "operator")
    assert [(o["operator"], o["count"]) for o in found["operators"]] == [("MatMul", 2), ("Softmax", 1)]
    assert len(told(capsys, "--model", write(512), "--device", "rpi4", "--by", "operator", "--top", "1")["operators"]) \
        == 1
    times = [n["ms"] for n in told(capsys, "--model", write(8), "--device", "rpi4", "--top", "2")["nodes"]]
    assert len(times) == 2
    assert times == sorted(times, reverse=True)


def test_tables(write: Write, capsys: Capture) -> None:
    arguments = ["profile", "--model", write(64), "--device", "rpi5"]
    assert run([*arguments, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(rows[0]) == ["node", "operator", "MACs", "ms", "share"]
    assert run(arguments) == 0
    assert "ms (profile, expect" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.slow), "rpi4"])
def test_two_models(write: Write, capsys: Capture, device: str) -> None:
    found = told(capsys, "--model", write(8), "--compare", write(512), "--device", device, "--threads", "1")
    assert found["ratio"] == pytest.approx(found["latency"]["ms"] / found["reference"]["ms"])
    assert found["lo"] <= found["ratio"] <= found["hi"]
    matmul = next(o for o in found["operators"] if o["operator"] == "MatMul")
    assert (matmul["count"], matmul["reference_count"]) == (2, 2)


def test_two_models_as_a_table(write: Write, capsys: Capture) -> None:
    assert run(["profile", "--model", write(8), "--compare", write(512), "--device", "rpi4"]) == 0
    captured = capsys.readouterr()
    assert [line.split(":")[0] for line in captured.out.splitlines()[-3:]] == ["model", "reference", "ratio"]
    assert "the ratio is predicted" in captured.err
    assert run(["profile", "--model", write(8), "--compare", write(512), "--by", "node"]) == 2
    assert "--by operator" in capsys.readouterr().err


def test_sizes_of_an_onnx_file(write: Write, capsys: Capture) -> None:
    path = write(64)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, path)
    one, eight = (told(capsys, "--model", path, "--device", "rpi4", "--input", f"{n}x64")["nodes"][0] for n in (1, 8))
    assert eight["macs"] == 8 * one["macs"]
    for wrong in (["--input", "8x32"], ["--data", "sklearn:digits"]):
        assert run(["profile", "--model", path, "--device", "rpi4", *wrong]) == 2
