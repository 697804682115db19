"""Latency on a calibrated device: its own kernels' prices (`kernels.py`) instead of published facts.

    t = Σ price(node) − n · overhead

A price is what the runtime's profiler saw, and the profiler itself takes `overhead` per node; it was measured when the
device was calibrated. What this is not: a measurement. It knows one runtime version, one thread count and an otherwise
idle device at the clock it had then; the interval held 90 % of the calibration's held-out nets.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.devices.device import Calibration, Device, ErrorFigures
from autoprune.devices.latency import Latency, check_percentile
from autoprune.devices.node import Node
from autoprune.devices.node_table import ms_by_operator
from autoprune.errors import ConfigError, DeviceError, UnmeasurableError

if TYPE_CHECKING:
    from autoprune.devices.calibration.kernels import KernelModel

__all__ = ["load_kernels", "predict", "predict_table", "prices_within", "without_overhead"]

_OPEN = 1.5  # a kind of node that was never timed may be this many times cheaper or dearer than its stand-in


def predict(nodes: Sequence[Node], device: Device, percentile: str, threads: int | None) -> Latency:
    """Latency of one inference in milliseconds, with the interval that held 90 % of held-out nets.

    Raises `DeviceError` for an empty graph or a kernels file that is missing or was changed, `ConfigError` for an
    unknown percentile or another thread count than the calibrated one.
    """
    check_percentile(percentile)
    calibration, error = _parts(device, threads)
    table = predict_table(nodes, device, threads)
    kernels = load_kernels(calibration.kernels, calibration.sha256)
    total_ms = sum(ms for _, ms in table)
    strange = ms_by_operator((node, ms) for node, ms in table if not kernels.knows(node))
    loose_ms = sum(strange.values())
    notes = [f"operator {op} was not timed when {device.name} was calibrated ({100 * ms / total_ms:.0f} % of the sum)"
             for op, ms in sorted(strange.items()) if ms > 0.01 * total_ms]
    if percentile != "p50":
        notes.append(f"a calibration knows medians only; {percentile} on the device will be higher")
    lo_ms = (total_ms - loose_ms * (1 - 1 / _OPEN)) * error.lo_ratio
    hi_ms = (total_ms + loose_ms * (_OPEN - 1)) * error.hi_ratio
    return Latency(ms=total_ms, lo_ms=lo_ms, hi_ms=hi_ms, percentile=percentile,
                   source="calibrated", device=device.resolved, runtime=device.runtime,
                   runtime_version=device.runtime_version, threads=calibration.threads, n=error.rows,
                   notes=tuple(notes))


def predict_table(nodes: Sequence[Node], device: Device, threads: int | None = None) -> list[tuple[Node, float]]:
    """`(node, milliseconds)` in execution order; the sum is the predicted latency."""
    if not nodes:
        raise UnmeasurableError("the graph has no nodes, so there is nothing to price",
                                fix="check the export: onnxruntime folded the whole model into constants")
    return list(zip(nodes, prices_within(nodes, nodes, device, threads), strict=True))


def prices_within(nodes: Sequence[Node], net: Sequence[Node], device: Device, threads: int | None = None
                  ) -> list[float]:
    """Milliseconds of each of `nodes` if it were part of `net`."""
    calibration, _ = _parts(device, threads)
    seen = load_kernels(calibration.kernels, calibration.sha256).ms(nodes, net)
    return without_overhead(seen.tolist(), calibration.overhead_ms)


def without_overhead(seen_ms: Iterable[float], overhead_ms: float) -> list[float]:
    """What each node takes when no profiler looks, never below a hundredth of what it saw."""
    return [max(ms - overhead_ms, ms / 100) for ms in seen_ms]


def _parts(device: Device, threads: int | None) -> tuple[Calibration, ErrorFigures]:
    if device.calibration is None or device.error is None:
        raise ConfigError(f"device {device.name!r} is not calibrated", given=f"kind {device.kind}",
                          fix="autoprune devices calibrate")
    if threads is not None and threads != device.calibration.threads:
        raise ConfigError(f"{device.name} was calibrated with another number of threads", given=str(threads),
                          allowed=str(device.calibration.threads), fix="autoprune devices calibrate --threads N")
    return device.calibration, device.error


@cache
def load_kernels(path: str, sha256: str) -> KernelModel:
    """The kernels beside a device file. Raises `DeviceError` when they are missing, damaged or not those."""
    import numpy as np  # here, so that devices can be listed and loaded without it

    from autoprune.devices.calibration.kernels import KernelModel

    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DeviceError("the calibration's kernels are missing", given=f"{path}: {error.strerror}",
                          fix="keep the .npz beside the device file, or calibrate again") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DeviceError("the calibration's kernels are not those that the device file was written with", given=path,
                          fix="calibrate again: autoprune devices calibrate")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return KernelModel.from_arrays(dict(arrays))
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DeviceError("the calibration's kernels cannot be read", given=f"{path}: {error}",
                          fix="calibrate again: autoprune devices calibrate") from error
