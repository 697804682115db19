"""Every command, in one process: what it prints where, and its exit code."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autoprune import __version__
from autoprune.cli.main import run

pytestmark = pytest.mark.system

COMMANDS = [["search"], ["front"], ["pick"], ["report"], ["layers"], ["profile"], ["mask"], ["ticket"], ["dynamic"],
            ["devices", "list"], ["devices", "show"], ["devices", "new"], ["spaces", "list"], ["spaces", "show"],
            ["methods", "list"], ["methods", "show"], ["doctor"]]

MAIN = "from autoprune.cli.main import main; main()"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--help"]) == 0
    out = capsys.readouterr().out
    assert "Usage: autoprune " + " ".join(command) in out
    examples = [line for line in out.splitlines()[1:] if line.strip().startswith("autoprune " + " ".join(command))]
    assert examples


@pytest.mark.parametrize("group", [[], ["devices"], ["spaces"], ["methods"]], ids=" ".join)
def test_help_of_groups(group: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*group, "--help"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^\s*autoprune \w", text.partition("\n")[2], re.M)
    if not group:
        for command in {c[0] for c in COMMANDS}:
            assert command in text
        assert "Exit codes" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"autoprune {__version__}"


def test_help_and_lists_do_not_import_torch() -> None:
    code = ("import sys\nfrom autoprune.cli.main import run\n"
            "for a in (['--help'], ['search', '--help'], ['devices', 'list']):\n    assert run(a) == 0\n"
            "assert not {'torch', 'optuna', 'onnxruntime', 'onnx'} & set(sys.modules), 'imported'\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def json_of(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int = 0) -> Any:
    assert run([*arguments, "--format", "json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("arguments", [["devices", "list"], ["spaces", "list"], ["methods", "list"]], ids=" ".join)
def test_lists_in_every_format(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = json_of(capsys, arguments)
    assert len(found) >= 3
    assert run([*arguments, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == len(found)
    assert run(arguments) == 0
    table = capsys.readouterr().out
    assert len(table.splitlines()) >= len(found) + 1


@pytest.mark.parametrize(("arguments", "word"), [
    (["devices", "show", "raspberrypi"], "rpi4"), (["devices", "show", "cpu"], "measured-local"),
    (["spaces", "show", "default"], "min_keep"), (["methods", "show", "taylor"], "Molchanov"),
    (["methods", "show", "hap"], "hessian"),
    (["methods", "show", "wanda"], "2306.11695"), (["methods", "show", "snip", "--weights"], "changes no ranking")])
def test_show_as_text_and_json(arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert word in json.dumps(json_of(capsys, arguments))
    assert run(arguments) == 0
    assert word in capsys.readouterr().out


def test_spaces_show_prints_a_space_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from autoprune.search.space import load_space

    assert run(["spaces", "show", "default"]) == 0
    path = tmp_path / "mine.toml"
    path.write_text(capsys.readouterr().out, encoding="utf-8")
    assert load_space(path).to_json() == {**load_space("default").to_json(), "name": "mine"}
    assert run(["spaces", "show", str(path)]) == 0
    assert capsys.readouterr().out == path.read_text(encoding="utf-8")


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    found = json_of(capsys, ["doctor", "--device", "rpi4"])
    assert {"what", "value", "verdict"} == set(found["checks"][0])
    assert found["noise"] is None


def test_doctor_says_when_the_machine_is_noisy(capsys: pytest.CaptureFixture[str],
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    noise = {"medians_ms": [1.0, 2.0], "spread": 1.0, "verdict": "noisy", "quiet": False}
    monkeypatch.setattr("autoprune.devices.doctor.noise_test", lambda device: noise)
    assert json_of(capsys, ["doctor"], code=4)["noise"] == noise
    noise["quiet"] = True
    assert run(["doctor"]) == 0


def test_front(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = json_of(capsys, ["front", str(finished.run)])
    assert found == json.loads((finished.run / "front.json").read_text(encoding="utf-8"))
    assert run(["front", str(finished.run), "--format", "csv"]) == 0
    captured = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(captured.out)))
    assert [int(r["trial"]) for r in rows] == [p.number for p in finished.front.points]
    assert "dense:" in captured.err
    assert run(["front", str(finished.run)]) == 0
    assert "recommended" in capsys.readouterr().out


def test_report(finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "r.html"
    assert run(["report", str(finished.run), "--output", str(target)]) == 0
    assert capsys.readouterr().out.strip() == str(target)
    assert "<html" in target.read_text(encoding="utf-8")[:500]


def test_layers(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["layers", "--model", f"{finished.user_file}:make", "--input", "1x1x8x8"]
    found = json_of(capsys, arguments)
    assert {g["name"] for g in found["groups"]} == set(finished.front.groups)
    assert all(0 < g["macs_saved"] < 1 for g in found["groups"])
    assert found["frozen"]
    assert run([*arguments, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == len(found["groups"])


def test_search_again_resumes_and_prints_json(finished: Any, capsys: pytest.CaptureFixture[str],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command on a finished run evaluates nothing, and writes the same front again. What the user's code
    prints is not in between.
    """
    from autoprune.tasks.task import Task

    def evaluate(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished search evaluates nothing")
    monkeypatch.setattr(Task, "evaluate", evaluate)
    monkeypatch.setattr(Task, "check", lambda _: sys.stdout.write("hello\n"))
    found = json_of(capsys, finished.arguments)
    before = finished.front.to_json()
    assert {k: v for k, v in found.items() if k != "seconds"} == {k: v for k, v in before.items() if k != "seconds"}


def test_search_ends_with_three_lines(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from autoprune.cli.search import _close

    _close(finished.front, interrupted=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert re.match(r"recommended: trial \d+, .* ms \(profile, expect .*\), .*faster than dense", lines[0])
    assert "model.onnx" in lines[1]
    assert lines[2].startswith("next:  autoprune pick ")
    _close(finished.front, interrupted=True)
    assert "interrupted, the same command resumes" in capsys.readouterr().out


def test_pick_writes_the_files(finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json_of(capsys, ["pick", str(finished.run), "--max-drop", "100pp", "--output", str(tmp_path / "out")])
    fastest = finished.front.points[0]
    assert found["candidate"]["number"] == fastest.number
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"model.onnx", "model.pt2", "weights.safetensors",
                                                               "plan.json", "graph.json", "card.md"}


def test_pick_with_a_longer_fine_tune(finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    import autoprune

    number = str(finished.front.recommended)
    assert run(["pick", str(finished.run), "--trial", number, "--finetune", "--steps", "3", "--output",
                str(tmp_path)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in out] == ["picked", "files", "next"]
    old, new = autoprune.load(finished.run, trial=int(number)), autoprune.load(tmp_path)
    assert old.plan == new.plan
    assert any(not torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True))


def test_a_fine_tuned_point_has_a_folder_of_its_own(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """What the search, or a plain pick, writes later does not take its place."""
    arguments = ["pick", str(finished.run), "--trial", str(finished.front.recommended)]
    folders = [json_of(capsys, [*arguments, *more])["folder"] for more in ([], ["--finetune", "--steps", "1"])]
    assert folders[1] == f"{folders[0]}-finetuned"


def test_pick_fine_tunes_on_the_data_of_the_search(finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprune.tasks.task import Task

    monkeypatch.setattr(Task, "fingerprint", lambda self: "another")
    arguments = ["pick", str(finished.run), "--trial", str(finished.front.recommended), "--output", str(tmp_path)]
    assert run([*arguments, "--finetune", "--steps", "1"]) == 2
    assert "not what the search had" in capsys.readouterr().err
    assert run(arguments) == 0


def test_pick_fine_tunes_as_the_search_recovers(finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoprune.search.configuration.recovery_digest", lambda _: "another")
    arguments = ["pick", str(finished.run), "--trial", str(finished.front.recommended), "--output", str(tmp_path)]
    assert run([*arguments, "--finetune", "--steps", "1"]) == 2
    assert "space file is not what the search had" in capsys.readouterr().err


def test_the_front_is_written_before_anything_is_tuned(finished: Any, memory_path: Path, quick_export: None,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    shutil.copytree(finished.run, memory_path / "run")
    (memory_path / "run" / "front.json").unlink()
    monkeypatch.setattr("autoprune.search.finish.tune", interrupt)
    assert run([*finished.arguments[:-1], str(memory_path / "run")]) == 130
    front = json.loads((memory_path / "run" / "front.json").read_text(encoding="utf-8"))
    assert len(front["candidates"]) == len(finished.front.candidates)
    assert front["recommended"] is not None


def test_the_first_ctrl_c_prints_the_front_and_exits_130(finished: Any, memory_path: Path, quick_export: None,
                                                          capsys: pytest.CaptureFixture[str],
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprune.search.pipeline import Pipeline

    calls = 0
    original = Pipeline.recover

    def recover(self: Pipeline, *arguments: Any, **values: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        original(self, *arguments, **values)
    monkeypatch.setattr(Pipeline, "recover", recover)
    arguments = [*finished.arguments[:-1], str(memory_path / "run"), "--workers", "0"]
    assert run(arguments) == 130
    captured = capsys.readouterr()
    assert "the same command resumes" in captured.out + captured.err
    front = json.loads((memory_path / "run" / "front.json").read_text(encoding="utf-8"))
    assert len(front["candidates"]) == 3
    assert all(c["test"] is None for c in front["candidates"])  # the test split waits for the end
    assert (memory_path / "run" / "report.html").is_file()
    assert run(["front", str(memory_path / "run")]) == 0


@pytest.mark.slow
def test_a_signal_interrupts_a_real_search(finished: Any, memory_path: Path) -> None:
    import signal
    import time

    arguments = [*finished.arguments[:-1], str(memory_path / "run")]
    arguments[arguments.index("--trials") + 1] = "500"
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    for wanted in (signal.SIGINT, signal.SIGTERM):
        with subprocess.Popen([sys.executable, "-c", MAIN, *arguments], stdout=subprocess.PIPE, text=True,
                              stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if "trial" in line:
                    break
            time.sleep(0.5)
            process.send_signal(wanted)
            out, err = process.communicate(timeout=60)
            assert process.returncode == 130, out + err
            assert "Traceback" not in err
