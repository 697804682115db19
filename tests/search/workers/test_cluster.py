"""Candidates on a real Ray, on this machine: `pip install 'autoprune[ray]'` and `pytest -m slow`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import batches, trained

import autoprune
from autoprune.errors import ConfigError
from autoprune.front.front import Front
from autoprune.search.outcome import pareto
from autoprune.tasks.score import Score
from autoprune.tasks.task import Task

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning"),
              pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]
TRIALS = 8


class Trouble(Task):
    """Does something wrong in the evaluation of a pruned model: always, or once for all processes."""

    trouble = ""
    marker = Path()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        (self.marker.parent / f"loaded-{time.monotonic_ns()}").touch()

    def evaluate(self, model: torch.nn.Module, split: str = "validation", limit: int | None = None) -> Score:
        if ray.is_initialized() and ray.get_runtime_context().get_task_id() is not None:
            (self.marker.parent / f"worker-{os.getpid()}").touch()
        if self.trouble and split == "validation" and sum(p.numel() for p in model.parameters()) < 2500:
            if self.trouble == "slow":
                time.sleep(1.0)
            elif self.trouble == "hang":
                time.sleep(3600)
            elif self.trouble == "memory" and self.first():
                raise RuntimeError("can't allocate memory")
            elif self.trouble == "always" or (self.trouble == "once" and self.first()):
                os.kill(os.getpid(), signal.SIGKILL)
        return super().evaluate(model, split, limit)

    def first(self) -> bool:
        try:
            os.close(os.open(self.marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    yield
    with suppress(Exception):
        ray.shutdown()


def task_with(trouble: str, folder: Path) -> Trouble:
    task = Trouble(trained(), train=batches(3, 2), validation=batches(2, 3), test=batches(2, 4), name="tiny")
    task.trouble, task.marker = trouble, folder / "once"
    return task


def search(task: Task, folder: Path, on_progress: Callable[[Any], None] | None = None, **values: Any) -> Front:
    arguments: dict[str, Any] = {"cluster": "local", "trials": TRIALS, **values}
    front = autoprune.search(task, device="rpi4", budget="0.7x", run=str(folder / "run"), steps=1,
                             on_progress=on_progress, **arguments)
    assert len(front.candidates) == TRIALS
    kept = {int(f.name) for f in (folder / "run" / "candidates").iterdir()}
    assert kept == {c.number for c in pareto(front.candidates)}
    return front


def test_a_cluster_finds_what_one_process_finds(memory_path: Path) -> None:
    front = search(task_with("", memory_path), memory_path)
    assert [c.status for c in front.candidates] == ["ok"] * TRIALS
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = autoprune.search(task_with("", memory_path), device="rpi4", budget="0.7x", steps=1, trials=TRIALS,
                                 run=str(memory_path / "alone"), workers=0)
    finally:
        torch.set_num_threads(threads)
    here, there = ({c.plan.digest: c.latency for c in f.candidates} for f in (alone, front))
    shared = here.keys() & there.keys()
    assert len(shared) >= 5
    assert all(here[d] == there[d] for d in shared)
    own = {c.plan.digest: c for c in alone.candidates if alone.recommended != c.number}
    for c in front.candidates:  # the recommended ones were tuned since
        if c.plan.digest in own and c.number != front.recommended:
            assert own[c.plan.digest].score == c.score


def test_a_sigterm_still_ends_a_search_with_its_front(memory_path: Path) -> None:
    """As the command line has it: the same as Ctrl-C."""
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        front = autoprune.search(
            task_with("", memory_path), device="rpi4", budget="0.7x", run=str(memory_path / "run"), steps=1,
            cluster="local", trials=1000,
            on_progress=lambda p: os.kill(os.getpid(), signal.SIGTERM) if p.done == TRIALS else None)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert TRIALS <= len(front.candidates) < 1000
    assert (memory_path / "run" / "front.json").exists()


def test_a_worker_killed_in_the_middle_of_a_task_is_replaced(memory_path: Path) -> None:
    front = search(task_with("once", memory_path), memory_path)
    assert (memory_path / "once").exists()
    assert [c.status for c in front.candidates] == ["ok"] * TRIALS


def test_a_candidate_that_always_dies_fails_alone(memory_path: Path) -> None:
    front = search(task_with("always", memory_path), memory_path)
    states = {c.params >= 2500 or c.params == 0: c.status for c in front.candidates if c.status == "ok"}
    assert states.keys() == {True}
    failed = [c for c in front.candidates if c.status == "failed"]
    assert failed
    assert all("WorkerCrashedError" in str(c.reason) for c in failed)


def test_little_memory_is_tried_again_with_half_the_batch(memory_path: Path) -> None:
    front = search(task_with("memory", memory_path), memory_path)
    assert (memory_path / "once").exists()
    assert [c.status for c in front.candidates] == ["ok"] * TRIALS


def test_a_hang_is_stopped(memory_path: Path) -> None:
    front = search(task_with("hang", memory_path), memory_path, candidate_timeout="8s")
    failed = [c for c in front.candidates if c.status == "failed"]
    assert failed
    assert all("longer than 8 s" in str(c.reason) for c in failed)
    assert any(c.status == "ok" for c in front.candidates)


def test_gpus_are_set_aside_and_missing_ones_are_told(memory_path: Path) -> None:
    ray.init(num_cpus=8, num_gpus=2, include_dashboard=False, log_to_driver=False)
    running: list[int] = []

    from autoprune.search.workers.cluster import Cluster

    original = Cluster.wait

    def wait(self: Cluster, until_s: float) -> Any:
        running.append(self.running)
        return original(self, until_s)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cluster, "wait", wait)
        search(task_with("", memory_path), memory_path, candidate_gpus="1")
    assert max(running) == 2  # as many as there are GPUs, not as there are cores
    assert 1 <= len(list(memory_path.glob("worker-*"))) <= 3  # kept for more than one candidate
    assert 1 <= len(list(memory_path.glob("loaded-*"))) <= 3  # and so are model and data
    with pytest.raises(ConfigError, match="no candidate fits"):
        autoprune.search(task_with("", memory_path), device="rpi4", run=str(memory_path / "b"), cluster="local",
                         candidate_gpus="4")


def test_a_node_that_is_lost_loses_nothing(memory_path: Path) -> None:
    from ray.cluster_utils import Cluster as Nodes

    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = nodes.add_node(num_cpus=1)
    ray.init(address=nodes.address, log_to_driver=False)
    lost: list[int] = []

    def lose(p: Any) -> None:
        if p.done == 3 and not lost:
            lost.append(p.done)
            nodes.remove_node(second, allow_graceful=False)
    try:
        front = search(task_with("slow", memory_path), memory_path, lose, cluster="auto")
        assert lost
        assert [c.status for c in front.candidates] == ["ok"] * TRIALS
    finally:
        ray.shutdown()
        nodes.shutdown()


PORTS = {"port": 36379, "ray-client-server-port": 36001, "runtime-env-agent-port": 36002}


def ray_command(*arguments: str) -> None:
    subprocess.run([str(Path(sys.executable).with_name("ray")), *arguments], check=True, capture_output=True,
                   timeout=120)


def start_head() -> None:
    ray_command("start", "--head", "--node-ip-address=127.0.0.1", "--num-cpus=2", "--include-dashboard=false",
                *(f"--{name}={port}" for name, port in PORTS.items()))


def test_the_head_is_restarted_in_the_middle_of_a_search(memory_path: Path) -> None:
    start_head()
    restarted: list[int] = []

    def restart(p: Any) -> None:
        if p.done == 3 and not restarted:
            restarted.append(p.done)
            ray_command("stop", "--force")
            start_head()
    try:
        front = search(task_with("slow", memory_path), memory_path, restart,
                       cluster=f"ray://127.0.0.1:{PORTS['ray-client-server-port']}")
        assert restarted
        assert [c.status for c in front.candidates] == ["ok"] * TRIALS
    finally:
        ray_command("stop", "--force")
