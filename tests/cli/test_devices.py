"""`autoprune devices`: files that a user writes, by hand or by `new`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoprune import resources
from autoprune.cli.main import run
from autoprune.devices.device import Device, load_device

Capture = pytest.CaptureFixture[str]


def test_new_writes_a_file_that_every_command_takes(tmp_path: Path, capsys: Capture,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["devices", "new", "mine", "--like", "rpi4", "--clock-ghz", "1.5", "--threads", "2"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "mine.toml\n"
    assert "autoprune profile --device mine.toml" in captured.err
    assert run(["devices", "show", "mine.toml", "--format", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["profile"]["clock_ghz"], shown["threads"]) == (1.5, 2)
    assert shown["facts"]["clock_ghz"]["source"] == "given on the command line"


@pytest.mark.parametrize(("arguments", "words"), [
    (["mine", "--like", "rpi44"], "did you mean 'rpi4'?"), (["mine"], "--like"),
    (["mine", "--like", "cpu"], "is measured"), (["rpi4", "--like", "rpi5"], "ships with autoprune"),
    (["mine", "--like", "rpi4", "--clock-ghz", "0"], "clock_ghz is out of range"),
    (["mine", "--like", "rpi4", "--cores", "2", "--threads", "4"], "more threads than cores"),
    (["a/b", "--like", "rpi4"], "not a device name")])
def test_new_refuses(arguments: list[str], words: str, tmp_path: Path, capsys: Capture,
                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["devices", "new", *arguments]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "fix: " in err
    assert list(tmp_path.iterdir()) == []


def test_new_does_not_overwrite(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["devices", "new", "mine", "--like", "rpi4"]
    assert run(command) == 0
    assert run(command) == 2
    assert "--force" in capsys.readouterr().err
    assert run([*command, "--force"]) == 0


@pytest.mark.parametrize("command", [["devices", "show"], ["profile", "--device"], ["doctor", "--device"]],
                         ids=" ".join)
def test_a_broken_device_file_lists_every_problem_with_its_line(command: list[str], tmp_path: Path,
                                                                capsys: Capture) -> None:
    lines = (resources.folder("devices") / "rpi4.toml").read_text(encoding="utf-8").splitlines()
    wrong = {"kind": 'kind = "profil"', "cores": 'cores = "four"', "clock_ghz": "clock_gz = 1.8",
             "lo_ratio": "lo_ratio = 1.2"}
    numbers = {}
    for number, line in enumerate(lines, 1):
        key = line.partition(" =")[0]
        if key in wrong and key not in numbers:  # the profile's; facts come later
            lines[number - 1], numbers[key] = wrong[key], number
    path = tmp_path / "broken.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    assert run([*command, str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    for words in (f"line {numbers['kind']}: kind is 'profil'; did you mean 'profile'?",
                  f"line {numbers['cores']}: profile.cores must be a whole number, not 'four'",
                  f"line {numbers['clock_ghz']}: unknown key profile.clock_gz; did you mean 'clock_ghz'?",
                  "profile.clock_ghz is missing",
                  f"line {numbers['lo_ratio']}: error needs lo_ratio <= 1 <= hi_ratio", "5 problem(s)"):
        assert words in captured.err


def test_files_that_are_no_device_files(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "x.toml"
    for text, words in (("name = ", "is not TOML"), ("", "name is missing")):
        path.write_text(text)
        assert run(["devices", "show", str(path)]) == 2
        assert words in capsys.readouterr().err
    assert run(["devices", "show", str(tmp_path / "nowhere.toml")]) == 2


def test_list_tells_where_latencies_come_from(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [load_device("cpu"), load_device("rpi4"), replace(load_device("rpi5"), kind="calibrated", name="mine")]
    monkeypatch.setattr("autoprune.devices.device.list_devices", lambda: found)
    assert run(["devices", "list", "--format", "csv"]) == 0
    rows = [line.split(",") for line in capsys.readouterr().out.splitlines()]
    assert [(row[0], row[1]) for row in rows] == [("device", "source"), ("cpu", "measured"), ("rpi4", "profile"),
                                                  ("mine", "calibrated")]


def test_calibrate_explains_itself(capsys: Capture) -> None:
    assert run(["devices", "calibrate", "--help"]) == 0
    out = capsys.readouterr().out
    for words in ("--name", "--threads", "--minutes", "--model", "--output", "autoprune devices calibrate cpu"):
        assert words in out


@pytest.mark.parametrize(("arguments", "words"), [
    (["nowhere", "--name", "mine"], "unknown device"), (["rpi4", "--name", "mine"], "cannot be measured"),
    (["cpu", "--name", "a b"], "not a device name"), (["cpu", "--name", "../a"], "not a device name"),
    (["cpu"], "--name"),
    (["cpu", "--name", "mine", "--minutes", "0"], "between 0.1 and 600 minutes"),
    (["cpu", "--name", "mine", "--minutes", "nan"], "between 0.1 and 600 minutes"),
    (["cpu", "--name", "mine", "--threads", "0"], "--threads"),
    (["cpu", "--name", "mine", "--threads", "100000"], "more threads than usable cores"),
    (["ssh://", "--name", "mine"], "address"), (["cpu", "--name", "mine", "--model", "no.onnx"], "not an ONNX file")])
def test_calibrate_refuses(arguments: list[str], words: str, tmp_path: Path, capsys: Capture,
                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["devices", "calibrate", *arguments]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_calibrate_times_pruned_variants_of_a_model(tmp_path: Path, capsys: Capture,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprune.devices.nodes import read_nodes

    given: dict[str, Any] = {}

    def calibrate(device: Device, name: str, folder: str, **options: Any) -> Device:
        given.update(options)
        return device

    monkeypatch.setattr("autoprune.devices.calibration.calibrate.calibrate", calibrate)
    monkeypatch.chdir(tmp_path)
    layers = "nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 4, 1)"
    (tmp_path / "nets.py").write_text(f"from torch import nn\n\ndef make():\n    return nn.Sequential({layers})\n")
    command = ["devices", "calibrate", "cpu", "--name", "mine", "--model", "nets.py:make"]
    assert run(command) == 2
    assert "needs example inputs" in capsys.readouterr().err
    assert run([*command, "--input", "1x3x16x16"]) == 0
    assert capsys.readouterr().out == "./mine.toml\n"
    widths = {tuple(n.out_shapes[0][1] for n in read_nodes(model) if n.macs) for model in given["models"]}
    assert (64, 64, 4) in widths
    assert len(widths) > 5
    assert all(w % 4 == 0 for _, *rest in widths for w in rest)
