"""`Profiler`: the contract between the search and whatever tells latency; `open_profiler` picks one for a device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from types import TracebackType
from typing import final

from autoprune.devices import compare
from autoprune.devices.device import Device, load_device
from autoprune.devices.latency import Latency, check_percentile
from autoprune.devices.measure import Measurer
from autoprune.devices.measurement import Measurement
from autoprune.devices.node_table import NodeLatency
from autoprune.devices.nodes import read_nodes
from autoprune.devices.prices import nodes_for, predict, predict_table
from autoprune.errors import ConfigError

__all__ = ["MeasuredProfiler", "PredictedProfiler", "Profiler", "open_profiler"]

_PROFILE_RUNS = 20
_EACH_S, _FIRST_S = 0.3, 1.0  # of runs, of a candidate, and of the dense model at first: all else is a multiple of that
_AGAIN = 3  # processes in which a recommended point is timed


class Profiler(ABC):
    """ONNX bytes → `Latency`.

    Life cycle: made once per search in the search's own process, used as a context manager; `latency` is called once
    per candidate, one call at a time, never while something trains on the same machine; `close` is called once at
    the end (and again, harmlessly, by `__exit__`). `latency` must not change the bytes and must answer the same
    question for every call (same device, threads, percentile). Raising `DeviceError` fails that candidate with the
    reason and the search goes on with the next call; any other exception ends the search.
    """

    device: Device
    reference: bytes | None = None
    """ONNX of the dense model, once it is known; measuring profilers time it in turns with every candidate."""

    @abstractmethod
    def latency(self, onnx_bytes: bytes) -> Latency:
        """Latency of one inference in milliseconds; symbolic input dimensions are taken as 1."""

    def nodes(self, onnx_bytes: bytes) -> list[NodeLatency]:
        """What each node takes, in execution order; empty where only whole models can be told. Not used by a search."""
        return []

    def measured_again(self, onnx_bytes: bytes, dense_ms: float) -> list[float]:
        """Milliseconds on the device itself, once or several times and longer than for a candidate, where `dense_ms` is
        the dense model's latency in the search; empty where nothing can be measured. Asked of the points that a search
        would recommend.
        """
        return []

    def compare(self, onnx_bytes: bytes, reference: bytes) -> compare.Comparison:
        """How much longer `onnx_bytes` takes than `reference`; without an interval unless a subclass knows one."""
        return compare.plain(self.latency(onnx_bytes), self.latency(reference))

    def close(self) -> None:  # noqa: B027 - nothing to close by default
        """Release processes and files; safe to call twice."""

    def __enter__(self) -> Profiler:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


@final
class PredictedProfiler(Profiler):
    """Prices the optimised graph with the device's calibration or profile; runs nothing."""

    def __init__(self, device: Device, percentile: str = "p50", threads: int | None = None):
        self.device, self.percentile, self.threads = device, percentile, threads

    def latency(self, onnx_bytes: bytes) -> Latency:
        """The predicted latency, with its interval."""
        return predict(nodes_for(onnx_bytes, self.device), self.device, self.percentile, self.threads)

    def nodes(self, onnx_bytes: bytes) -> list[NodeLatency]:
        """The price of each node; the sum is the latency."""
        return [NodeLatency(n.name, n.op, n.macs, ms)
                for n, ms in predict_table(nodes_for(onnx_bytes, self.device), self.device, self.threads)]

    def compare(self, onnx_bytes: bytes, reference: bytes) -> compare.Comparison:
        """The ratio of the sums, with the interval of `compare.predicted`."""
        both = [nodes_for(model, self.device) for model in (onnx_bytes, reference)]
        ours, theirs = (predict(nodes, self.device, self.percentile, self.threads) for nodes in both)
        assert self.device.error is not None  # `predict` has refused such a device
        table, other = (predict_table(nodes, self.device, self.threads) for nodes in both)
        return compare.predicted(table, other, self.device.error, (ours, theirs))


@final
class MeasuredProfiler(Profiler):
    """Measures on this machine or a remote one, in turns with `reference` (the dense model) once that is set.

    A machine is not equally fast all day. So that candidates measured minutes apart can be compared, a latency is the
    ratio to the dense model in the same measurement, times `baseline_ms`, what that took at first; without a dense
    model, a fixed small one takes its place. `last` is the latest measurement, with the time of each node.
    """

    def __init__(self, device: Device, percentile: str = "p50", threads: int | None = None,
                 reference: bytes | None = None, timeout_s: float = 120.0):
        self.device, self.percentile, self.reference = device, percentile, reference
        self.baseline_ms: float | None = None
        self.last: Measurement | None = None
        self._probe_ms: float | None = None
        self.measurer = Measurer(device, threads, timeout_s)

    def latency(self, onnx_bytes: bytes) -> Latency:
        """The ratio that was measured times the reference's percentile, with p10–p90 of the runs in proportion."""
        from autoprune.devices.calibration.nets import probe  # numpy, which importing this room does not need

        sentinel = probe() if self.reference is None else self.reference
        begins = self.reference is not None and self.baseline_ms is None
        found = self.measurer.measure(onnx_bytes, reference=sentinel, percentile=self.percentile,
                                      min_s=_FIRST_S if begins else _EACH_S, profile_runs=_PROFILE_RUNS)
        assert found.reference is not None  # one was given
        if self.reference is None:
            self._probe_ms = baseline_ms = self._probe_ms or found.reference.ms
        else:
            self.baseline_ms = baseline_ms = self.baseline_ms or found.reference.ms
        self.last = found.scaled(found.ratio * baseline_ms)
        return _noted(self.last.latency, baseline_ms / found.reference.ms)

    def nodes(self, onnx_bytes: bytes) -> list[NodeLatency]:
        """The mean of 20 runs under onnxruntime's profiler, which takes time itself: the sum is above the latency.

        Multiply-adds are those of the node of that name and shape in the graph as this machine's runtime optimises it;
        None where there is none.
        """
        found = self.measurer.measure(onnx_bytes, min_runs=1, min_s=0.0, repeats=0, profile_runs=_PROFILE_RUNS)
        macs = {(n.name, n.out_shapes[0] if n.out_shapes else ()): n.macs
                for layout in (False, True) for n in read_nodes(onnx_bytes, layout=layout)}
        return [NodeLatency(n.name, n.op, macs.get((n.name, n.shape)), n.ms) for n in found.nodes]

    def compare(self, onnx_bytes: bytes, reference: bytes) -> compare.Comparison:
        """From one longer measurement of both in turns."""
        found = self.measurer.measure(onnx_bytes, reference=reference, percentile=self.percentile, min_runs=60,
                                      min_s=1.0, warmup_s=0.5, repeats=2)
        return compare.timed_in_turns(found)

    def measured_again(self, onnx_bytes: bytes, dense_ms: float) -> list[float]:
        """By its ratio to the dense model, in turns with it: three times, each in a process of its own, since sessions
        of the same model differ.
        """
        ratios = []
        for _ in range(_AGAIN):
            self.measurer.restart()
            ratios.append(self.measurer.measure(onnx_bytes, reference=self._dense(), percentile=self.percentile,
                                                min_runs=60, min_s=0.5, repeats=1).ratio)
        return [ratio * dense_ms for ratio in ratios]

    def ratio(self, onnx_bytes: bytes) -> float:
        """Latency over that of `self.reference`, by `compare`; below 1 is faster."""
        return self.compare(onnx_bytes, self._dense()).ratio

    def _dense(self) -> bytes:
        if self.reference is None:
            raise ConfigError("a ratio needs a reference model", fix="set profiler.reference to the dense ONNX bytes")
        return self.reference

    def close(self) -> None:
        """End the worker process."""
        self.measurer.close()


def _noted(latency: Latency, factor: float) -> Latency:
    note = (f"scaled by {factor:.2f}: the machine's speed had changed",) if abs(factor - 1) > 0.03 else ()
    return replace(latency, notes=(*latency.notes, *note))


def open_profiler(device: Device | str, *, percentile: str = "p50", threads: int | None = None,
                  reference: bytes | None = None, timeout_s: float = 120.0) -> Profiler:
    """The profiler for a device (by name, path or `Device`); use it in a `with`.

    Raises `ConfigError` for unknown devices, percentiles and thread counts.
    """
    check_percentile(percentile)
    found = load_device(device)
    if found.is_measured:
        return MeasuredProfiler(found, percentile, threads, reference, timeout_s)
    if found.calibration is not None:
        from autoprune.devices.calibration.profiler import CalibratedProfiler

        return CalibratedProfiler(found, percentile, threads, timeout_s=timeout_s)
    return PredictedProfiler(found, percentile, threads)
