"""`autoprune dynamic` from a model and data in a file to ONNX that skips blocks."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

from autoprune.cli.main import run
from autoprune.devices.measure import Measurer

SOURCE = '''
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Linear(4, 64), nn.Linear(64, 64), nn.Linear(64, 64)
        self.head = nn.Linear(64, 40)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = x + torch.relu(self.a(x))
        x = x + torch.relu(self.b(x))
        return self.head(x)[:, :3]

def make():
    torch.manual_seed(0)
    return Net()

def loaders():
    torch.manual_seed(1)
    batches = [(x, x[:, :3].argmax(1)) for x in torch.randn(4, 16, 4)]
    return batches, batches[:2], batches[2:]
'''


@pytest.fixture
def spec(tmp_path: Path) -> list[str]:
    (tmp_path / "nets.py").write_text(SOURCE)
    return ["--model", f"{tmp_path}/nets.py:make", "--data", f"{tmp_path}/nets.py:loaders"]


def test_from_task_to_onnx(spec: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
                           monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(latency=SimpleNamespace(ms=1.0), reference=SimpleNamespace(ms=2.0))
    monkeypatch.setattr(Measurer, "hello", lambda self: None)
    monkeypatch.setattr(Measurer, "measure", lambda self, onnx_bytes, **how: found)
    file = tmp_path / "out.onnx"
    arguments = ["dynamic", *spec, "--target", "0.7", "--steps", "20", "--output", str(file)]
    assert run([*arguments, "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["latency"]["inputs"] == told["score"]["n"] == 32
    assert told["latency"]["ratio"] == 0.5
    assert list(told["opened"]) == ["a", "b"]
    assert [n.op_type for n in onnx.load(file).graph.node].count("If") == 2


@pytest.mark.parametrize(("more", "code", "word"), [
    (["--target", "1.5"], 2, "out of range"), (["--target", "0.01"], 2, "does not reach the target"),
    (["--device", "rpi4"], 2, "cannot be measured"), (["--output", "/nowhere/x.onnx"], 2, "does not exist")])
def test_bad_input_is_refused_before_training(spec: list[str], more: list[str], code: int, word: str,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dynamic", *spec, *more]) == code
    assert word in capsys.readouterr().err
