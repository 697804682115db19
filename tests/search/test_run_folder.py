from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from autoprune.errors import ConfigError
from autoprune.graph.graph import Graph
from autoprune.graph.module import load_module
from autoprune.graph.plan import Plan
from autoprune.search.run_folder import RunFolder, environment
from autoprune.search.study import Study

from .conftest import CONFIGURATION


def started(path: Path, **values: object) -> None:
    """A folder as a search leaves it that has begun."""
    with RunFolder(path).open({**CONFIGURATION, **values}):
        (path / "study.db").write_bytes(b"")


def test_a_fresh_folder_holds_configuration_and_environment(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "a" / "b").open(CONFIGURATION) as folder:
        assert tomllib.loads((folder.path / "config.toml").read_text())["device"] == "rpi4"
        assert folder.candidates.is_dir()
        assert (folder.path / "env.json").is_file()
        assert folder.storage.endswith("study.db")


def test_a_folder_that_another_process_holds_names_it(tmp_path: Path) -> None:
    code = ("import sys, time\nfrom autoprune.search.run_folder import RunFolder\n"
            f"with RunFolder({str(tmp_path / 'run')!r}).open({CONFIGURATION!r}):\n"
            "    print('held', flush=True)\n    sys.stdin.read()\n")
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
        assert p.stdout is not None
        assert p.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="another search is using") as caught:
            RunFolder(tmp_path / "run").open(CONFIGURATION)
        assert f"pid {p.pid} on " in str(caught.value)
        assert " since 2" in str(caught.value)
        p.kill()
    with RunFolder(tmp_path / "run").open(CONFIGURATION):  # the system released it
        pass


def test_two_searches_of_one_process_are_told_apart(tmp_path: Path) -> None:
    with RunFolder(tmp_path).open(CONFIGURATION), pytest.raises(ConfigError, match="another search"):
        RunFolder(tmp_path).open(CONFIGURATION)
    with RunFolder(tmp_path).open(CONFIGURATION):
        pass


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written") as caught:
        RunFolder(tmp_path / "file" / "run").open(CONFIGURATION)
    assert caught.value.exit_code == 2
    assert "Not a directory" in str(caught.value)
    assert "--run" in str(caught.value.fix)


def test_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ConfigError, match="cannot be written"):
        RunFolder(tmp_path / "run").open(CONFIGURATION)


def test_another_configuration_is_refused_with_a_diff_and_lets_go(tmp_path: Path) -> None:
    started(tmp_path, budget="20ms", seed=0)
    other = {**CONFIGURATION, "budget": "30ms", "seed": 0}
    with pytest.raises(ConfigError) as caught:
        RunFolder(tmp_path).open(other)
    text = str(caught.value)
    assert '- budget = "20ms"' in text
    assert '+ budget = "30ms"' in text
    assert "seed" not in text
    assert "--fresh" in text
    # the refused search holds nothing, even while its error is being looked at
    with RunFolder(tmp_path).open(other, fresh=True) as folder:
        assert tomllib.loads((folder.path / "config.toml").read_text())["budget"] == "30ms"


def test_what_may_change_on_resume(tmp_path: Path) -> None:
    started(tmp_path, trials=10)
    environment = (tmp_path / "env.json").read_text()
    started(tmp_path, trials=20, timeout="1h", max_drop="1pp")
    written = tomllib.loads((tmp_path / "config.toml").read_text())
    assert (written["trials"], written["timeout"], written["max_drop"]) == (20, "1h", "1pp")
    assert (tmp_path / "env.json").read_text() == environment


def test_a_search_that_never_began_does_not_bind_the_folder(tmp_path: Path) -> None:
    """`--threads 99` is refused after the folder was made; the corrected command must work."""
    with RunFolder(tmp_path).open({**CONFIGURATION, "threads": 99}):
        pass
    with RunFolder(tmp_path).open({**CONFIGURATION, "threads": 1}) as folder:
        assert tomllib.loads((folder.path / "config.toml").read_text())["threads"] == 1


def test_fresh_removes_only_what_a_search_wrote(tmp_path: Path) -> None:
    started(tmp_path)
    (tmp_path / "candidates" / "0001").mkdir()
    (tmp_path / "front.json").write_text("{}")
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "photos").mkdir()
    with RunFolder(tmp_path).open({**CONFIGURATION, "seed": 1}, fresh=True) as folder:
        assert not list(folder.candidates.iterdir())
        assert not (tmp_path / "front.json").exists()
        assert not (tmp_path / "study.db").exists()
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert (tmp_path / "photos").is_dir()


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_with_a_configuration_of_something_else_is_left_alone(tmp_path: Path, fresh: bool) -> None:
    (tmp_path / "config.toml").write_text('title = "my site"\n')
    with pytest.raises(ConfigError, match="not a search's"):
        RunFolder(tmp_path).open(CONFIGURATION, fresh=fresh)
    assert (tmp_path / "config.toml").read_text() == 'title = "my site"\n'


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", ["work/mine.txt", "candidates/mine.txt", "picked/mine.txt", "env.json", "report.html"])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, name: str, fresh: bool) -> None:
    """Somebody's own folder, `--run .`: what a search clears away there was never a search's."""
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("years of work")
    with pytest.raises(ConfigError, match="not a search's") as caught:
        RunFolder(tmp_path).open(CONFIGURATION, fresh=fresh)
    assert name.partition("/")[0] in str(caught.value)
    assert mine.read_text() == "years of work"
    assert [p.name for p in tmp_path.iterdir()] == [name.partition("/")[0]]


def test_a_folder_with_other_files_or_an_abandoned_start_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "candidates").mkdir()
    (tmp_path / ".lock").touch()
    with RunFolder(tmp_path).open(CONFIGURATION):
        assert (tmp_path / "env.json").is_file()
    assert (tmp_path / "thesis.tex").is_file()


def test_a_broken_configuration_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("schema = \n")
    with pytest.raises(ConfigError, match="cannot be read"):
        RunFolder(tmp_path).open(CONFIGURATION)


def test_models_are_saved_whole_or_not_at_all(tmp_path: Path, tiny_graph: Graph,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_graph.cut(Plan.uniform(tiny_graph, 0.5))
    with RunFolder(tmp_path).open(CONFIGURATION) as folder:
        folder.save_model(3, model)
        assert load_module(folder.candidate(3)).plan == model.plan
        folder.save_model(3, model)  # again, over the old one
        folder.drop_model(3)
        folder.drop_model(3)
        assert not folder.candidate(3).exists()

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")
        monkeypatch.setattr(type(model), "save", full)
        with pytest.raises(ConfigError, match="cannot be written") as caught:
            folder.save_model(4, model)
        assert "No space left" in str(caught.value)
        assert "bytes free" in str(caught.value)
        assert not folder.candidate(4).exists()


def test_environment_names_versions() -> None:
    found = environment()
    assert found["packages"]["torch"]
    assert found["python"].count(".") == 2


def test_a_search_of_a_database_is_not_taken_over_by_one_of_a_file(tmp_path: Path) -> None:
    database = {**CONFIGURATION, "storage": "postgresql://me@host/studies"}
    with RunFolder(tmp_path, database["storage"]).open(database):
        pass
    with pytest.raises(ConfigError, match="belongs to another search") as caught:
        RunFolder(tmp_path).open(CONFIGURATION)
    assert "storage" in str(caught.value)
    assert not (tmp_path / "study.db").exists()
    with RunFolder(tmp_path, database["storage"]).open(database):
        pass


def test_it_stays_the_same_folder_when_what_it_holds_is_thrown_away(tmp_path: Path) -> None:
    with RunFolder(tmp_path, "postgresql://me@host/studies").open(CONFIGURATION) as folder:
        place = folder.place
    with RunFolder(tmp_path, "postgresql://me@host/studies").open(CONFIGURATION, fresh=True) as folder:
        assert folder.place == place


def test_weights_that_cannot_be_moved_name_the_file(tmp_path: Path) -> None:
    with RunFolder(tmp_path).open(CONFIGURATION) as folder:
        with pytest.raises(ConfigError, match="weights cannot be written") as caught:
            folder.take_model(3, tmp_path / "nowhere")
        assert "0003" in str(caught.value)


@pytest.mark.parametrize("name", ["a%41b", "a?b", "a b#c", "ä&x=1"])
def test_the_study_is_in_the_folder_whatever_its_name(tmp_path: Path, name: str) -> None:
    with RunFolder(tmp_path / name).open(CONFIGURATION) as folder:
        Study(folder.storage, "random", 0, True).close()
        assert (folder.path / "study.db").is_file()
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_what_a_candidate_leaves_behind_does_not_hold_the_folder(tmp_path: Path) -> None:
    heard, said = os.pipe()
    with RunFolder(tmp_path).open(CONFIGURATION):
        child = os.fork()
        if child == 0:
            os.write(said, b"!")
            signal.pause()
        assert os.read(heard, 1) == b"!"
    try:
        with RunFolder(tmp_path).open(CONFIGURATION):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
