"""What each group is worth: MACs and latency saved when half of its units go."""

from __future__ import annotations

from autoprune.devices.profiler import open_profiler
from autoprune.graph.graph import Graph
from autoprune.graph.macs import count
from autoprune.graph.onnx_maker import OnnxMaker
from autoprune.graph.plan import Cut, Plan

__all__ = ["saved_by_group"]


def saved_by_group(graph: Graph, device: str | None) -> dict[str, dict[str, float]]:
    """For each group the fraction of MACs, and of the latency on `device` if given, that halving it saves."""
    out: dict[str, dict[str, float]] = {}
    dense = graph.dense()
    macs = max(count(dense, graph.example_inputs).macs, 1)
    profiler, maker = open_profiler(device) if device is not None else None, OnnxMaker(graph)
    try:
        whole = profiler.latency(maker.onnx(dense)).ms if profiler is not None else 0.0
        for name, group in graph.groups.items():
            half = graph.cut(Plan({name: Cut(max(1, group.size // 2), "random")}, graph.fingerprint))
            out[name] = {"macs_saved": 1 - count(half, graph.example_inputs).macs / macs}
            if profiler is not None:
                out[name]["latency_saved"] = 1 - profiler.latency(maker.onnx(half)).ms / whole
    finally:
        if profiler is not None:
            profiler.close()
    return out
