"""Candidates in processes of their own: the same results, and what a process that goes wrong costs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CountingTask, batches, trained

from autoprune.config import Settings
from autoprune.errors import ConfigError, TaskError
from autoprune.search.candidate import Candidate
from autoprune.search.outcome import pareto
from autoprune.search.pipeline import Pipeline
from autoprune.search.run_folder import RunFolder
from autoprune.search.workers import forked
from autoprune.search.workers.choose import choose_workers
from autoprune.search.workers.forked import Forked
from autoprune.search.workers.job import Done, Job, from_json, to_json
from autoprune.search.workers.workers import Inline
from autoprune.tasks.batches import Halved

from ..conftest import Open

pytestmark = [pytest.mark.system,
              pytest.mark.skipif(not forked.can_fork(), reason="forks are for Linux without an accelerator")]
AT = 2  # the trial that goes wrong


def wrong_at(monkeypatch: pytest.MonkeyPatch, what: Callable[[Pipeline], Any], number: int = AT) -> None:
    """Let the evaluation of trial `number` do `what` first."""
    original = Pipeline.evaluate

    def evaluate(self: Pipeline, trial: int, *arguments: Any) -> Any:
        if trial == number:
            what(self)
        return original(self, trial, *arguments)
    monkeypatch.setattr(Pipeline, "evaluate", evaluate)


def run(open_search: Open, trials: int = 5, count: int | None = 2, limit_s: float | None = None) -> list[Candidate]:
    with open_search(trials=trials, workers=partial(Forked, count=count, limit_s=limit_s)) as search:
        found = search.run().candidates
        assert not list(search.folder.work.iterdir())
        assert search.workers.running == 0
        kept = {int(f.name) for f in search.folder.candidates.iterdir()}
        assert kept == {c.number for c in pareto(found)}
        assert "RUNNING" not in {t.state.name for t in search.study._trials()}
    assert len(found) == trials
    return found


def only_failure(found: list[Candidate]) -> str:
    [failed] = [c for c in found if c.status != "ok"]
    assert failed.number == AT
    assert failed.reason is not None
    return failed.reason


def test_forks_find_what_one_process_finds(open_search: Open, memory_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of another number of threads are rounded otherwise
    try:
        with open_search(trials=6) as search:
            alone = {c.plan.digest: c for c in search.run().candidates}
        (memory_path / "run").rename(memory_path / "alone")
        forks = {c.plan.digest: c for c in run(open_search, 6)}
    finally:
        torch.set_num_threads(threads)
    shared = alone.keys() & forks.keys()
    assert len(shared) >= 5  # proposals may differ: the sampler sees results in another order
    for digest in shared:
        a, b = alone[digest], forks[digest]
        assert (a.score, a.latency, a.macs, a.params, a.size_bytes, a.steps, a.status) == (
            b.score, b.latency, b.macs, b.params, b.size_bytes, b.steps, b.status)


def test_a_crash_costs_one_candidate_and_says_where(open_search: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(_: Pipeline) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)
    wrong_at(monkeypatch, crash)
    reason = only_failure(run(open_search))
    assert "SIGSEGV" in reason
    assert "in crash" in reason


def test_an_exception_that_no_candidate_may_raise_costs_one(open_search: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def surprise(_: Pipeline) -> None:
        raise KeyError("what is this?")
    wrong_at(monkeypatch, surprise)
    assert "KeyError: 'what is this?'" in only_failure(run(open_search))


def test_leaving_without_a_word_costs_one(open_search: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_at(monkeypatch, lambda _: os._exit(0))
    assert "exit code 0" in only_failure(run(open_search))


def test_a_hang_is_stopped(open_search: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_at(monkeypatch, lambda _: signal.pause())
    reason = only_failure(run(open_search, limit_s=3.0))
    assert "longer than 3 s" in reason
    assert "--candidate-timeout" in reason


def test_a_crash_is_seen_although_what_it_started_lives_on(open_search: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave_a_child(_: Pipeline) -> None:
        if os.fork() == 0:
            signal.pause()  # holds the pipe open, as a data loader's worker does
        os.kill(os.getpid(), signal.SIGABRT)
    wrong_at(monkeypatch, leave_a_child)
    assert "SIGABRT" in only_failure(run(open_search))


@pytest.mark.parametrize("killed", [False, True])
def test_little_memory_is_tried_again_with_half_the_batch(open_search: Open, killed: bool, task: CountingTask,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    original = CountingTask.forward
    whole = 24

    def forward(self: CountingTask, model: torch.nn.Module, inputs: Any) -> Any:
        if len(inputs) >= whole and self.greedy:
            if killed:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        return original(self, model, inputs)
    monkeypatch.setattr(CountingTask, "greedy", False, raising=False)
    monkeypatch.setattr(CountingTask, "forward", forward)

    def be_greedy(pipeline: Pipeline) -> None:
        pipeline.task.greedy = True  # type: ignore[attr-defined]
    wrong_at(monkeypatch, be_greedy)
    found = run(open_search)
    assert [c.status for c in found] == ["ok"] * 5
    by_halves = next(c for c in found if c.number == AT)
    assert by_halves.score is not None
    assert by_halves.score.n == next(c for c in found if c.number != AT).score.n  # type: ignore[union-attr]


def test_a_loader_that_the_system_kills_was_short_of_memory(open_search: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of data that torch reads in processes of its own; the second time there is enough."""
    def killed(pipeline: Pipeline) -> None:
        if not isinstance(pipeline.task.split("train"), Halved):
            try:
                raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
            except RuntimeError as error:
                raise TaskError("reading the train data raised an exception") from error
    wrong_at(monkeypatch, killed)
    assert [c.status for c in run(open_search)] == ["ok"] * 5


def test_too_little_memory_for_half_a_batch_fails(open_search: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_at(monkeypatch, lambda _: os.kill(os.getpid(), signal.SIGKILL))
    reason = only_failure(run(open_search))
    assert "SIGKILL" in reason
    assert "memory" in reason


def test_a_full_disk_ends_the_search(open_search: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprune.search.workers import job

    def full(*_: Any) -> None:
        raise ConfigError("a candidate's weights cannot be written", given="disk", fix="free some space")
    monkeypatch.setattr(job, "write_model", full)
    with open_search(workers=partial(Forked, count=2)) as search, pytest.raises(ConfigError, match="cannot be written"):
        search.run()
    monkeypatch.undo()
    assert all(c.status == "ok" for c in run(open_search))


def test_an_interrupt_ends_what_runs_and_the_trials_wait_again(open_search: Open,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_at(monkeypatch, lambda _: signal.pause())

    def interrupt(self: Forked, until_s: float) -> list[Done]:
        if self.running == 2 and AT in self._running:
            raise KeyboardInterrupt
        return original(self, until_s)
    original = Forked.wait
    monkeypatch.setattr(Forked, "wait", interrupt)
    with open_search(trials=5, workers=partial(Forked, count=2)) as search:
        assert search.run().interrupted
        assert search.workers.running == 0
    monkeypatch.undo()
    assert [c.status for c in run(open_search)] == ["ok"] * 5


def test_paused_processes_stand_still(open_search: Open, memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = memory_path / "ticks"

    def tick(_: Pipeline) -> None:
        while True:
            with ticks.open("a") as file:
                file.write(".")
            time.sleep(0.005)
    wrong_at(monkeypatch, tick, 0)
    with open_search(trials=1) as search, RunFolder(memory_path / "other").open({"model_fingerprint": ""}) as folder:
        latency = search.latencies.dense(None)
        workers = Forked(search.pipeline, 1)
        workers.start(Job(0, "control: dense", search.proposer.plan(search.proposer.controls()["control: dense"]),
                          latency, folder.work / "0000"))
        while not ticks.exists() or not ticks.stat().st_size:
            time.sleep(0.01)
        with workers.paused():
            time.sleep(0.1)  # a write that had begun
            before = ticks.stat().st_size
            time.sleep(0.3)
            assert ticks.stat().st_size == before
        until = time.monotonic() + 60
        while ticks.stat().st_size == before:
            assert time.monotonic() < until
            time.sleep(0.01)
        workers.close()
        workers.close()


def test_what_is_printed_goes_to_a_log_and_not_to_the_user(open_search: Open, capfd: pytest.CaptureFixture[str],
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_at(monkeypatch, lambda _: print("chatter", flush=True))  # noqa: T201
    assert [c.status for c in run(open_search)] == ["ok"] * 5
    assert "chatter" not in "".join(capfd.readouterr())


def test_the_number_of_processes_follows_from_cores_and_memory(open_search: Open,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forked, "usable_cores", lambda: 16)
    monkeypatch.setattr(forked, "_free_bytes", lambda: 1000.0)
    with open_search() as search:
        workers = Forked(search.pipeline)
        assert workers.room == 1  # nothing is known yet
        for most_bytes, room in ((200, 3), (1, 8), (10 ** 6, 1)):
            workers._most_bytes = most_bytes
            assert workers.room == room
        workers._most_bytes = 300
        workers._never_started = [Done(1, None), Done(2, None)]  # two that have just begun and hold nothing yet
        assert workers.room == 0
        assert Forked(search.pipeline, 5).room == 5


def test_a_container_limits_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forked, "_CGROUP", tmp_path)
    free = forked._free_bytes()
    assert free > 1e6
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    assert forked._free_bytes() == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert forked._free_bytes() > 1e6


def test_a_candidate_that_is_not_trained_tells_its_memory_too(open_search: Open) -> None:
    with open_search(trials=3, recover={"steps": 0}, workers=partial(Forked, count=1)) as search:
        search.run()
        assert isinstance(search.workers, Forked)
        assert search.workers._most_bytes > 0
        assert search.workers._longest_s > 0


def test_a_metric_that_is_not_finite_fails_its_candidate_only(open_search: Open,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprune.tasks.score import Score
    from autoprune.tasks.task import NotFinite

    original = CountingTask.evaluate

    def evaluate(self: CountingTask, model: torch.nn.Module, *arguments: Any, **values: Any) -> Score:
        if self.broken:
            raise NotFinite("accuracy is not finite on the validation split")
        return original(self, model, *arguments, **values)
    monkeypatch.setattr(CountingTask, "broken", False, raising=False)
    monkeypatch.setattr(CountingTask, "evaluate", evaluate)

    def break_it(pipeline: Pipeline) -> None:
        pipeline.task.broken = True  # type: ignore[attr-defined]
    wrong_at(monkeypatch, break_it)
    assert "not finite" in only_failure(run(open_search))


def test_an_interrupt_while_a_process_starts_leaves_none_behind(open_search: Open,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_at(monkeypatch, lambda _: signal.pause())
    setpgid, seen = os.setpgid, list[int]()

    def interrupted(pid: int, group: int) -> None:
        setpgid(pid, group)
        if pid and not seen and len(started) == AT + 1:
            seen.append(pid)
            os.kill(os.getpid(), signal.SIGINT)  # comes while the process is not registered yet
    started: list[int] = []
    original = Forked._fork

    def fork(self: Forked, job: Job) -> Any:
        started.append(job.number)
        return original(self, job)
    monkeypatch.setattr(Forked, "_fork", fork)
    monkeypatch.setattr(os, "setpgid", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with open_search(trials=5, workers=partial(Forked, count=2)) as search:
            assert search.run().interrupted
    finally:
        signal.signal(signal.SIGINT, before)
    [pid] = seen
    assert not _alive(pid)


def test_a_process_that_cannot_be_started_fails_its_candidate(open_search: Open,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    original = Forked._fork

    def fork(self: Forked, job: Job) -> Any:
        if job.number == AT:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return original(self, job)
    monkeypatch.setattr(Forked, "_fork", fork)
    assert "Resource temporarily unavailable" in only_failure(run(open_search))


def test_the_time_of_a_search_ends_also_what_hangs(open_search: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprune.search import run as module

    monkeypatch.setattr(module, "_GRACE_S", 0.5)
    wrong_at(monkeypatch, lambda _: signal.pause(), 0)  # the dense control: nothing is known yet that would limit it
    with open_search(trials=5, timeout_s=1.0, workers=partial(Forked, count=1)) as search:
        outcome = search.run()
        assert outcome.candidates == []
        assert search.workers.running == 0
        assert "RUNNING" not in {t.state.name for t in search.study._trials()}


class Slow(torch.utils.data.Dataset[Any]):
    def __init__(self) -> None:
        self.rows = [(x, y) for inputs, target in batches(4, 3) for x, y in zip(inputs, target, strict=True)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        time.sleep(0.002)
        return self.rows[index]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_loaders_with_workers_of_their_own(memory_path: Path) -> None:
    import autoprune

    loader = torch.utils.data.DataLoader(Slow(), batch_size=16, num_workers=1, persistent_workers=True)
    list(loader)
    task = autoprune.Task(trained(), train=batches(3, 2), validation=loader, test=batches(2, 4))
    front = autoprune.search(task, device="rpi4", run=str(memory_path / "run"), trials=5, steps=1, workers=2)
    assert [c.status for c in front.candidates] == ["ok"] * 5
    assert len(list(loader)) == 6  # this process's own workers live on


def test_processes_are_refused_where_there_is_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    with pytest.raises(ConfigError, match="--workers 0"):
        choose_workers(Settings(workers=2), None)
    for workers in (0, None):
        assert choose_workers(Settings(workers=workers), None) is Inline
        with pytest.raises(ConfigError, match="cannot be given up"):
            choose_workers(Settings(workers=workers, candidate_timeout="1m"), None)


@pytest.mark.parametrize(("settings", "problem"), [
    (Settings(candidate_gpus="1"), "by a cluster only"), (Settings(candidate_gpus="many"), "not a number of GPUs"),
    (Settings(candidate_timeout="soon"), "soon")])
def test_settings_that_would_do_nothing_are_refused(settings: Settings, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        choose_workers(settings, None)


def test_a_result_survives_the_way_between_processes(open_search: Open) -> None:
    with open_search(trials=1) as search:
        [candidate] = search.run().candidates
    for done in (Done(3, candidate, Path("/a/b")), Done(4, None, fatal=ConfigError("m", given="g", fix="f")),
                 Done(5, candidate, out_of_memory=True), Done(6, candidate, suspect=TaskError("m", fix="f"))):
        back = from_json(to_json(done))
        assert str(back.fatal) == str(done.fatal)
        assert (type(back.suspect), str(back.suspect)) == (type(done.suspect), str(done.suspect))
        assert (back.number, back.candidate, back.folder, back.out_of_memory) == (
            done.number, done.candidate, done.folder, done.out_of_memory)


_PARENT = """
import os, sys, time
from pathlib import Path
from autoprune.search.pipeline import Pipeline
import autoprune
sys.path.insert(0, {tests!r})
from tiny import batches, trained

def forever(self, *_):
    Path({marker!r} + str(os.getpid())).touch()
    while True:
        time.sleep(1)
Pipeline.evaluate = forever
task = autoprune.Task(trained(), train=batches(3, 2), validation=batches(2, 3), test=batches(2, 4))
autoprune.search(task, device="rpi4", run={run!r}, trials=3, workers=2)
"""


def test_when_the_search_is_killed_its_candidates_go_with_it(memory_path: Path) -> None:
    marker = memory_path / "pid-"
    code = _PARENT.format(tests=str(Path(__file__).parents[2]), marker=str(marker), run=str(memory_path / "run"))
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while len(pids := [int(p.name.removeprefix("pid-")) for p in memory_path.glob("pid-*")]) < 2:
        assert parent.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < until
        time.sleep(0.05)
    with RunFolder(memory_path / "run") as folder:  # nobody holds the lock any more
        folder._hold()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
