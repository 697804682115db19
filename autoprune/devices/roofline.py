"""Latency on a GPU: a roofline per kernel plus what it costs to start one.

For node i of the optimised graph, at the precision of the profile (`value_bytes` per value):

    t = launch + max(2 · MACs / (compute_efficiency · peak),  bytes / (memory_efficiency · bandwidth))

Elementwise operators are free of a launch: TensorRT fuses them into the operator before them. What that leaves out
(their traffic where they are not fused, streams, tactics, host work) is in the interval. Roofline: Williams, Waterman,
Patterson, CACM 52(4), 2009. Where the constants come from is in each TOML and in
docs/decisions/2026-11-21-profiles-of-other-devices.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from autoprune.devices.node import Node

__all__ = ["FUSED", "RooflineConstants", "roofline_ms"]

FUSED = frozenset({"relu", "sigmoid", "tanh", "erf", "exp", "sqrt", "hardsigmoid", "hardswish", "silu", "gelu", "add",
                   "broadcast", "batchnorm"})
"""Price classes without a kernel of their own after fusion."""


@dataclass(frozen=True)
class RooflineConstants:
    """What the roofline needs. Units: TFLOP/s at the profile's precision (dense), GB/s, µs per kernel, µs per call.

    `compute_efficiency` and `memory_efficiency` are the shares of the peaks that kernels reach, 0 to 1.
    """

    cores: ClassVar[int] = 1
    """Host threads that a prediction may ask for."""

    peak_tflops: float
    bandwidth_gbs: float
    value_bytes: int
    compute_efficiency: float
    memory_efficiency: float
    launch_us: float
    call_us: float


def roofline_ms(node: Node, constants: RooflineConstants) -> float:
    """Milliseconds of one node, without its share of the call. Free nodes cost nothing."""
    if node.cls in FUSED or node.cls == "free":
        return 0.0
    compute_ms = 2 * node.macs / (constants.compute_efficiency * constants.peak_tflops * 1e9)
    moved = constants.value_bytes * (node.in_elems + node.out_elems + node.weights)
    return max(compute_ms, moved / (constants.memory_efficiency * constants.bandwidth_gbs * 1e6)) \
        + constants.launch_us / 1e3
