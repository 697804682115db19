"""`Profiler`: the contract between the search and whatever tells latency; `open_profiler` picks one for a device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import final

from autoprune.devices.device import Device, load_device
from autoprune.devices.latency import PERCENTILES, Latency
from autoprune.devices.measure import Measurer
from autoprune.devices.nodes import read_nodes
from autoprune.devices.profile import predict
from autoprune.errors import ConfigError

__all__ = ["MeasuredProfiler", "PredictedProfiler", "Profiler", "open_profiler"]


class Profiler(ABC):
    """ONNX bytes → `Latency`.

    Life cycle: made once per search in the search's own process, used as a context manager; `latency` is called once
    per candidate, one call at a time, never while something trains on the same machine; `close` is called once at
    the end (and again, harmlessly, by `__exit__`). `latency` must not change the bytes and must answer the same
    question for every call (same device, threads, percentile). Raising `DeviceError` fails that candidate with the
    reason and the search goes on with the next call; any other exception ends the search.
    """

    device: Device

    @abstractmethod
    def latency(self, onnx_bytes: bytes) -> Latency:
        """Latency of one inference in milliseconds; symbolic input dimensions are taken as 1."""

    def close(self) -> None:  # noqa: B027 - nothing to close by default
        """Release processes and files; safe to call twice."""

    def __enter__(self) -> Profiler:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


@final
class PredictedProfiler(Profiler):
    """Prices the optimised graph with the device's profile; runs nothing."""

    def __init__(self, device: Device, percentile: str = "p50", threads: int | None = None):
        self.device, self.percentile, self.threads = device, percentile, threads

    def latency(self, onnx_bytes: bytes) -> Latency:
        """The profile's answer, with its interval."""
        return predict(read_nodes(onnx_bytes), self.device, self.percentile, self.threads)


@final
class MeasuredProfiler(Profiler):
    """Measures on this machine; `reference`, if given, is the dense model, timed in between as drift sentinel."""

    def __init__(self, device: Device, percentile: str = "p50", threads: int | None = None,
                 reference: bytes | None = None, timeout_s: float = 120.0):
        self.device, self.percentile, self.reference = device, percentile, reference
        self.measurer = Measurer(device, threads, timeout_s)

    def latency(self, onnx_bytes: bytes) -> Latency:
        """The measured percentile, with p10–p90 of the runs."""
        return self.measurer.measure(onnx_bytes, reference=self.reference, percentile=self.percentile).latency

    def close(self) -> None:
        """End the worker process."""
        self.measurer.close()


def open_profiler(device: Device | str, *, percentile: str = "p50", threads: int | None = None,
                  reference: bytes | None = None, timeout_s: float = 120.0) -> Profiler:
    """The profiler for a device (by name, path or `Device`); use it in a `with`.

    Raises `ConfigError` for unknown devices, percentiles and thread counts.
    """
    if percentile not in PERCENTILES:
        raise ConfigError("unknown percentile", given=repr(percentile), allowed=", ".join(PERCENTILES))
    found = load_device(device) if isinstance(device, str) else device
    if found.kind == "measured-local":
        return MeasuredProfiler(found, percentile, threads, reference, timeout_s)
    return PredictedProfiler(found, percentile, threads)
