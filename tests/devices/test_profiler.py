"""What every profiler tells beyond a latency: nodes, and the ratio of two models."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoprune.devices.device import load_device
from autoprune.devices.latency import Latency
from autoprune.devices.measurement import Measurement
from autoprune.devices.profiler import MeasuredProfiler, Profiler, open_profiler
from autoprune.errors import ConfigError
from autoprune.nas.oracle import LatencyOracle


def test_predicted_nodes_sum_to_the_latency(cnn):
    with open_profiler("rpi4", threads=2) as profiler:
        nodes = profiler.nodes(cnn(32))
        assert sum(n.ms for n in nodes) == pytest.approx(profiler.latency(cnn(32)).ms)
    assert nodes[1].macs == 16 * 16 * 32 * 32 * 9


def test_measured_nodes_have_their_multiply_adds(cnn):
    with LatencyOracle("cpu", threads=1) as oracle:
        nodes = oracle.nodes(cnn(32))
    convs = [n for n in nodes if "Conv" in n.op]
    assert [n.macs for n in convs][1] == 16 * 16 * 32 * 32 * 9
    assert len(convs) == 5
    assert all(n.macs for n in convs)


def test_predicted_and_measured_ratios(cnn, matmul):
    for device, basis in (("rpi4", "predicted"), ("cpu", "in turns")):
        with LatencyOracle(device, threads=1) as oracle:
            found = oracle.compare(matmul(32), cnn(64))
        assert found.lo <= found.ratio <= found.hi
        assert basis in found.basis
        assert found.latency.device == found.reference.device == device


def test_a_profiler_that_knows_only_latencies(cnn):
    class Sizes(Profiler):
        device = load_device("rpi4")

        def latency(self, onnx_bytes: bytes) -> Latency:
            return Latency(len(onnx_bytes), 1, 1e9, "p50", "profile", "rpi4", "none", "", 1, 1)

    with Sizes() as profiler:
        assert profiler.nodes(cnn(8)) == []
        found = profiler.compare(cnn(8), cnn(32))
    assert found.ratio == len(cnn(8)) / len(cnn(32))
    assert found.lo is found.hi is None


def test_a_ratio_needs_a_reference(cnn):
    with open_profiler("cpu", threads=1) as profiler, pytest.raises(ConfigError, match="needs a reference"):
        profiler.ratio(cnn(8))


def test_latencies_are_scaled_by_a_sentinel_and_say_so(cnn, monkeypatch):
    """The machine halves its speed between two measurements; the fixed small model tells."""
    with open_profiler("cpu", threads=1) as profiler:
        assert isinstance(profiler, MeasuredProfiler)
        measure, speed = profiler.measurer.measure, iter([1.0, 2.0])

        def slower(onnx_bytes: bytes, **options: object) -> Measurement:
            found, factor = measure(onnx_bytes, **options), next(speed)
            return replace(found.scaled(3 * factor), reference=found.reference.scaled(factor / found.reference.ms),
                           in_turns=3.0)

        monkeypatch.setattr(profiler.measurer, "measure", slower)
        first, second = profiler.latency(cnn(8)), profiler.latency(cnn(8))
        assert profiler.last is not None
        assert len(profiler.last.nodes) > 3
    assert first.ms == pytest.approx(3.0)
    assert second.ms == pytest.approx(3.0)
    assert not any("scaled" in note for note in first.notes)
    assert any("scaled by 0.50" in note for note in second.notes)
