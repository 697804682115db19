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

from autoprune.devices.agent import usable_cores
from autoprune.devices.device import Device
from autoprune.devices.latency import PERCENTILES
from autoprune.devices.measurement import Measurement, NodeTime, RunStats, read_measurement
from autoprune.devices.nodes import load_model
from autoprune.devices.worker_process import WorkerProcess, local_worker
from autoprune.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Measurement", "Measurer", "NodeTime", "RunStats"]


class Measurer:
    """Times models on this machine; a context manager that owns one worker process.

    The worker starts with the first `measure` and lives until `close`. A crash or a timeout raises `DeviceError` for
    that call only; the next one starts a fresh worker. Measurements of one user never overlap on a machine (a lock).
    Not thread-safe: one measurer, one caller.

    `threads` None means the device's, or all usable cores. Raises `ConfigError` for a device that is not this machine
    or for more threads than usable cores.
    """

    def __init__(self, device: Device, threads: int | None = None, timeout_s: float = 120.0):
        if device.kind != "measured-local":
            raise ConfigError(f"{device.name!r} is not this machine, so it cannot be measured here",
                              given=f"kind {device.kind}", allowed="a device of kind measured-local, such as cpu")
        if not math.isfinite(timeout_s) or timeout_s <= 0:
            raise ConfigError("the timeout must be above 0 seconds", given=repr(timeout_s))
        cores = usable_cores()
        self.threads = threads if threads is not None else device.threads or cores
        if not 1 <= self.threads <= cores:
            raise ConfigError("more threads than usable cores would measure the scheduler", given=str(self.threads),
                              allowed=f"1 to {cores} (affinity and cgroup limits)", fix=f"--threads {cores}")
        self.device, self.timeout_s, self.cool_down_s = device, timeout_s, 20.0
        self._worker = local_worker()
        self._known: set[str] = set()  # files that are checked to be models
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
        up to `repeats` times while noisy (p90/p10 > 1.15) or drifting (> 5 %); what remains is said in `notes`. With
        `profile_runs` above 0 so many further runs, in a session of their own, tell the time of every node.

        Raises `DeviceError` when the model cannot be loaded or run, or the worker crashes or times out; `ConfigError`
        for bad arguments.
        """
        _check(percentile, min_runs, min_s, warmup_runs, warmup_s, repeats, profile_runs)
        if not self._finalizer.alive:
            raise ConfigError("this measurer is closed", fix="make a new Measurer")
        files: dict[str, bytes] = {}
        request = {
            "op": "measure", "candidate": self._model(onnx_bytes, files),
            "reference": None if reference is None else self._model(reference, files),
            "inputs": None if inputs is None else _add(_npz(inputs), files), "threads": self.threads,
            "provider": self.device.provider, "min_runs": min_runs, "min_s": min_s, "warmup_runs": warmup_runs,
            "warmup_s": warmup_s, "repeats": repeats, "profile_runs": profile_runs, "wait_s": self.timeout_s / 2,
            "cool_down_s": self.cool_down_s}
        self._greet()
        self._send(files)
        answer = self._worker.ask(request, self.timeout_s)
        return read_measurement(answer, percentile, self.device.resolved, self.device.runtime, self.threads)

    def close(self) -> None:
        """End the worker and delete its files; safe to call twice."""
        self._finalizer()

    def _model(self, onnx_bytes: bytes, files: dict[str, bytes]) -> str:
        digest = _add(onnx_bytes, files) if isinstance(onnx_bytes, bytes | bytearray) else ""
        if digest not in self._known:
            load_model(onnx_bytes)  # a clear error here instead of a crash there
            self._known.add(digest)
        return digest

    def _greet(self) -> None:
        """Say hello to a worker that has not been greeted yet."""
        if self._greeted is None or self._worker.pid != self._greeted:
            self._worker.ask({"op": "hello", "cache": str(self._folder), "cache_bytes": 0}, self.timeout_s)
            self._greeted = self._worker.pid

    def _send(self, files: dict[str, bytes]) -> None:
        """Have the worker hold `files`; only what it lacks is sent."""
        sizes = {digest: len(content) for digest, content in files.items()}
        missing = self._worker.ask({"op": "has", "files": sizes}, self.timeout_s)["missing"]
        for digest, content in files.items():
            if digest in missing:
                self._worker.ask({"op": "put", "sha256": digest, "size": len(content)}, self.timeout_s, content)


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
    if percentile not in PERCENTILES:
        raise ConfigError("unknown percentile", given=repr(percentile), allowed=", ".join(PERCENTILES))
    if min_runs < 1 or min(warmup_runs, repeats, profile_runs) < 0 or not 0 <= min_s < math.inf \
            or not 0 <= warmup_s < math.inf:
        raise ConfigError("runs, seconds and repeats must not be negative, and at least one run is needed",
                          given=f"{min_runs=}, {min_s=}, {warmup_runs=}, {warmup_s=}, {repeats=}, {profile_runs=}")
