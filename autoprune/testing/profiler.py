"""Conformance of a `Profiler`."""

from __future__ import annotations

from autoprune.devices.latency import Latency
from autoprune.devices.node_table import NodeLatency
from autoprune.devices.profiler import Profiler
from autoprune.errors import AutopruneError

__all__ = ["check_profiler"]


def check_profiler(profiler: Profiler, onnx_bytes: bytes) -> None:
    """`latency` gives a `Latency` of the profiler's device, leaves the bytes alone, says the same kind of thing every
    time, refuses rubbish with an error of autoprune's, and `close` may be called twice. `nodes` gives none, or what
    each takes.
    """
    copy = bytes(onnx_bytes)
    first = profiler.latency(onnx_bytes)
    assert isinstance(first, Latency), f"latency() returned a {type(first).__name__}"
    assert onnx_bytes == copy, "latency() changed the bytes"
    assert first.device == profiler.device.resolved, f"the latency is of {first.device}"
    again = profiler.latency(onnx_bytes)
    for name in ("percentile", "source", "device", "runtime", "threads"):
        assert getattr(first, name) == getattr(again, name), f"{name} changed between two calls"
    nodes = profiler.nodes(onnx_bytes)
    assert all(isinstance(n, NodeLatency) and n.ms >= 0 for n in nodes), f"nodes() returned {nodes}"
    try:
        profiler.latency(b"not a model")
    except AutopruneError:
        pass
    except Exception as error:
        raise AssertionError(f"rubbish raised a {type(error).__name__}, not an error of autoprune's") from error
    else:
        raise AssertionError("rubbish was given a latency")
    try:
        profiler.latency(onnx_bytes)
    except Exception as error:
        raise AssertionError("one bad model ended the profiler") from error
    profiler.close()
    try:
        profiler.close()
    except Exception as error:
        raise AssertionError("close() cannot be called twice") from error
