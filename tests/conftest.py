"""What the rooms share: one finished search of the tiny task, made by the command line's own settings."""

from __future__ import annotations

import os
import random
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import CountingTask, tiny_task, write_user_file

from autoprune.config import Settings
from autoprune.front.front import Front
from autoprune.graph.graph import Graph, trace
from autoprune.graph.onnx_maker import OnnxMaker
from autoprune.graph.onnx_template import OnnxTemplate

TRIALS = 9


MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where run folders of tests go: every write of a study is synced, which takes long on a disk."""


def pytest_configure() -> None:
    """Processes of a parallel run get temporary folders of their own, and with them measuring locks of their own: no
    test looks at how long anything took, and none should wait for another's measurement.
    """
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        folder = Path(tempfile.gettempdir()) / f"autoprune-tests-{os.getuid()}" / worker
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


def seed_all(name: str) -> None:
    seed = zlib.crc32(name.encode())
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """What a test module draws as it is imported is the same each time."""
    seed_all(collector.nodeid)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What a test or its fixtures draw is the same each time, whatever ran before."""
    seed_all(item.nodeid)


@dataclass(frozen=True)
class Finished:
    """A finished search: its folder, front and settings, and the user's file that it was made from."""

    run: Path
    front: Front
    settings: Settings
    user_file: Path

    @property
    def arguments(self) -> list[str]:
        """The command line of the same search."""
        s = self.settings
        return ["search", "--model", str(s.model), "--data", str(s.data), "--device", s.device, "--budget",
                str(s.budget), "--trials", str(s.trials), "--steps", str(s.steps), "--run", str(s.run)]


@pytest.fixture(scope="session")
def user_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_user_file(tmp_path_factory.mktemp("user"))


@pytest.fixture(scope="session")
def finished(user_file: Path) -> Iterator[Finished]:
    """Do not write into its folder (a copy of it is for that)."""
    from autoprune.api import run_settings

    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        run = Path(folder) / "tiny"
        settings = Settings(model=f"{user_file}:make", data=f"{user_file}:loaders", device="rpi4", budget="0.7x",
                            trials=TRIALS, steps=1, run=str(run))
        front, interrupted = run_settings(settings)
        assert not interrupted
        yield Finished(run, front, settings, user_file)


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """Like `tmp_path`, where writing is quick."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def tiny_graph() -> Graph:
    task = tiny_task()
    return trace(task.model, task.example_inputs)


@pytest.fixture(scope="session")
def tiny_template(tiny_graph: Graph) -> OnnxTemplate:
    return OnnxTemplate(tiny_graph)


@pytest.fixture(scope="module")
def one_export_per_graph() -> Iterator[None]:
    """Tables of one graph share its template, which none of them changes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autoprune.graph.onnx_maker.OnnxTemplate", cache(OnnxTemplate))
        yield


@pytest.fixture
def task() -> CountingTask:
    return tiny_task()


@pytest.fixture
def quick_export(monkeypatch: pytest.MonkeyPatch, tiny_template: OnnxTemplate) -> None:
    """Searches of the tiny task share one export: the exporter is what takes longest."""
    monkeypatch.setattr(OnnxMaker, "_template", tiny_template)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
