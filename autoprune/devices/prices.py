"""What a net costs on a device that nothing is run on: by its calibration where there is one, else by its profile."""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Sequence

from autoprune.devices import profile
from autoprune.devices.calibration import calibrated
from autoprune.devices.device import Device
from autoprune.devices.latency import Latency
from autoprune.devices.node import Node
from autoprune.devices.nodes import load_model, read_nodes
from autoprune.errors import ConfigError

__all__ = ["nodes_for", "predict", "predict_table", "prices_within"]


def nodes_for(onnx_bytes: bytes, device: Device) -> list[Node]:
    """The nodes that the device's runtime makes of a model, as `read_nodes`.

    Raises `ConfigError` where this machine's runtime cannot make them: a calibration on blocked channels, read on Arm;
    and for weights in a precision that the device's prices do not know.
    """
    if device.calibration is None:
        _require_float32(onnx_bytes, device)
    layout = device.calibration is not None and device.calibration.layout
    if layout and platform.machine() not in ("x86_64", "AMD64"):
        raise ConfigError(f"{device.name} was calibrated on blocked channels, which this machine's runtime cannot make",
                          given=platform.machine(), allowed="x86_64", fix="search on an x86 machine, or measure here")
    nodes = read_nodes(onnx_bytes, layout=layout)
    if any(n.cls.startswith("int8") or n.cls in ("quantize", "dequantize") for n in nodes):
        device.require_int8()
    return nodes


def _require_float32(onnx_bytes: bytes, device: Device) -> None:
    """This machine's runtime casts weights of another precision from node to node, which says nothing of the device.
    (A table in float64 among weights in float32 is no matter.)
    """
    from onnx import TensorProto

    sizes: Counter[int] = Counter()
    for t in load_model(onnx_bytes).graph.initializer:
        sizes[t.data_type] += math.prod(t.dims) if len(t.dims) > 1 else 0
    other = {kind: sizes[kind] for kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)}
    if sum(other.values()) > sizes[TensorProto.FLOAT]:
        raise ConfigError("a profile prices models whose weights are in float32",
                          given=TensorProto.DataType.Name(max(other, key=lambda kind: other[kind])).lower(),
                          allowed=f"float32, from which {device.name} prices what it computes in: {device.precision}",
                          fix="model.float() before it is exported, and float32 inputs")


def predict(nodes: Sequence[Node], device: Device, percentile: str = "p50", threads: int | None = None) -> Latency:
    """Latency of one inference in milliseconds, with its interval, source and notes.

    Raises `DeviceError` for an empty graph, `ConfigError` for a device that cannot be predicted, an unknown percentile
    or a thread count that the device does not have.
    """
    if device.calibration is not None:
        return calibrated.predict(nodes, device, percentile, threads)
    return profile.predict(nodes, device, percentile, threads)


def predict_table(nodes: Sequence[Node], device: Device, threads: int | None = None) -> list[tuple[Node, float]]:
    """`(node, milliseconds)` in execution order; the sum is the predicted latency."""
    if device.calibration is not None:
        return calibrated.predict_table(nodes, device, threads)
    return profile.predict_table(nodes, device, threads)


def prices_within(nodes: Sequence[Node], net: Sequence[Node], device: Device, threads: int | None = None
                  ) -> list[float]:
    """Milliseconds of each of `nodes` if it were part of `net`; what a call costs beside its nodes is left out."""
    if device.calibration is not None:
        return calibrated.prices_within(nodes, net, device, threads)
    return profile.prices(nodes, device, threads)
