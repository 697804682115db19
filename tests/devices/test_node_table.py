from __future__ import annotations

import pytest

from autoprune.devices.node_table import NodeLatency, by_operator, side_by_side, slowest

NODES = [NodeLatency("a", "Conv", 10, 1.0), NodeLatency("b", "Relu", None, 2.5), NodeLatency("c", "Conv", 5, 0.5)]


def test_sums_by_operator_with_shares():
    relu, conv = by_operator(NODES)
    assert (relu.op, relu.count, relu.macs, relu.ms) == ("Relu", 1, None, 2.5)
    assert (conv.op, conv.count, conv.macs, conv.ms) == ("Conv", 2, 15, 1.5)
    assert relu.share + conv.share == pytest.approx(1)
    assert conv.share == pytest.approx(1.5 / 4)


def test_nothing_and_nothing_that_takes_time():
    assert by_operator([]) == []
    assert by_operator([NodeLatency("a", "Flatten", 0, 0.0)])[0].share == 0


def test_slowest_first():
    assert [n.name for n in slowest(NODES, 2)] == ["b", "a"]
    assert [n.name for n in slowest(NODES, 9)] == ["b", "a", "c"]


def test_side_by_side_keeps_what_only_one_has():
    pairs = side_by_side(NODES, [NodeLatency("x", "Gemm", 4, 3.0), NodeLatency("y", "Conv", 4, 1.0)])
    assert [(a.op, a.count, b.count) for a, b in pairs] == [("Gemm", 0, 1), ("Relu", 1, 0), ("Conv", 2, 1)]
    assert all(a.op == b.op for a, b in pairs)
