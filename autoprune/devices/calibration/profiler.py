"""`CalibratedProfiler`: predictions of a calibrated device that get better with the first candidates."""

from __future__ import annotations

from typing import final

from autoprune.devices.calibration.calibrate import reachable, time_net
from autoprune.devices.calibration.calibrated import without_overhead
from autoprune.devices.calibration.correction import Correction
from autoprune.devices.compare import Comparison, plain
from autoprune.devices.device import Device
from autoprune.devices.latency import Latency
from autoprune.devices.measure import Measurer
from autoprune.devices.node_table import NodeLatency
from autoprune.devices.prices import nodes_for, predict, predict_table
from autoprune.devices.profiler import Profiler
from autoprune.errors import ConfigError, DeviceError

__all__ = ["CalibratedProfiler"]

_LESSONS = 8  # measured candidates, as in docs/benchmarks.md; other numbers were not tried


@final
class CalibratedProfiler(Profiler):
    """Prices with the device's own kernels, and learns from the first candidates, which it measures too.

    Every answer is a prediction, of the first candidates as well, so that all are told by the same rule. `lessons` is
    how many are measured; 0 runs nothing.
    """

    def __init__(self, device: Device, percentile: str = "p50", threads: int | None = None, lessons: int = _LESSONS,
                 timeout_s: float = 120.0):
        self.device, self.percentile, self.threads = device, percentile, threads
        self.correction, self._lessons = Correction(), lessons
        assert device.calibration is not None  # `open_profiler` has looked
        self._measurer = Measurer(reachable(device), device.calibration.threads, timeout_s) if lessons else None

    def latency(self, onnx_bytes: bytes) -> Latency:
        """The predicted latency, with its interval."""
        self._attend(onnx_bytes)
        return self._told(onnx_bytes)

    def compare(self, onnx_bytes: bytes, reference: bytes) -> Comparison:
        """The ratio of the two predictions, told after both models were learnt from; without an interval."""
        self._attend(onnx_bytes)
        self._attend(reference)
        return plain(self._told(onnx_bytes), self._told(reference))

    def _attend(self, onnx_bytes: bytes) -> None:
        if len(self.correction) < self._lessons:
            self.learn(onnx_bytes)

    def _told(self, onnx_bytes: bytes) -> Latency:
        nodes = nodes_for(onnx_bytes, self.device)
        plain = predict(nodes, self.device, self.percentile, self.threads)
        total_ms = self.correction.total_ms(predict_table(nodes, self.device, self.threads))
        return plain.scaled(total_ms / plain.ms)

    def measured_again(self, onnx_bytes: bytes, dense_ms: float) -> list[float]:
        """Once, in turns with the calibration's probe, and scaled by it; empty when nothing is to be measured or the
        device cannot be reached now.
        """
        calibration = self.device.calibration
        if self._measurer is None or calibration is None:
            return []
        try:
            timed = time_net(self._measurer, onnx_bytes, calibration.layout, runs=60, seconds=1.0, warmup_runs=10)
        except DeviceError:
            return []
        return [timed.ms * calibration.probe_ms / timed.probe_ms]

    def learn(self, onnx_bytes: bytes) -> None:
        """Measure a variant of the model that is searched, and learn from it. Raises `DeviceError` when that fails."""
        calibration = self.device.calibration
        if self._measurer is None or calibration is None:
            raise ConfigError("this profiler measures nothing", given="lessons=0")
        timed = time_net(self._measurer, onnx_bytes, calibration.layout, runs=20, seconds=0.3, warmup_runs=5)
        speed = calibration.probe_ms / timed.probe_ms
        taken = without_overhead((ms for _, ms in timed.nodes), calibration.overhead_ms)
        seen = {node.name: speed * ms for (node, _), ms in zip(timed.nodes, taken, strict=True)}
        self.correction.learn(predict_table(nodes_for(onnx_bytes, self.device), self.device), seen, speed * timed.ms)

    def nodes(self, onnx_bytes: bytes) -> list[NodeLatency]:
        """The price of each node before anything was learnt."""
        return [NodeLatency(n.name, n.op, n.macs, ms)
                for n, ms in predict_table(nodes_for(onnx_bytes, self.device), self.device, self.threads)]

    def close(self) -> None:
        """End the worker process."""
        if self._measurer is not None:
            self._measurer.close()
