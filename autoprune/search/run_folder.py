"""The run folder: `config.toml`, `env.json`, `study.db`, `candidates/`, and the lock that keeps it to one search."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import socket
import time
import tomllib
import uuid
import weakref
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from sqlalchemy import URL

from autoprune.config import differences, to_toml
from autoprune.errors import ConfigError
from autoprune.files import replace_file, writing
from autoprune.graph.module import PrunedModule
from autoprune.search.candidate import INT8_FILE

__all__ = ["RunFolder", "environment", "write_model"]

SCHEMA = 1
_OWN = ("config.toml", "env.json", "study.db", "study.db-journal", "candidates", "work", "nodes.jsonl", "picked",
        "front.json", "report.html", "id")
_PACKAGES = ("autoprune", "torch", "optuna", "onnx", "onnxscript", "onnxruntime", "numpy", "fvcore")


def environment() -> dict[str, Any]:
    """Versions and machine, for `env.json` and reports."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {"python": platform.python_version(), "system": platform.platform(), "machine": platform.machine(),
            "cpus": os.cpu_count(), "packages": versions}


def write_model(target: Path, model: PrunedModule, int8: bytes | None = None) -> None:
    """Write a model, and its ONNX in int8, into the folder `target`, which is there whole or not at all.

    Raises `ConfigError` when that cannot be written.
    """
    temporary = target.with_name(target.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with writing("a candidate's weights", target, sum(t.numel() * t.element_size() for t in model.tensors().values())):
        model.save(temporary)
        if int8 is not None:
            (temporary / INT8_FILE).write_bytes(int8)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)


_HELD: weakref.WeakSet[IO[str]] = weakref.WeakSet()


def _let_go() -> None:
    """A forked process does not hold the folders of its parent: it may leave others behind that outlive the search."""
    for lock in list(_HELD):
        lock.close()


os.register_at_fork(after_in_child=_let_go)


class RunFolder:
    """One search's folder, held by one process at a time (`with RunFolder(...)`)."""

    def __init__(self, path: str | os.PathLike[str], storage: str | None = None):
        """`storage`: URL of the database that the study is in; None for a file in the folder."""
        self.path, self._storage = Path(path), storage
        self._lock: IO[str] | None = None

    @property
    def storage(self) -> str:
        """URL of the study."""
        return self._storage or URL.create("sqlite", database=str(self.path / "study.db")).render_as_string()

    @property
    def study(self) -> str:
        """Name of the study: in a database that others use too, the folder's."""
        return "autoprune" if self._storage is None else self.path.resolve().name

    @property
    def place(self) -> str | None:
        """What tells this folder from others, for a study that is in a database and has its candidates here."""
        if self._storage is None:
            return None
        file = self.path / "id"
        if not file.is_file():
            replace_file(file, uuid.uuid4().hex)
        return file.read_text(encoding="ascii")

    @property
    def candidates(self) -> Path:
        return self.path / "candidates"

    @property
    def work(self) -> Path:
        """What is being evaluated; nothing in it outlives the search."""
        return self.path / "work"

    @property
    def nodes(self) -> Path:
        """What the nodes of measured candidates took."""
        return self.path / "nodes.jsonl"

    def candidate(self, number: int) -> Path:
        return self.candidates / f"{number:04d}"

    def open(self, configuration: Mapping[str, Any], *, fresh: bool = False) -> RunFolder:
        """Create the folder or resume it; refuses a folder that is something else's, another configuration, another
        schema or a second search.
        """
        self._refuse_others()
        try:
            self.candidates.mkdir(parents=True, exist_ok=True)
            self._hold()
        except OSError as error:
            raise ConfigError("the run folder cannot be written", given=f"{self.path}: {error.strerror or error}",
                              fix="--run DIR with a folder you may write to") from error
        try:
            self._settle({"schema": SCHEMA, **configuration}, fresh)
            shutil.rmtree(self.work, ignore_errors=True)
            self.work.mkdir()
        except BaseException:
            self.close()  # nobody else will: `open` returns no folder
            raise
        return self

    def _refuse_others(self) -> None:
        """A folder without a search's configuration may not hold what a search would write over, or remove."""
        if (self.path / "config.toml").exists():
            return
        there = [name for name in _OWN if (self.path / name).exists()]
        if self.candidates.is_dir() and not any(self.candidates.iterdir()):
            there.remove("candidates")
        if there:
            raise ConfigError("this folder is not a search's: it has no config.toml, but what a search would overwrite",
                              given=f"{self.path}: {', '.join(there)}", fix="--run DIR for a new folder")

    def _settle(self, wanted: Mapping[str, Any], fresh: bool) -> None:
        """Compare the configuration with what is there, and write it: what may differ is what this search goes by."""
        before = self._read()
        if fresh:
            self._clear()
        elif before is not None and (self._storage or before.get("storage") or (self.path / "study.db").exists()):
            self._compare(before, wanted)
        self.write("config.toml", to_toml(wanted))  # first: it says that the folder is a search's
        if not (self.path / "env.json").exists():
            self.write("env.json", json.dumps(environment(), indent=1))

    def _read(self) -> dict[str, Any] | None:
        """The configuration that is there. A `config.toml` of something else is not to be touched."""
        config = self.path / "config.toml"
        if not config.is_file():
            return None
        try:
            before = tomllib.loads(config.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError("the configuration of the run folder cannot be read", given=f"{config}: {error}",
                              fix="--run DIR for a new folder") from error
        if "schema" not in before or "model_fingerprint" not in before:
            raise ConfigError("this folder is not a search's: its config.toml is something else", given=self.path,
                              fix="--run DIR for a new folder")
        return before

    def _compare(self, before: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        free = {"trials", "timeout", "max_drop", "reuse", "workers", "candidate_timeout", "cluster",
                "candidate_gpus"}
        diff = differences({k: v for k, v in before.items() if k not in free},
                           {k: v for k, v in wanted.items() if k not in free and v is not None})
        if diff:
            indented = "\n".join("    " + line for line in diff.splitlines())
            if "task_fingerprint" in diff:
                indented += "\n    (of weights, data, metric and loss; data that is drawn anew each time needs a seed)"
            raise ConfigError(f"the run folder {self.path} belongs to another search (- there, + now):\n{indented}",
                              fix="--run DIR for a new folder, or --fresh to throw the old results away")

    def _clear(self) -> None:
        """Remove what a search writes, and nothing else that may lie in the folder. It stays the same folder: its id
        says which study of a database may go with it.
        """
        for item in (self.path / name for name in _OWN if name != "id"):
            if item.is_dir():
                shutil.rmtree(item)
            else:
                item.unlink(missing_ok=True)
        self.candidates.mkdir()

    def _hold(self) -> None:
        lock = open(self.path / ".lock", "a+", encoding="utf-8")  # noqa: SIM115  (held until the search ends)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            lock.close()
            raise ConfigError(f"another search is using the run folder {self.path}", given=holder,
                              fix="wait for it, or --run DIR for another folder") from None
        lock.truncate(0)
        lock.write(f"pid {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        lock.flush()
        self._lock = lock
        _HELD.add(lock)

    def save_model(self, number: int, model: PrunedModule, int8: bytes | None = None) -> None:
        """Write a candidate's model, and its ONNX in int8; a folder that is there is complete."""
        write_model(self.candidate(number), model, int8)

    def save_tuned(self, number: int, model: PrunedModule, int8: bytes | None = None) -> None:
        """Write what a candidate's model became beside it; `settle_tuned` puts it in its place."""
        write_model(self._tuned(number), model, int8)

    def settle_tuned(self, number: int) -> None:
        """Nothing happens where nothing waits; a kill in the middle leaves what waits, whole."""
        if self._tuned(number).is_dir():
            self.take_model(number, self._tuned(number))

    def _tuned(self, number: int) -> Path:
        return self.candidate(number).with_suffix(".tuned")

    def take_model(self, number: int, folder: Path) -> None:
        """Make a folder that `write_model` wrote the candidate's."""
        target = self.candidate(number)
        with writing("a candidate's weights", target):
            shutil.rmtree(target, ignore_errors=True)
            folder.rename(target)

    def adopt_model(self, number: int, source: Path) -> None:
        """Copy a candidate's files from another run; a folder that is there is complete."""
        target = self.candidate(number)
        temporary = target.with_name(target.name + ".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        with writing(f"a candidate's weights from {source}", target):
            shutil.copytree(source, temporary)
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)

    def int8(self, number: int) -> bytes | None:
        """A candidate's ONNX in int8; None when it is deployed in fp32."""
        path = self.candidate(number) / INT8_FILE
        return path.read_bytes() if path.is_file() else None

    def drop_model(self, number: int) -> None:
        """Remove the weights of a candidate that others dominate; its plan and scores stay in the study."""
        for folder in (self.candidate(number), self._tuned(number)):
            shutil.rmtree(folder, ignore_errors=True)

    def write(self, name: str, text: str) -> None:
        """Replace a file in one step."""
        with writing("a file of the run folder", self.path / name, len(text)):
            replace_file(self.path / name, text)

    def close(self) -> None:
        if self._lock is not None:
            shutil.rmtree(self.work, ignore_errors=True)
            self._lock.close()
            self._lock = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()
