"""Measuring on this machine: `Measurer` times a candidate in turns with the dense model, in a process of its own."""

from __future__ import annotations

import hashlib
import math
import shutil
import tempfile
import weakref
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from autoprune.devices.device import Device
from autoprune.devices.latency import PERCENTILES, Latency
from autoprune.devices.nodes import load_model
from autoprune.devices.threads import usable_cores
from autoprune.devices.turn import machine_lock
from autoprune.devices.worker_process import WorkerProcess
from autoprune.errors import ConfigError, DeviceError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Measurement", "Measurer", "RunStats"]

_NOISY, _DRIFT = 1.15, 0.05


@dataclass(frozen=True)
class RunStats:
    """Of `n` timed runs: milliseconds."""

    min_ms: float
    p10_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    n: int


@dataclass(frozen=True)
class Measurement:
    """A candidate's latency, that of the dense model timed in between (if given), and the runs behind both.

    `drift` is how much slower the sentinel (the dense model, or the candidate itself) was in the second half, as a
    fraction; `attempts` how often it had to be measured.
    """

    latency: Latency
    reference: Latency | None
    stats: RunStats
    reference_stats: RunStats | None
    drift: float
    attempts: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"latency": self.latency.to_json(), "stats": asdict(self.stats), "drift": self.drift,
                "attempts": self.attempts, "reference": None if self.reference is None else self.reference.to_json(),
                "reference_stats": None if self.reference_stats is None else asdict(self.reference_stats)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Measurement:
        """The inverse of `to_json`."""
        reference, stats = data["reference"], data["reference_stats"]
        return cls(Latency.from_json(data["latency"]), None if reference is None else Latency.from_json(reference),
                   RunStats(**data["stats"]), None if stats is None else RunStats(**stats), data["drift"],
                   data["attempts"])


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
                              allowed=f"1 to {cores} (affinity and cgroup limits)")
        self.device, self.timeout_s = device, timeout_s
        self._worker = WorkerProcess()
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
                warmup_runs: int = 10, warmup_s: float = 0.1, repeats: int = 2) -> Measurement:
        """Time `onnx_bytes` until `min_runs` runs and `min_s` seconds, in turns with `reference` if given.

        The defaults suit a search; for a number to quote use min_runs=30, min_s=1, warmup_s=0.5. Both models get the
        same `inputs`; without them, seeded random floats and zero integers with symbolic dimensions set to 1. Repeats
        up to `repeats` times while noisy (p90/p10 > 1.15) or drifting (> 5 %); what remains is said in `notes`.

        Raises `DeviceError` when the model cannot be loaded or run, or the worker crashes or times out; `ConfigError`
        for bad arguments.
        """
        _check(percentile, min_runs, min_s, warmup_runs, warmup_s, repeats)
        candidate = self._store(onnx_bytes, "candidate")
        request = {"candidate": str(candidate), "threads": self.threads, "min_runs": min_runs, "min_s": min_s,
                   "warmup_runs": warmup_runs, "warmup_s": warmup_s, "repeats": repeats,
                   "reference": None if reference is None else str(self._store(reference, "reference")),
                   "inputs": None if inputs is None else str(self._store_inputs(inputs))}
        try:
            with machine_lock(self.timeout_s):
                answer = self._worker.ask(request, self.timeout_s)
        finally:
            candidate.unlink(missing_ok=True)
        return self._read(answer, percentile)

    def close(self) -> None:
        """End the worker and delete its files; safe to call twice."""
        self._finalizer()

    def _store(self, onnx_bytes: bytes, role: str) -> Path:
        folder = self._folder
        if not folder.is_dir():
            raise ConfigError("this measurer is closed", fix="make a new Measurer")
        digest = hashlib.sha256(onnx_bytes).hexdigest()[:32] if isinstance(onnx_bytes, bytes | bytearray) else ""
        path = folder / f"{role}-{digest}.onnx"
        if not path.exists():
            load_model(onnx_bytes)  # a clear error here instead of a crash there
            path.write_bytes(onnx_bytes)
        return path

    def _store_inputs(self, inputs: dict[str, np.ndarray]) -> Path:
        import numpy as np

        digest = hashlib.sha256()
        for name, value in sorted(inputs.items()):
            array = np.asarray(value)
            if array.dtype == object or (array.dtype.kind == "f" and not np.isfinite(array).all()):
                raise ConfigError(f"input {name!r} must hold finite numbers", given=str(array.dtype))
            digest.update(f"{name}{array.shape}{array.dtype}".encode() + array.tobytes())
        path = self._folder / f"inputs-{digest.hexdigest()[:32]}.npz"
        if not path.exists():
            arrays: dict[str, Any] = {name: np.asarray(value) for name, value in inputs.items()}
            np.savez(path, **arrays)
        return path

    def _read(self, answer: dict[str, Any], percentile: str) -> Measurement:
        """Check the worker's answer and turn it into a `Measurement`."""
        try:
            stats = _stats(answer["candidate"])
            dense = None if answer["reference"] is None else _stats(answer["reference"])
            drift, attempts, version = float(answer["drift"]), int(answer["attempts"]), str(answer["runtime_version"])
        except (KeyError, TypeError, ValueError) as error:
            raise DeviceError("the measuring process answered with an incomplete record", given=str(error)) from error
        notes = (f"drift {100 * abs(drift):.0f} %",) if not abs(drift) <= _DRIFT else ()
        latency, reference = (None if s is None else self._latency(s, percentile, version, notes)
                              for s in (stats, dense))
        assert latency is not None
        return Measurement(latency, reference, stats, dense, drift, attempts)

    def _latency(self, stats: RunStats, percentile: str, version: str, notes: tuple[str, ...]) -> Latency:
        value = {"p50": stats.p50_ms, "p90": stats.p90_ms, "p99": stats.p99_ms}[percentile]
        noisy = ("noisy",) if stats.p90_ms > _NOISY * stats.p10_ms else ()
        return Latency(ms=value, lo_ms=stats.p10_ms, hi_ms=max(stats.p90_ms, value), percentile=percentile,
                       source="measured", device=self.device.resolved, runtime=self.device.runtime,
                       runtime_version=version, threads=self.threads, n=stats.n, notes=(*noisy, *notes))


def _release(worker: WorkerProcess, folder: Path) -> None:
    worker.close()
    shutil.rmtree(folder, ignore_errors=True)


def _stats(data: dict[str, Any]) -> RunStats:
    stats = RunStats(**{k: float(data[k]) for k in ("min_ms", "p10_ms", "p50_ms", "p90_ms", "p99_ms")},
                     n=int(data["n"]))
    values = (stats.min_ms, stats.p10_ms, stats.p50_ms, stats.p90_ms, stats.p99_ms)
    if not all(math.isfinite(v) and v > 0 for v in values) or list(values) != sorted(values) or stats.n < 1:
        raise ValueError(f"run statistics out of order: {stats}")
    return stats


def _check(percentile: str, min_runs: int, min_s: float, warmup_runs: int, warmup_s: float, repeats: int) -> None:
    if percentile not in PERCENTILES:
        raise ConfigError("unknown percentile", given=repr(percentile), allowed=", ".join(PERCENTILES))
    if min_runs < 1 or warmup_runs < 0 or repeats < 0 or not 0 <= min_s < math.inf or not 0 <= warmup_s < math.inf:
        raise ConfigError("runs, seconds and repeats must not be negative, and at least one run is needed",
                          given=f"{min_runs=}, {min_s=}, {warmup_runs=}, {warmup_s=}, {repeats=}")


