"""Everything a user gets wrong: one clear error each, and the exit code of `product.md`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autoprune.cli.main import run

from .conftest import Fails

pytestmark = pytest.mark.system


@pytest.fixture
def nets(user_file: Path) -> str:
    return str(user_file)


def search(nets: str, tmp_path: Path, *more: str, model: str = "make", data: str = "loaders") -> list[str]:
    return ["search", "--model", f"{nets}:{model}", "--data", f"{nets}:{data}", "--device", "rpi4", "--run",
            str(tmp_path / "run"), "--steps", "1", "--trials", "2", *more]


ALL = ("given", "allowed", "fix")


# -- found before anything is loaded ----------------------------------------------------------------------------------

def test_unknown_device(fails: Fails, tmp_path: Path) -> None:
    for command in (["search"], ["profile"], ["doctor"]):
        fails([*command, "--device", "rasberrypi"], 2, "unknown device", "did you mean 'raspberrypi'?", lines=ALL)
    fails(["devices", "show", "rp4"], 2, "did you mean 'rpi4'?", "autoprune devices list", lines=ALL)


@pytest.mark.parametrize(("budget", "words"), [
    ("20", ("has no unit", "20ms", "20fps", "20x", "--budget 20ms")), ("20 parsecs", ("unknown unit", "fps")),
    ("abc", ("not a quantity",)), ("0ms", ("greater than 0",)), ("-5ms", ("not a quantity",)),
    ("20ms@p75", ("unknown percentile", "p90")), ("", ("not a quantity",)), ("1e999ms", ("finite",))])
def test_bad_budgets(fails: Fails, budget: str, words: tuple[str, ...]) -> None:
    fails(["search", "--budget", budget], 2, *words, lines=ALL)


@pytest.mark.parametrize(("option", "value", "words"), [
    ("--max-drop", "1", ("needs a unit", "1pp")), ("--max-drop", "1%", ("needs a unit",)),
    ("--timeout", "30", ("needs a unit",)), ("--timeout", "soon", ("not a quantity",)),
    ("--sampler", "tpo", ("did you mean 'tpe'?",)), ("--space", "gentel", ("unknown search space",)),
    ("--space", "nowhere.toml", ("does not exist",)), ("--config", "nowhere.toml", ("does not exist",)),
    ("--trials", "0", ("trials must be at least 1",)), ("--steps", "-1", ("steps must be at least 0",)),
    ("--seed", "-1", ("seed must be at least 0",)), ("--threads", "0", ("threads must be at least 1",)),
    ("--trials", "many", ("many",)), ("--format", "yaml", ("yaml",)), ("--format", "csv", ("csv",))])
def test_bad_options_of_search(fails: Fails, option: str, value: str, words: tuple[str, ...]) -> None:
    fails(["search", option, value], 2, *words, lines=("fix",))


@pytest.mark.parametrize(("arguments", "words"), [
    (["serach"], ("there is no command 'serach'", "did you mean 'search'?")),
    (["devices", "lst"], ("lst",)), (["search", "--budgt", "20ms"], ("--budgt", "--budget")),
    (["front"], ("Missing argument",)), (["pick", "x", "--trial", "one"], ("one",)),
    (["methods", "show", "tailor"], ("'taylor'",)),
    (["spaces", "show", "defualt"], ("'default'",)), (["front", "a", "b"], ("b",))])
def test_usage(fails: Fails, arguments: list[str], words: tuple[str, ...]) -> None:
    fails(arguments, 2, *words, lines=("fix",))


def test_unknown_method_in_a_space_file(fails: Fails, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('methods = ["l1", "tailor"]\nmin_keep = 3\n')
    fails(["search", "--space", str(path)], 2, "has 2 problem(s)", "line 1: unknown method 'tailor'; did you mean "
          "'taylor'?", "line 2: min_keep must be in (0, 1]", lines=("fix",))


def test_a_broken_configuration_file(fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "autoprune.toml").write_text('budgt = "20ms"\ntrials = "many"\nthreads = true\n')
    monkeypatch.chdir(tmp_path)
    fails(["search"], 2, "3 problem(s)", "did you mean 'budget'?", "trials must be a whole number", "threads",
          lines=("fix",))
    (tmp_path / "autoprune.toml").write_text("budget = \n")
    fails(["search"], 2, "not valid TOML", lines=("given",))
    (tmp_path / "autoprune.toml").write_bytes(b"\xff\xfe")
    fails(["search"], 2, "not valid TOML", lines=("given",))


def test_a_broken_environment_variable(fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOPRUNE_TRIALS", "ten")
    fails(["search"], 2, "AUTOPRUNE_TRIALS must be a whole number", "'ten'", lines=("given",))


# -- model and data ---------------------------------------------------------------------------------------------------

def test_a_model_factory_that_raises(fails: Fails, nets: str, tmp_path: Path) -> None:
    text = fails(search(nets, tmp_path, model="explodes"), 2, "the model factory raised", "IndexError",
                 "return layers[3]", "in explodes")
    assert f"{nets}:" in text
    assert not (tmp_path / "run").exists()


def test_a_model_that_cannot_be_exported(fails: Fails, nets: str, tmp_path: Path) -> None:
    line = 1 + Path(nets).read_text().splitlines().index("        if x.sum().item() > 0:")
    fails(search(nets, tmp_path, model="branching"), 5, "cannot be exported", f"{nets}:{line}, in forward")
    fails(["layers", "--model", f"{nets}:branching", "--input", "1x1x8x8"], 5, "cannot be exported", f"{nets}:{line}")


@pytest.mark.parametrize(("data", "words"), [
    ("wide", ("does not run on the first training batch", "[4, 3, 8, 8]")),
    ("labels_from_one", ("labels of the train data are out of range", "1 to 4", "0 to 3")),
    ("make", ("not an iterable of batches",)), ("laoders", ("did you mean 'loaders'?",))])
def test_data_that_does_not_fit(fails: Fails, nets: str, tmp_path: Path, data: str, words: tuple[str, ...]) -> None:
    fails(search(nets, tmp_path, data=data), 2, *words)


@pytest.mark.parametrize(("arguments", "words"), [
    (["search", "--model", "nowhere.py:make", "--data", "sklearn:digits"], ("the file does not exist",)),
    (["search", "--model", "nets.py"], ("",)), (["search", "--data", "sklearn:digits"], ("no model to prune",)),
    (["search", "--model", "no.such.module:make", "--data", "sklearn:digits"], ("no module",)),
    (["search", "--model", "nowhere", "--data", "sklearn:digits"], ("names nothing to load",)),
    (["layers", "--input", "1x1x8x8"], ("--input needs --model",)),
    (["profile", "--model", "nets.py:make"], ("needs example inputs",)),
    (["profile", "--model", "nowhere.onnx", "--device", "rpi4"], ("nowhere.onnx",)),
    (["profile", "--percentile", "p75"], ("p75",))])
def test_things_that_are_not_there(fails: Fails, arguments: list[str], words: tuple[str, ...]) -> None:
    fails(arguments, 2, *words, lines=())


@pytest.mark.parametrize("shape", ["1x1x8", "banana", "0x1x8x8", "1x-1x8x8", "1x1x8x8:complex", ""])
def test_bad_input_shapes(fails: Fails, nets: str, shape: str) -> None:
    command = ["layers", "--model", f"{nets}:make", "--input", shape]
    if shape == "1x1x8":  # a shape, but not one that this model takes
        fails(command, 5, "does not run on the example inputs", "in norm (BatchNorm2d)")
    else:
        fails(command, 2, "not an input shape", "1x3x224x224", lines=ALL)


def test_an_onnx_file_that_is_none(fails: Fails, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    for content, words in ((b"not a model", "not an ONNX model"), (b"", "empty")):
        path.write_bytes(content)
        for device in ("rpi4", "cpu"):
            fails(["profile", "--model", str(path), "--device", device], 2, words, str(path))


def test_an_onnx_file_that_no_device_could_run(fails: Fails, tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Nonesuch", ["x"], ["y"])], "g", ends[:1], ends[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "x.onnx")
    for device in ("rpi4", "cpu"):
        fails(["profile", "--model", str(tmp_path / "x.onnx"), "--device", device], 5, "Nonesuch")


# -- run folders ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("command", ["front", "pick", "report"])
def test_a_missing_run_folder(fails: Fails, tmp_path: Path, command: str) -> None:
    fails([command, str(tmp_path / "nowhere")], 2, "no front", lines=ALL)


def test_a_run_folder_of_another_configuration(fails: Fails, finished: Any) -> None:
    changed = [*finished.arguments]
    changed[changed.index("--budget") + 1] = "0.6x"
    fails([*changed, "--seed", "3"], 2, "belongs to another search", '- budget = "0.7x"', '+ budget = "0.6x"',
          "- seed = 0", "+ seed = 3", "--fresh", lines=("fix",))


def test_a_read_only_run_folder(fails: Fails, nets: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    fails(search(nets, tmp_path / "file"), 2, "the run folder cannot be written", "--run DIR")


def test_more_threads_than_cores_and_then_fewer(fails: Fails, nets: str, tmp_path: Path) -> None:
    """The refused command leaves nothing behind that the corrected one trips over."""
    arguments = search(nets, tmp_path, "--threads", "4096")
    arguments[arguments.index("rpi4")] = "cpu"
    fails(arguments, 2, "more threads than usable cores", lines=ALL)
    arguments[-1] = "1"
    with pytest.MonkeyPatch.context() as patch:
        def stop(*_: Any) -> None:
            raise KeyboardInterrupt
        patch.setattr("autoprune.search.run.begin", stop)
        assert run(arguments) == 130


def test_a_budget_that_nothing_can_reach(nets: str, memory_path: Path, quick_export: None,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    arguments = search(nets, memory_path, "--budget", "1us")
    arguments[arguments.index("--trials") + 1] = "5"
    assert run(arguments) == 3
    captured = capsys.readouterr()
    assert captured.err.count("error: ") == 1
    assert "no candidate meets budget 1us" in captured.err
    assert "closest: trial " in captured.err
    assert "the floor found for this model on rpi4 is 0.0" in captured.err
    assert "Traceback" not in captured.err
    assert captured.out.splitlines()[-1] == f"next:  autoprune front {memory_path / 'run'}"
    assert run(["front", str(memory_path / "run"), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["recommended"] is None
    assert run(["pick", str(memory_path / "run")]) == 3
    assert "the floor" in capsys.readouterr().err


def dropped(finished: Any) -> int:
    front = {p.number for p in finished.front.points}
    return next(c.number for c in finished.front.candidates if c.number not in front)


def test_pick_of_a_dropped_trial(fails: Fails, finished: Any) -> None:
    fails(["pick", str(finished.run), "--trial", str(dropped(finished))], 2, "were not kept", "on the front:",
          lines=ALL)
    fails(["pick", str(finished.run), "--trial", "999"], 2, "there is no such trial", "on the front:")
    fails(["pick", str(finished.run), "--trial", "0", "--knee"], 2, "one way at a time")
    fails(["pick", str(finished.run), "--budget", "3"], 2, "has no unit")
    fails(["pick", str(finished.run), "--budget", "1us"], 3, "the floor", lines=ALL)


def test_outputs_that_cannot_be_written(fails: Fails, finished: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    below = str(tmp_path / "file" / "x")
    fails(["pick", str(finished.run), "--output", below], 2, "the export folder cannot be written")
    fails(["report", str(finished.run), "--output", below], 2, "the report cannot be written")


def test_a_front_that_is_not_readable(fails: Fails, finished: Any, tmp_path: Path) -> None:
    for text in ("{", "[]", '{"schema": 1}', '{"schema": 99}'):
        (tmp_path / "front.json").write_text(text)
        fails(["front", str(tmp_path)], 2, "front", lines=())


def test_pick_of_a_search_that_was_made_from_python(fails: Fails, finished: Any, tmp_path: Path) -> None:
    shutil.copytree(finished.run, tmp_path / "run")
    data = json.loads((tmp_path / "run" / "front.json").read_text())
    data["settings"] = {k: v for k, v in data["settings"].items() if k not in ("model", "data")}
    (tmp_path / "run" / "front.json").write_text(json.dumps(data))
    fails(["pick", str(tmp_path / "run")], 2, "made from Python", lines=ALL)


def test_an_internal_error_is_one_line_and_exit_1(capsys: pytest.CaptureFixture[str],
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("oops")
    monkeypatch.setattr("autoprune.search.space.list_spaces", broken)
    assert run(["spaces", "list"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: internal error: ZeroDivisionError: oops")
    assert "AUTOPRUNE_DEBUG" in err
    monkeypatch.setenv("AUTOPRUNE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run(["spaces", "list"])


def test_the_entry_point_exits_with_the_code() -> None:
    command = [str(Path(sys.executable).with_name("autoprune"))]
    if not os.access(command[0], os.X_OK):
        pytest.skip("autoprune is not installed beside this python")
    done = subprocess.run([*command, "serach"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: there is no command 'serach'")


@pytest.mark.parametrize(("shell", "words"), [
    ("PYTHONIOENCODING=ascii {} methods list", "l1"),
    ("PYTHONIOENCODING=ascii {} devices list --format json", '"rpi4"'),
    ("{} methods list >&-", ""), ("{} methods list > /dev/full || test $? = 1", "free some space")])
def test_outputs_of_every_kind(shell: str, words: str) -> None:
    command = f'"{sys.executable}" -c "from autoprune.cli.main import main; main()"'
    done = subprocess.run(shell.format(command), shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout + done.stderr
    assert "internal error" not in done.stderr


def test_code_that_ends_the_process_is_an_error(fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoprune.front.front.load_front", lambda _: sys.exit(0))
    fails(["front", "runs/x"], 2, "ended the process: exit(0)", lines=("fix",))
