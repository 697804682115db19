"""`autoprune mask` and `autoprune ticket`: what they print and write, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import autoprune
from autoprune.cli.main import run
from autoprune.methods.masks.size import load_sparse
from autoprune.recover import ticket

from .conftest import Fails

pytestmark = pytest.mark.system

FILES = {"model.onnx", "model.pt2", "weights.safetensors", "weights.sparse.zip", "plan.json", "graph.json",
         "report.json"}


@pytest.fixture
def given(user_file: Path) -> list[str]:
    return ["--model", f"{user_file}:make", "--data", f"{user_file}:loaders"]


def test_mask_writes_a_model_with_zeros_and_says_what_they_are_for(
        given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    assert run(["mask", *given, "--sparsity", "0.9", "--steps", "2", "--output", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "masks do not change the latency on cpu" in out
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert {f.name for f in folder.iterdir()} == FILES
    model = autoprune.load(folder)
    counts = {n: int(p.count_nonzero()) for n, p in model.named_parameters()}
    assert report["nonzeros"] == sum(counts.values())
    assert {n: k for n, (k, _) in report["layers"].items()} == {n: counts[n] for n in report["layers"]}
    assert sum(k for k, _ in report["layers"].values()) == sum(round(0.1 * of) for _, of in report["layers"].values())
    assert report["size_bytes"]["sparse_zip"] == (folder / "weights.sparse.zip").stat().st_size
    assert report["size_bytes"]["sparse_zip"] < report["size_bytes"]["onnx_zip"] < report["size_bytes"]["onnx"]
    sparse = load_sparse(folder / "weights.sparse.zip")
    assert all(torch.equal(t, sparse[n]) for n, t in model.tensors().items())
    assert f"{report['nonzeros']:,} of {report['params']:,}" in out


def test_a_pruned_model_is_masked_with_a_pattern_that_its_device_knows(
        finished: Any, given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    number = f"{finished.front.recommended:04d}"
    device = tmp_path / "board.toml"
    device.write_text('schema = 1\nname = "board"\nkind = "measured-local"\ndescription = "mine"\nsparsity = ["1:2"]\n'
                      '[runtime]\nname = "onnxruntime"\nprovider = "CPUExecutionProvider"\nprecision = "fp32"\n',
                      encoding="utf-8")
    picked = finished.run / "picked" / number
    assert run(["mask", *given, "--pruned", str(picked), "--pattern", "1:2", "--skip", "stem.weight", "--steps", "0",
                "--device", str(device), "--output", str(tmp_path / "out"), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "computes 1:2 weights faster" in found["speed"]
    assert found["dense"] == ["stem.weight"]
    assert all(2 * kept == of for kept, of in found["layers"].values())
    assert autoprune.load(tmp_path / "out").get_parameter("inner.weight").shape == (
        autoprune.load(picked).get_parameter("inner.weight").shape)


def test_ticket_prints_the_comparison_and_goes_on_after_ctrl_c(
        given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["ticket", *given, "--sparsity", "0.8", "--cycles", "2", "--steps", "2", "--early", "1", "--run",
               str(tmp_path / "t")]
    real, calls = ticket.finetune, []

    def interrupted(*arguments: Any) -> float:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(ticket, "finetune", interrupted)
    assert run(command) == 130
    assert "the same command resumes" in capsys.readouterr().err
    assert run([*command, "--format", "json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert len(calls) == 3 + 4
    assert list(table) == ["dense", "ticket", "random mask", "random weights"]
    assert table == json.loads((tmp_path / "t" / "table.json").read_text(encoding="utf-8"))
    assert table["ticket"]["nonzeros"] < table["dense"]["nonzeros"] / 3
    assert run(command) == 0
    assert "random mask" in capsys.readouterr().out
    assert len(calls) == 7
    assert run([*command, "--seed", "3"]) == 2
    assert "other settings" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "words"), [
    ([], ("share of the weights that goes", "--sparsity 0.9")), (["--sparsity", "1.5"], ("0 ≤ sparsity < 1",)),
    (["--pattern", "4:2"], ("unknown pattern",)), (["--sparsity", "0.6", "--pattern", "2:4"], ("says itself",)),
    (["--pattern", "2:4"], ("does not fit 1 of 4 weights", "--skip stem.weight")),
    (["--sparsity", "0.5", "--method", "wander"], ("did you mean 'wanda'?",)),
    (["--sparsity", "0.5", "--schedule", "cubic"], ("unknown schedule",)),
    (["--sparsity", "0.5", "--schedule", "gradual", "--steps", "3"], ("never reaches its target",)),
    (["--sparsity", "0.5", "--scope", "all"], ("unknown scope",)),
    (["--sparsity", "0.5", "--start", "rewind"], ("--early early.safetensors",)),
    (["--sparsity", "0.5", "--start", "rewind", "--early", "nowhere.safetensors"], ("does not exist",)),
    (["--sparsity", "0.5", "--skip", "stem"], ("no weight has the name to skip", "stem.weight")),
    (["--sparsity", "0.5", "--device", "nowhere"], ("unknown device",))], ids=" ".join)
def test_bad_masks_train_nothing(fails: Fails, given: list[str], tmp_path: Path,
                                 options: list[str], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprune.recover import sparsify

    monkeypatch.setattr(sparsify, "finetune", lambda *_, **__: pytest.fail("trained"))
    fails(["mask", *given, *options, "--output", str(tmp_path / "out")], 2, *words, lines=())
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_trains_nothing(fails: Fails, given: list[str], tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprune.recover import sparsify

    monkeypatch.setattr(sparsify, "finetune", lambda *_, **__: pytest.fail("trained"))
    (tmp_path / "file").touch()
    fails(["mask", *given, "--sparsity", "0.5", "--output", str(tmp_path / "file")], 2, "cannot be written", lines=())
