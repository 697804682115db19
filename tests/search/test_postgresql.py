"""A study in a real PostgreSQL server, which the tests start for themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from autoprune import api
from autoprune.config import Settings
from autoprune.errors import ConfigError
from autoprune.front.front import Front, load_front
from autoprune.search.outcome import Progress
from autoprune.search.storage import check_storage, without_password
from autoprune.search.study import Study

BINARIES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
pytestmark = [pytest.mark.system,
              pytest.mark.skipif(BINARIES is None, reason="no PostgreSQL server (apt-get install postgresql)")]


class Server:
    """A server of its own in a folder, on a socket there and on no port."""

    def __init__(self, folder: Path):
        self.folder, self.process = folder, None
        self.url = f"postgresql://autoprune:secret@/postgres?host={folder}"
        # the server refuses to run as root
        self._as = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._as:
            shutil.chown(folder, "postgres")
        self._run("initdb", "-D", str(folder / "data"), "-A", "trust", "-U", "autoprune", "--no-sync")

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run([*self._as, str(BINARIES / program), *arguments], check=True, cwd="/",  # type: ignore[operator]
                       capture_output=True)

    def start(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", str(self.folder / "log"), "-o",
                  f"-k {self.folder} -c listen_addresses='' -c fsync=off", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", "immediate", "stop")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="ap-pg-", dir="/tmp"))  # the path of a socket may not be long
    folder.chmod(0o755)
    made = Server(folder)
    made.start()
    yield made
    made.stop()
    shutil.rmtree(folder)


Run = Callable[..., Front]


def seen_by_others(name: str, server: Server) -> optuna.Study:
    """The study as any user of Optuna opens it."""
    storage = optuna.storages.RDBStorage(server.url.replace("postgresql:", "postgresql+psycopg:"))
    study = optuna.load_study(study_name=name, storage=storage)
    trials, directions = study.trials, study.directions
    storage.remove_session()
    storage.engine.dispose()
    copy = optuna.create_study(directions=directions)
    copy.add_trials(trials)
    return copy


@pytest.fixture
def run(user_file: Path, memory_path: Path, server: Server) -> Run:
    def make(name: str, folder: Path = memory_path, fresh: bool = False, on_progress: Any = None, **values: Any
             ) -> Front:
        settings = Settings(model=f"{user_file}:make", data=f"{user_file}:loaders", device="rpi4", budget="0.7x",
                            **{"steps": 1, "trials": 4, "storage": server.url, "run": str(folder / name), **values})
        return api.run_settings(settings, fresh=fresh, on_progress=on_progress)[0]
    return make


def test_a_search_in_postgresql_resumes_and_others_can_watch(run: Run, server: Server, memory_path: Path) -> None:
    watched: list[int] = []

    def watch(p: Progress) -> None:
        watched.append(sum(t.state.is_finished() for t in seen_by_others("one", server).trials))
    first = run("one", on_progress=watch)
    assert watched == [0, 1, 2, 3, 4]
    assert not (memory_path / "one" / "study.db").exists()
    second = run("one", trials=6)
    assert [c.to_json() for c in second.candidates[:4]] == [c.to_json() for c in load_front(first.run).candidates[:4]]
    assert len(second.candidates) == 6
    study = seen_by_others("one", server)
    assert sum("candidate" in t.user_attrs for t in study.trials) == 6
    assert study.directions == [optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE]
    assert second.points[0].load() is not None


def test_the_password_is_not_written_down(run: Run, memory_path: Path) -> None:
    run("quiet", trials=1)
    for file in (memory_path / "quiet").rglob("*"):
        assert not file.is_file() or b"secret" not in file.read_bytes()


@pytest.mark.slow
def test_two_searches_share_a_database_but_not_a_study(run: Run, memory_path: Path, server: Server) -> None:
    run("two", trials=1)
    other = memory_path / "elsewhere"
    with pytest.raises(ConfigError, match="belongs to another run folder"):
        run("two", other)
    (memory_path / "moved").mkdir()
    (memory_path / "two").rename(memory_path / "moved" / "two")  # the folder goes where it likes
    assert len(run("two", memory_path / "moved", trials=2).candidates) == 2
    with pytest.raises(ConfigError, match="belongs to another run folder"):
        run("two", other, fresh=True)
    assert len(run("two", memory_path / "moved", trials=2).candidates) == 2  # nothing of it was thrown away
    assert len(run("two", memory_path / "moved", fresh=True, trials=1).candidates) == 1
    run("three", trials=1)
    held = Study(server.url, "random", 0, True, "three")
    with pytest.raises(ConfigError, match="another search is using the study 'three'"):
        run("three", trials=2)
    held.close()
    assert len(run("three", trials=2).candidates) == 2


@pytest.mark.slow
def test_a_server_that_goes_away_ends_the_search_which_resumes(run: Run, server: Server) -> None:
    def stop(p: Progress) -> None:
        if p.done == 2:
            server.stop()
    with pytest.raises(ConfigError, match="study cannot be read or written") as caught:
        run("away", on_progress=stop)
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match="study cannot be read or written"):
        run("away")
    server.start()
    until = time.monotonic() + 30
    while True:  # the lock goes with the lost connection, once the server knows of it
        try:
            found = run("away")
            break
        except ConfigError:
            assert time.monotonic() < until
            time.sleep(0.2)
    assert len(found.candidates) == 4


def test_what_is_no_such_database_is_refused_at_once() -> None:
    for url in ("nonsense", "sqlite:///a.db", "mysql://me:secret@host/x", "postgresql//me:secret@host/db",
                "postgresql://me:se@secret@host/db", "postgresql://me:secret@host:54x/db"):
        with pytest.raises(ConfigError, match="postgresql://") as caught:
            check_storage(url)
        assert "secret" not in str(caught.value)
    assert without_password("postgresql://me:secret@host/x") == without_password("postgresql://me@host/x")
    assert without_password("postgresql://me@host/x?password=secret&sslmode=require") == (
        "postgresql://me@host/x?sslmode=require")


def test_a_driver_that_is_missing_is_told() -> None:
    with pytest.raises(ConfigError, match=r"autoprune\[postgresql\]"):
        Study("postgresql+psycopg2://me@host/x", "random", 0, True)
