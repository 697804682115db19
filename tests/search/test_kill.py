"""What is left when the process dies: at every write of the loop, and by `kill -9` of a real one."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage

from autoprune.search.outcome import Progress
from autoprune.search.run_folder import RunFolder
from autoprune.search.storage import BatchedStorage
from autoprune.search.workers import job

from .conftest import Open
from .test_run import check_resumed

pytestmark = pytest.mark.system

TRIALS = 5
WRITES: list[tuple[Any, str]] = [
    (BatchedStorage, "_create_new_trial"), (BatchedStorage, "_write"), (RDBStorage, "set_trial_state_values"),
    (RDBStorage, "set_trial_user_attr"), (RDBStorage, "set_trial_system_attr"), (BatchedStorage, "set_study_user_attr"),
    (job, "write_model"), (RunFolder, "take_model"), (RunFolder, "drop_model"),
]


class Killed(BaseException):
    """Nothing catches it, so nothing is tidied up: what is on disk is what a kill leaves."""


def count_writes(patch: pytest.MonkeyPatch, die_at: float = float("inf"),
                 writes: Sequence[tuple[Any, str]] = WRITES) -> list[str]:
    """Number the writes; die right before the `die_at`-th. Returns their names as they happen."""
    done: list[str] = []

    def counted(kind: Any, name: str) -> Callable[..., Any]:
        original = getattr(kind, name)

        def write(*arguments: Any, **values: Any) -> Any:
            if len(done) + 1 >= die_at:
                raise Killed
            done.append(name)
            return original(*arguments, **values)
        return write
    for kind, name in writes:
        patch.setattr(kind, name, counted(kind, name))
    return done


def die_and_resume(open_search: Open, die_at: int) -> bool:
    """Run until the `die_at`-th write, then run again; False when there are fewer writes."""
    told: list[int] = []

    def note(p: Progress) -> None:
        if p.last is not None:
            told.append(p.last.number)
    died = False
    with pytest.MonkeyPatch.context() as patch:
        count_writes(patch, die_at)
        try:
            with open_search(trials=TRIALS) as search:
                search.run(note)
        except Killed:
            died = True
    check_resumed(open_search, told, TRIALS)
    return died


@pytest.mark.parametrize("die_at", [1, 4, 14, 26, 38])
def test_a_death_at_a_write_loses_nothing(open_search: Open, die_at: int) -> None:
    assert die_and_resume(open_search, die_at)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_a_death_at_every_write_loses_nothing(open_search: Open, memory_path: Path, part: int) -> None:
    import shutil

    die_at, died = 1 + part, True
    while died:
        died = die_and_resume(open_search, die_at)
        shutil.rmtree(memory_path / "run")
        die_at += 8
    assert die_at > 30


# -- real processes ---------------------------------------------------------------------------------------------------

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["search.warm"])


def _command(arguments: list[str], log: str) -> None:
    """In the child: the command line, with everything it prints in a file."""
    import warnings

    warnings.simplefilter("ignore")
    handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    # the fork server has streams of its own
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    import torch

    from autoprune.cli.main import run

    torch.set_num_threads(1)
    code = run(arguments)
    sys.stdout.flush()
    sys.exit(code)


def started(arguments: list[str], log: Path) -> BaseProcess:
    # `tiny` must be found in the child as it is here
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(Path(__file__).parents[1]),
                                                              *filter(None, [os.environ.get("PYTHONPATH")])]))
    process = _CONTEXT.Process(target=_command, args=(arguments, str(log)))
    process.start()
    return process


def printed(log: Path) -> list[tuple[int, str]]:
    """(number, result) of the trials that a progress line reported."""
    text = log.read_text(encoding="utf-8") if log.exists() else ""
    return [(int(n), r) for n, r in re.findall(r"^\[.*?\] trial (\d+) \(.*?\): (.*?) \|", text, re.M)]


def kill_after(arguments: list[str], log: Path, lines: int, delay_s: float) -> None:
    """Start the command and `kill -9` it `delay_s` after it has reported `lines` trials in all."""
    process = started(arguments, log)
    until = time.monotonic() + 120
    while len(printed(log)) < lines and process.is_alive() and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(delay_s)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL, log.read_text()


def check_finished(arguments: list[str], log: Path, run: Path, trials: int) -> None:
    process = started(arguments, log)
    process.join(180)
    assert process.exitcode == 0, log.read_text()
    study = optuna.load_study(study_name="autoprune", storage=f"sqlite:///{run / 'study.db'}")
    ended = {t.number: json.loads(t.user_attrs["candidate"]) for t in study.trials if "candidate" in t.user_attrs
             and t.state.is_finished()}
    assert len(ended) == trials
    reported = printed(log)
    assert len(reported) == len({n for n, _ in reported})  # none was evaluated twice
    assert {n for n, _ in reported} <= set(ended)
    front = json.loads((run / "front.json").read_text(encoding="utf-8"))
    assert [c["number"] for c in front["candidates"]] == sorted(ended)
    assert (run / "report.html").is_file()
    assert not [t for t in study.trials if t.state.name in ("RUNNING",)]


def arguments_of(user_file: Path, run: Path, trials: int) -> list[str]:
    return ["search", "--model", f"{user_file}:make", "--data", f"{user_file}:loaders", "--device", "rpi4", "--budget",
            "0.7x", "--trials", str(trials), "--steps", "1", "--run", str(run)]


def test_kill_9_and_the_same_command_again(user_file: Path, memory_path: Path) -> None:
    run, log = memory_path / "run", memory_path / "log"
    arguments = arguments_of(user_file, run, 8)
    kill_after(arguments, log, 2, 0.0)
    kill_after(arguments, log, 5, 0.03)
    check_finished(arguments, log, run, 8)


@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [0.0, 0.01, 0.02, 0.05, 0.1, 0.2])
def test_kill_9_after_every_candidate(user_file: Path, memory_path: Path, delay_s: float) -> None:
    run, log = memory_path / "run", memory_path / "log"
    arguments = arguments_of(user_file, run, 9)
    for lines in range(1, 7):
        kill_after(arguments, log, lines, delay_s)
    check_finished(arguments, log, run, 9)
