from __future__ import annotations

import pytest

from autoprune.devices.node import Node
from autoprune.devices.roofline import RooflineConstants, roofline_ms

GPU = RooflineConstants(peak_tflops=10., bandwidth_gbs=100., value_bytes=2, compute_efficiency=.5, memory_efficiency=.5,
                        launch_us=10., call_us=0.)


def test_compute_or_memory_and_a_launch():
    compute = Node("a", "Conv", "conv3x3", macs=10**9, in_elems=1000, out_elems=1000, weights=1000)
    memory = Node("b", "Conv", "conv3x3", macs=1000, in_elems=10**6, out_elems=10**6, weights=0)
    assert roofline_ms(compute, GPU) == pytest.approx(2e9 / 5e9 + .01)
    assert roofline_ms(memory, GPU) == pytest.approx(4e6 / 5e7 + .01)


def test_fused_and_free_operators_cost_nothing():
    for cls in ("relu", "add", "free"):
        assert roofline_ms(Node("a", "X", cls, in_elems=10**6, out_elems=10**6), GPU) == 0
