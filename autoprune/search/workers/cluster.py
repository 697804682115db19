"""Candidates on a Ray cluster: each is a task that may be repeated, wherever there is room for it.

Ray starts processes, finds room, and repeats what a node or a worker was lost with; nothing of that is done here. A
worker keeps the pipeline of the search that it last worked for, so that only its first candidate waits for the model
to be loaded and traced.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import pickle
import platform
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from autoprune.errors import ConfigError, first_line
from autoprune.files import writing
from autoprune.search.workers.blueprint import Blueprint, user_modules
from autoprune.search.workers.job import Done, Job, evaluate, failed, from_json, to_json
from autoprune.search.workers.workers import Workers

__all__ = ["Cluster", "Resources", "find_ray", "take_gpu"]

_RETRIES = 2  # of a task whose node or worker was lost
_MOST_LOSSES = 5  # of the connection in a row
_PATIENCE_S = 300.0  # for a cluster that was lost to come back
_LOOK_S = 1.0  # how often the limits of candidates are looked at

_ALL_GPUS = {f"RAY_EXPERIMENTAL_NOSET_{kind}_VISIBLE_DEVICES": "1" for kind in ("CUDA", "HIP")}
"""So that a worker sees all of its node's, of which each of its tasks is lent one."""

_Result = tuple[dict[str, Any], dict[str, bytes]]
"""A `Done` as JSON, and the files of the model by name."""
_pipelines: dict[str, Any] = {}  # in a worker: the latest search's


@dataclass(frozen=True)
class Resources:
    """What Ray sets aside for one candidate."""

    cpus: float = 1.0
    gpus: float = 0.0


def find_ray(address: str) -> Any:
    """The package, once the address is known to be one; connects to nothing. Raises `ConfigError`."""
    # read when Ray is imported; autoprune sends nothing anywhere
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError("Ray is not installed, or not whole", given=f"--cluster {address}: {error}",
                          fix="pip install 'autoprune[ray]'") from error
    if address not in ("local", "auto") and not address.startswith("ray://"):
        raise ConfigError("not the address of a cluster", given=f"--cluster {address}",
                          allowed="ray://host:10001, auto (the cluster that this machine is in), local (a new one)",
                          fix="--cluster local")
    return ray


def _connect(ray: Any, address: str) -> None:
    """Raises `ConfigError` when that is not possible. A handler of SIGTERM stays what it was: Ray's own would end the
    process at once, and the search would leave no front.
    """
    ours = signal.getsignal(signal.SIGTERM)
    new = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, **new)
    except Exception as error:
        fix = "ray start --head on the first machine, then ray start --address=HOST:6379 on others"
        if "client server failed" in str(error):  # Ray 2.60 may tell it port 0 of an agent that is still starting
            fix = "start the head with a fixed port: ray start --head --runtime-env-agent-port=6380"
        raise ConfigError("the cluster cannot be reached", given=f"--cluster {address}: {error}"[:400],
                          fix=fix) from error
    finally:
        if callable(ours) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ours)


@dataclass
class _Running:
    job: Job
    started_s: float
    ref: Any = None  # of Ray's task; None where the connection was lost before there was one


@final
class Cluster(Workers):
    """Evaluates as many jobs at once as the cluster has room for, or `count`.

    limit_s: wall clock that a candidate may take from when it was handed to Ray; None for no limit. A candidate whose
    process dies is repeated by Ray; one that ran out of memory (and said so, or Ray did) is tried once more with
    batches of half the size. When the connection is lost (the head was restarted), it is made again, for up to five
    minutes, and what was running is started again.
    """

    def __init__(self, address: str, blueprint: Blueprint, resources: Resources, count: int | None = None,
                 limit_s: float | None = None):
        self._address, self._blueprint, self._resources = address, blueprint, resources
        self._count, self._limit_s = count, limit_s
        self._running: dict[int, _Running] = {}
        self._ended: list[Done] = []
        self._losses = 0  # of the connection since the last result
        self._ray = find_ray(address)
        self._lost = (ConnectionError, self._ray.exceptions.RaySystemError)
        self._owned = not self._ray.is_initialized()  # else the user's own program goes on with it
        if self._owned:
            _connect(self._ray, address)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        if self._blueprint.task is not None:
            from ray import cloudpickle

            for module in user_modules(self._blueprint.task):
                cloudpickle.register_pickle_by_value(module)
        try:
            self._shared = self._ray.put(self._blueprint)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise ConfigError("the task cannot be sent to other machines", given=str(error)[:300],
                              fix="name model and data (--model nets.py:make), or leave out what cannot be pickled"
                              ) from error
        self._key = os.urandom(8).hex()
        self._task = self._ray.remote(num_cpus=self._resources.cpus, num_gpus=self._resources.gpus, max_calls=0,
                                      max_retries=_RETRIES, retry_exceptions=False,
                                      runtime_env={"env_vars": _ALL_GPUS} if self._resources.gpus else None)(_evaluate)
        self._slots = self._fitting()
        if self._slots < 1:
            raise ConfigError("no candidate fits the cluster", given=f"{self._wanted()} wanted",
                              allowed=f"{self._ray.cluster_resources()} in all"[:300],
                              fix="--candidate-gpus 0, or add nodes: ray start --address=HOST:6379")

    def _fitting(self) -> int:
        """How many candidates the cluster has room for."""
        total = self._ray.cluster_resources()
        return int(min(total.get(kind, 0.0) / amount for kind, amount in self._wanted().items() if amount > 0))

    def _wanted(self) -> dict[str, float]:
        return {"CPU": self._resources.cpus, "GPU": self._resources.gpus}

    @property
    def room(self) -> int:
        return max(0, min(self._count or self._slots, self._slots) - self.running)

    @property
    def running(self) -> int:
        return len(self._running) + len(self._ended)

    def start(self, job: Job) -> None:
        self._running[job.number] = running = _Running(job, time.monotonic())
        with contextlib.suppress(*self._lost):  # `wait` connects anew
            running.ref = self._task.remote(self._key, [self._shared], self._blueprint.gpus,
                                            replace(job, folder=Path(job.folder.name)))

    def wait(self, until_s: float = math.inf) -> list[Done]:
        while self._running and not self._ended and time.monotonic() < until_s:
            running = {r.job.number: r.ref for r in self._running.values() if r.ref is not None}
            if len(running) < len(self._running):
                self._reconnect(ConnectionError("the connection was lost"))
                continue
            try:
                ready, _ = self._ray.wait(list(running.values()), num_returns=1, timeout=_LOOK_S)
                for number, ref in running.items():
                    if ref in ready:
                        self._ended += self._end(number, ref)
                self._stop_late()
                self._slots = max(1, self._fitting())  # nodes come and go
            except self._lost as error:
                self._reconnect(error)
        ended, self._ended = self._ended, []
        return ended

    def _end(self, number: int, ref: Any) -> list[Done]:
        """The result of a task; nothing when it is tried once more."""
        exceptions = self._ray.exceptions
        try:
            told, files = self._ray.get(ref)
        except self._lost:
            raise
        except exceptions.RayError as error:
            job = self._running.pop(number).job
            if isinstance(error, exceptions.OutOfMemoryError) and not job.half_batches:
                self.start(replace(job, half_batches=True))
                return []
            cause = getattr(error, "cause", None) or error
            if isinstance(cause, ConfigError):
                return [Done(job.number, None, fatal=cause)]
            return [Done(job.number, failed(job.number, job.origin, job.plan, first_line(cause)))]
        job = self._running.pop(number).job
        self._losses = 0
        done = from_json(told)
        if done.out_of_memory and not job.half_batches:
            self.start(replace(job, half_batches=True))
            return []
        if done.candidate is not None and files:
            _unpack(files, job.folder)
            done = replace(done, folder=job.folder)
        return [done]

    def _stop_late(self) -> None:
        if self._limit_s is None:
            return
        for running in list(self._running.values()):
            if time.monotonic() - running.started_s > self._limit_s:
                self._ray.cancel(running.ref, force=True)
                job = self._running.pop(running.job.number).job
                reason = f"took longer than {self._limit_s:.0f} s and was stopped (--candidate-timeout)"
                self._ended.append(Done(job.number, failed(job.number, job.origin, job.plan, reason)))

    def _reconnect(self, problem: Exception) -> None:
        """Connect anew and start again what was running. Raises `ConfigError` when the cluster does not come back, or
        is lost again and again without a result.
        """
        self._losses += 1
        if self._losses > _MOST_LOSSES:
            raise ConfigError("the cluster was lost again and again", given=str(problem)[:300],
                              fix="ray status; then run the same command again")
        until = time.monotonic() + _PATIENCE_S
        jobs = [r.job for r in self._running.values()]
        self._running.clear()
        while True:
            with contextlib.suppress(Exception):  # what is lost cannot be closed in good order
                self._ray.shutdown()
            try:
                _connect(self._ray, self._address)
                self._open()
                break
            except (ConfigError, *self._lost):
                if time.monotonic() > until:
                    raise
                time.sleep(2.0)
        for job in jobs:
            self.start(job)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Lets what runs come to its end where this machine is one of the cluster's."""
        if self._running and self._is_here():
            waiting = self._ended
            while self._running:
                self._ended = []
                waiting += self.wait()
            self._ended = waiting
        yield

    def _is_here(self) -> bool:
        if self._address == "local":
            return True
        import ray.util

        here = ray.util.get_node_ip_address()
        return any(n["Alive"] and n["NodeManagerAddress"] in (here, "127.0.0.1") for n in self._ray.nodes())

    def cancel(self) -> None:
        for running in self._running.values():
            with contextlib.suppress(Exception):  # the cluster may be what was lost
                self._ray.cancel(running.ref, force=True)
        self._running.clear()
        self._ended.clear()

    def close(self) -> None:
        self.cancel()
        if self._owned:
            with contextlib.suppress(Exception):  # as above
                self._ray.shutdown()


def take_gpu() -> None:
    """In a task: make the GPU that Ray lends to it the current one. A process is kept for other tasks, each of which
    may be lent another GPU, while torch sees for good what it saw first.
    """
    import ray
    import torch

    if torch.cuda.is_available():
        lent = str(ray.get_gpu_ids()[0])
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or os.environ.get("HIP_VISIBLE_DEVICES")  # to the node
        torch.cuda.set_device(visible.split(",").index(lent) if visible else int(lent))


def _evaluate(key: str, shared: list[Any], gpus: float, job: Job) -> _Result:
    """In a worker of the cluster. `shared` holds Ray's reference to the blueprint: as an argument of its own Ray would
    read model and data anew for every task.
    """
    import ray
    import torch

    try:
        if gpus:
            take_gpu()
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides no GPU from who asked for none
        if key not in _pipelines:
            _pipelines.clear()
            _pipelines[key] = ray.get(shared[0]).build()
    except ray.exceptions.ObjectLostError:  # with its node: not this worker's fault
        raise
    except Exception as error:  # whatever it is, every candidate would fail with it here
        problem = ConfigError("a worker of the cluster cannot load the search's model and data",
                              given=f"{platform.node()}: {type(error).__name__}: {error}"[:400],
                              fix="the same code, data and packages on every node, under the same path")
        return to_json(Done(job.number, None, fatal=problem)), {}
    pipeline = _pipelines[key]
    if job.half_batches:
        _pipelines.clear()  # the next candidate has whole batches again
        pipeline.halve_batches()
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    folder = Path(tempfile.mkdtemp(prefix="autoprune-candidate-"))
    try:
        done = evaluate(pipeline, replace(job, folder=folder / job.folder.name))
        files = {} if done.folder is None else {f.name: f.read_bytes() for f in done.folder.iterdir()}
        return to_json(replace(done, folder=None)), files
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if gpus and torch.cuda.is_available():
            torch.cuda.empty_cache()  # the next task's may be another GPU, and others share this one


def _unpack(files: dict[str, bytes], folder: Path) -> None:
    """Write a model's files, whole or not at all."""
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with writing("a candidate's weights", folder, sum(map(len, files.values()))):
        temporary.mkdir()
        for name, content in files.items():
            (temporary / Path(name).name).write_bytes(content)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
