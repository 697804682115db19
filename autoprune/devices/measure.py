"""`Measurer` times a candidate in turns with the dense model, in a process of its own."""

from __future__ import annotations

import hashlib
import math
import shutil
import tempfile
import weakref
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from autoprune.devices.adb import adb_worker
from autoprune.devices.address import Address
from autoprune.devices.agent.facts import usable_cores
from autoprune.devices.device import Device
from autoprune.devices.hello import Hello
from autoprune.devices.latency import check_percentile
from autoprune.devices.measurement import Measurement, NodeTime, RunStats, read_measurement
from autoprune.devices.nodes import load_model
from autoprune.devices.remote import ssh_worker
from autoprune.devices.worker_process import WorkerLost, WorkerProcess, local_worker
from autoprune.errors import ConfigError, DeviceError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Measurement", "Measurer", "NodeTime", "RunStats"]

_REMOTE_CACHE_BYTES = 1 << 30


class Measurer:
    """Times models on this machine or on a remote one; a context manager that owns one worker process.

    The worker starts (and a remote device is connected to) with the first `measure` or `hello`, and lives until
    `close`. A crash or a timeout raises `DeviceError` for that call only; the next one starts a fresh worker. A
    connection that is lost is made again once within the call. Measurements of one user never overlap on a device (a
    lock; waiting for it may take half of `timeout_s`). Not thread-safe: one measurer, one caller.

    `threads` None means the device's, or all usable cores. Raises `ConfigError` for a device that is not measured or
    for more threads than usable cores (of a remote device: when it is connected to).
    """

    def __init__(self, device: Device, threads: int | None = None, timeout_s: float = 120.0):
        if not device.is_measured:
            raise ConfigError(f"{device.name!r} is priced, so it cannot be measured", given=f"kind {device.kind}",
                              allowed="cpu, cuda, tensorrt, or the address of a device: ssh://user@host")
        if not math.isfinite(timeout_s) or timeout_s <= 0:
            raise ConfigError("the timeout must be above 0 seconds", given=repr(timeout_s))
        self.device, self.timeout_s, self.cool_down_s = device, timeout_s, 20.0
        self._wanted_threads = threads if threads is not None else device.threads
        if device.address is None:
            self._threads(usable_cores())
        self._worker = _open(device)
        self._models: set[str] = set()  # hashes of what is known to be a model
        self._hello: Hello | None = None
        self._greeted: int | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="autoprune-measure-"))
        # also when nobody calls close: on garbage collection and at exit
        self._finalizer = weakref.finalize(self, _release, self._worker, self._folder)

    def __enter__(self) -> Measurer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker while it runs."""
        return self._worker.pid

    def measure(self, onnx_bytes: bytes, *, reference: bytes | None = None, percentile: str = "p50",
                inputs: dict[str, np.ndarray] | None = None, min_runs: int = 20, min_s: float = 0.3,
                warmup_runs: int = 10, warmup_s: float = 0.1, repeats: int = 2, profile_runs: int = 0
                ) -> Measurement:
        """Time `onnx_bytes` until `min_runs` runs and `min_s` seconds, in turns with `reference` if given.

        The defaults suit a search; for a number to quote use min_runs=30, min_s=1, warmup_s=0.5. Both models get the
        same `inputs`; without them, seeded random floats and zero integers with symbolic dimensions set to 1. Repeats
        up to `repeats` times while drifting (> 5 %: with a reference, of the ratio) or, without one, noisy
        (p90/p10 > 1.1); what remains is said in `notes`. With
        `profile_runs` above 0 so many further runs, in a session of their own, tell the time of every node.

        Raises `DeviceError` when the model cannot be loaded or run, or the worker crashes or times out; `ConfigError`
        for bad arguments.
        """
        _check(percentile, min_runs, min_s, warmup_runs, warmup_s, repeats, profile_runs)
        files: dict[str, bytes] = {}
        request = {
            "op": "measure", "candidate": self._model(onnx_bytes, files),
            "reference": None if reference is None else self._model(reference, files),
            "inputs": None if inputs is None else _add(_npz(inputs), files), "provider": self.device.provider,
            "min_runs": min_runs, "min_s": min_s, "warmup_runs": warmup_runs, "warmup_s": warmup_s, "repeats": repeats,
            "profile_runs": profile_runs, "wait_s": self.timeout_s / 2, "cool_down_s": self.cool_down_s}
        try:
            answer, threads = self._ask(request, files)
        except WorkerLost:
            if self.device.address is None:
                raise
            answer, threads = self._ask(request, files)
        return read_measurement(answer, percentile, self.device.resolved, self.device.runtime, threads)

    def hello(self) -> Hello:
        """What the device says about itself. Raises `DeviceError` when it cannot be reached or measured on."""
        self._check_open()
        if self._hello is None or self._greeted is None or self._worker.pid != self._greeted:
            here = self.device.address is None
            request = {"op": "hello", "cache": str(self._folder) if here else None,
                       "cache_bytes": 0 if here else _REMOTE_CACHE_BYTES}
            found = Hello.read(self._worker.ask(request, self.timeout_s))
            found.check(self.device.runtime_version)
            if self._hello is not None and (found.onnxruntime, found.machine) != (self._hello.onnxruntime,
                                                                                  self._hello.machine):
                raise DeviceError("the device changed while it was measured on",
                                  given=f"onnxruntime {found.onnxruntime} on {found.machine}",
                                  allowed=f"onnxruntime {self._hello.onnxruntime} on {self._hello.machine}",
                                  fix="start again")
            self._hello, self._greeted = found, self._worker.pid
        return self._hello

    def restart(self) -> None:
        """What is measured next is measured in a new process. Raises `ConfigError` when this is closed."""
        self._check_open()
        self._worker.close()

    def close(self) -> None:
        """End the worker and delete its files; safe to call twice."""
        self._finalizer()

    def _check_open(self) -> None:
        if not self._finalizer.alive:
            raise ConfigError("this was closed, and measures nothing any more", given=self.device.name,
                              fix="make a new LatencyOracle or Measurer, or measure inside its with")

    def _model(self, onnx_bytes: bytes, files: dict[str, bytes]) -> str:
        digest = _add(onnx_bytes, files) if isinstance(onnx_bytes, bytes | bytearray) else ""
        if digest not in self._models:
            load_model(onnx_bytes)  # a clear error here instead of a crash there
            self._models.add(digest)
        return digest

    def _ask(self, request: dict[str, Any], files: dict[str, bytes]) -> tuple[dict[str, Any], int]:
        """The answer to a request that needs `files`, of which only what the device lacks is sent; and the threads."""
        threads = self._threads(self.hello().cores)
        sizes = {digest: len(content) for digest, content in files.items()}
        missing = self._worker.ask({"op": "has", "files": sizes}, self.timeout_s).get("missing")
        if not isinstance(missing, list):
            raise DeviceError("the device did not tell which files it lacks", given=str(missing)[:200],
                              fix="measure again")
        for digest in missing:
            if not isinstance(digest, str) or digest not in files:
                raise DeviceError("the device asks for a file that it does not need", given=str(digest)[:200],
                                  fix="measure again")
            content = files[digest]
            self._worker.ask({"op": "put", "sha256": digest, "size": len(content)}, self.timeout_s, content)
        return self._worker.ask({**request, "threads": threads}, self.timeout_s), threads

    def _threads(self, cores: int) -> int:
        threads = cores if self._wanted_threads is None else self._wanted_threads
        if not 1 <= threads <= cores:
            raise ConfigError("more threads than usable cores would measure the scheduler", given=str(threads),
                              allowed=f"1 to {cores} (affinity, cgroup limits, and big cores only)",
                              fix=f"--threads {cores}")
        return threads


def _open(device: Device) -> WorkerProcess:
    if device.address is None:
        return local_worker()
    address = Address.parse(device.address)
    return ssh_worker(address) if address.scheme == "ssh" else adb_worker(address)


def _release(worker: WorkerProcess, folder: Path) -> None:
    worker.close()
    shutil.rmtree(folder, ignore_errors=True)


def _add(content: bytes, files: dict[str, bytes]) -> str:
    digest = hashlib.sha256(content).hexdigest()
    files[digest] = content
    return digest


def _npz(inputs: dict[str, np.ndarray]) -> bytes:
    """The inputs as an .npz file; the same inputs give the same bytes."""
    import io

    import numpy as np

    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in sorted(inputs.items())}
    for name, array in arrays.items():
        if array.dtype == object or (array.dtype.kind == "f" and not np.isfinite(array).all()):
            raise ConfigError(f"input {name!r} must hold finite numbers", given=str(array.dtype))
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _check(percentile: str, min_runs: int, min_s: float, warmup_runs: int, warmup_s: float, repeats: int,
           profile_runs: int) -> None:
    check_percentile(percentile)
    if min_runs < 1 or min(warmup_runs, repeats, profile_runs) < 0 or not 0 <= min_s < math.inf \
            or not 0 <= warmup_s < math.inf:
        raise ConfigError("runs, seconds and repeats must not be negative, and at least one run is needed",
                          given=f"{min_runs=}, {min_s=}, {warmup_runs=}, {warmup_s=}, {repeats=}, {profile_runs=}")
