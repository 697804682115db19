"""What plans take on the device: each width pattern is priced or measured once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from autoprune.devices.device import Device
from autoprune.devices.latency import Latency
from autoprune.devices.profiler import MeasuredProfiler, Profiler
from autoprune.graph.module import PrunedModule
from autoprune.graph.plan import Cut, Plan
from autoprune.search.measured_nodes import MeasuredNodes
from autoprune.search.pipeline import Pipeline
from autoprune.search.plan_latency import PlanLatency

__all__ = ["Latencies"]

_Widths = tuple[str, tuple[str, ...], tuple[tuple[str, int], ...]]


class Latencies:
    """Latencies of plans of one search.

    alone: a context in which nothing else computes on this machine; what is timed here is timed inside it.
    """

    def __init__(self, pipeline: Pipeline, profiler: Profiler, device: Device, nodes: MeasuredNodes,
                 alone: Callable[[], AbstractContextManager[None]]):
        self._pipeline, self._profiler, self._device, self._nodes = pipeline, profiler, device, nodes
        times_here = device.address is None and (device.is_measured or device.calibration is not None)
        self._alone = alone if times_here else nullcontext
        self._known: dict[_Widths, Latency] = {}

    def dense(self, known_ms: float | None) -> Latency:
        """The dense model's, which measured candidates are timed in turns with from now on; known_ms: what it took when
        the search began, None if that is now.
        """
        with self._pipeline.clock.time("measure"), self._alone():
            onnx = self._pipeline.onnx(self._pipeline.dense)
            self._profiler.reference = onnx
            if isinstance(self._profiler, MeasuredProfiler):
                self._profiler.baseline_ms = known_ms
            found = self._profiler.latency(onnx)
            self._keep_nodes(Plan())
        self._known["fp32", (), ()] = found
        return found

    def of(self, plan: Plan) -> Latency:
        """Latency of a plan. It does not depend on which units stay: no method has to choose them, and plans that
        differ in methods only are measured once. Masks are not counted; a note tells what the device's file says of
        them. Raises `DeviceError`.
        """
        widths = plan.precision, plan.dropped, tuple(sorted((n, c.keep) for n, c in plan.cuts.items()))
        if widths not in self._known:
            with self._pipeline.clock.time("measure"), self._alone():
                self._known[widths] = self._profiler.latency(self._pipeline.deployed(self._any_units(plan)))
                self._keep_nodes(plan)
        latency = self._known[widths]
        patterns = dict.fromkeys(m.pattern for m in plan.masks.values())
        return replace(latency, notes=(*latency.notes, *map(self._device.mask_note, patterns)))

    def ms(self, plan: Plan) -> float:
        """The same in milliseconds."""
        return self.of(plan).ms

    def again_ms(self, plan: Plan) -> list[float]:
        """The same measured anew, each time in a process of its own; empty for a prediction. Raises `DeviceError`."""
        with self._pipeline.clock.time("measure"), self._alone():
            onnx = self._pipeline.deployed(self._any_units(plan))
            return self._profiler.measured_again(onnx, self._known["fp32", (), ()].ms)

    def quick_ms(self, plan: Plan) -> float:
        """For many plans: the same, but the table's where that would be a measurement each (not in int8, which the
        table does not have).
        """
        if plan.precision != "fp32" or not isinstance(self._profiler, MeasuredProfiler):
            return self.ms(plan)
        return self._table(self._profiler).ms(plan)

    def table(self, threads: int | None, percentile: str) -> PlanLatency:
        """Prices plans without making them; for a measured device it learns from all that was measured on it."""
        if isinstance(self._profiler, MeasuredProfiler):
            return self._table(self._profiler)
        return PlanLatency(self._pipeline.graph, self._device, threads=threads, percentile=percentile,
                           maker=self._pipeline.maker)

    def _table(self, profiler: MeasuredProfiler) -> PlanLatency:
        return self._nodes.table(profiler.measurer.hello().machine)

    def _keep_nodes(self, plan: Plan) -> None:
        """What the nodes of a plan just measured took; those of a model in int8, or of one that lacks some, teach
        nothing about the table's.
        """
        if plan.precision != "fp32" or plan.dropped:
            return
        if isinstance(self._profiler, MeasuredProfiler) and self._profiler.last is not None:
            self._nodes.keep(plan, self._profiler.last)

    def _any_units(self, plan: Plan) -> PrunedModule:
        """A model of the plan's widths."""
        any_units = replace(plan, cuts={n: Cut(c.keep, "random") for n, c in plan.cuts.items()}, masks={})
        is_dense = any_units.digest == Plan().digest
        return self._pipeline.dense if is_dense else self._pipeline.graph.cut(any_units)
