"""Plans on a calibrated device whose runtime lays channels out in blocks: padding, and other nodes below one block."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.devices.calibration import calibrate
from autoprune.devices.calibration.kernels import KernelModel
from autoprune.devices.calibration.nets import calibration_nets
from autoprune.devices.device import Device, load_device
from autoprune.devices.nodes import read_nodes
from autoprune.devices.prices import nodes_for, predict
from autoprune.graph.graph import Graph, trace
from autoprune.graph.onnx_maker import OnnxMaker
from autoprune.graph.plan import Plan
from autoprune.search.plan_latency import PlanLatency

pytestmark = pytest.mark.usefixtures("one_export_per_graph")


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Device:
    """Whose kernels take 1 µs and a nanosecond per value and 20 multiply-adds, and all of it less in a small net."""
    graphs = [read_nodes(net, layout=True) for net in itertools.islice(calibration_nets(1), 6)]
    nets = [[(n, (1e-3 + 1e-6 * (n.in_elems + n.out_elems + n.macs / 20))
              * (sum(m.out_elems for m in nodes) / 1e5) ** 0.4) for n in nodes] for nodes in graphs]
    folder = tmp_path_factory.mktemp("device")
    facts = {"threads": 1, "layout": True, "overhead_ms": 0.0, "probe_ms": 1.0, "nets": 6, "nodes": 99,
             "processor": "made up"}
    return calibrate._write(folder, "blocked", load_device("cpu"), KernelModel.fit(nets), np.array([0.9, 1.0, 1.1]),
                            facts, "1.0")


@pytest.fixture(scope="module")
def graph() -> Graph:
    """One group of exactly a block, one that ends within a block, and two of whole blocks."""
    block = load_device("cpu").alignment()
    layers: list[nn.Module] = []
    for c_in, c_out in itertools.pairwise([3, block, block + 8, 4 * block, 3 * block]):
        layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3 * block, 5))
    return trace(model.eval(), torch.randn(1, 3, 12, 12))


@pytest.mark.parametrize("first", [1.0, 0.5], ids=["a whole block", "less than a block"])
@pytest.mark.parametrize("rest", [1.0, 0.5])
def test_a_plan_is_priced_as_its_model(device: Device, graph: Graph, first: float, rest: float) -> None:
    table = PlanLatency(graph, device)
    sizes = {name: group.size for name, group in graph.groups.items()}
    block = device.alignment()
    keep = {name: max(block, int(rest * size) // block * block) if rest < 1 else size for name, size in sizes.items()}
    keep[next(iter(keep))] = int(first * block)
    plan = Plan.of(graph, keep, "random")
    found = predict(nodes_for(OnnxMaker(graph).of(plan), device), device)
    assert table.latency(plan).ms == pytest.approx(found.ms, rel=0.02)
    assert not table.exact
    assert table.why == ""


def test_the_narrowest_plan_is_priced_as_its_model(device: Device) -> None:
    """Where blocks are most of the net, what small nets save has to be known for small blocks."""
    block = device.alignment()
    layers: list[nn.Module] = []
    for c_in in (3, block, block):
        layers += [nn.Conv2d(c_in, block, 3, padding=1), nn.ReLU()]
    graph = trace(nn.Sequential(*layers, nn.Conv2d(block, 2, 3)).eval(), torch.randn(1, 3, 32, 32))
    plan = Plan.of(graph, dict.fromkeys(graph.groups, 2), "random")
    found = predict(nodes_for(OnnxMaker(graph).of(plan), device), device)
    assert PlanLatency(graph, device).latency(plan).ms == pytest.approx(found.ms, rel=1e-3)


def test_each_state_has_its_own_table(device: Device, graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    table, first = PlanLatency(graph, device), next(iter(graph.groups))
    for keep in (1.0, 0.5):
        table.latency(Plan.of(graph, {first: keep}, "random"))
    monkeypatch.setattr(PlanLatency, "_nodes", lambda *_: pytest.fail("a model was made"))
    for count in range(2, load_device("cpu").alignment() + 1):
        assert table.latency(Plan.of(graph, {first: count}, "random")).ms > 0
    assert table.prepare({first: [4, 8]}) > 0


def test_without_blocks_there_is_one_table(graph: Graph) -> None:
    """Whichever channels go."""
    table = PlanLatency(graph, "rpi4")
    for keep in (1.0, 0.5):
        table.latency(Plan.of(graph, {next(iter(graph.groups)): keep}, "random"))
    assert list(table._tables) == [()]
