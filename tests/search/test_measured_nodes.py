from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import pytest

from autoprune.devices.device import load_device
from autoprune.devices.latency import Latency
from autoprune.devices.measurement import Measurement, NodeTime, RunStats
from autoprune.devices.prices import nodes_for, predict_table
from autoprune.errors import ConfigError
from autoprune.graph.graph import Graph, trace
from autoprune.graph.onnx_maker import OnnxMaker
from autoprune.graph.plan import Plan
from autoprune.search.measured_nodes import MeasuredNodes, _stand_in
from autoprune.search.variants import random_plan, variety

from . import latency_nets

pytestmark = pytest.mark.usefixtures("one_export_per_graph")


@pytest.fixture(scope="module")
def graph() -> Graph:
    return trace(*latency_nets.build("residual"))


def really(graph: Graph, plan: Plan) -> Measurement:
    """What a machine would say on which convolutions take three times, the rest half of what the stand-in says."""
    device = load_device(_stand_in(load_device("cpu"), platform.machine()))
    nodes = [NodeTime(n.name, n.op, ms * (3 if "Conv" in n.op else 0.5), n.out_shapes[0])
             for n, ms in predict_table(nodes_for(OnnxMaker(graph).of(plan), device), device)]
    ms = sum(n.ms for n in nodes)
    latency = Latency(ms, ms, ms, "p50", "measured", "cpu", "onnxruntime", "1", 1, 20)
    return Measurement(latency, None, RunStats(ms, ms, ms, ms, ms, ms, 20), None, 0.0, 1, tuple(nodes))


def test_measured_plans_teach_what_others_take(graph: Graph, tmp_path: Path) -> None:
    kept = MeasuredNodes(tmp_path / "nodes.jsonl", graph, load_device("cpu"))
    others = [random_plan(graph, seed, 4) for seed in range(20, 24)]
    wanted = [really(graph, plan).latency.ms for plan in others]

    def worst() -> float:
        table = kept.table(platform.machine())
        return max(abs(table.latency(p).ms / ms - 1) for p, ms in zip(others, wanted, strict=True))

    untaught = worst()
    for plan in variety(graph, 8, 4):
        kept.keep(plan, really(graph, plan))
    assert worst() < 0.1 < 0.3 < untaught
    again = MeasuredNodes(kept.path, graph, load_device("cpu"))  # a resumed search learns from the file
    assert [again.table(platform.machine()).latency(p).ms for p in others] == pytest.approx(
        [kept.table(platform.machine()).latency(p).ms for p in others])


def test_a_device_that_optimises_as_this_machine_does_gets_kernels_that_were_timed() -> None:
    here = replace(load_device("cpu"), align=16)
    found = load_device(_stand_in(here, platform.machine()))
    assert (found.calibration is not None) == (platform.machine() in ("x86_64", "AMD64"))
    assert _stand_in(replace(here, align=8), "x86_64") == "x86-avx512"
    assert _stand_in(replace(here, name="board", address="ssh://pi@board"), "aarch64") == "rpi5"
    assert _stand_in(load_device("cuda"), "x86_64") == "l4"


def test_a_line_that_was_cut_short_costs_itself_only(graph: Graph, tmp_path: Path) -> None:
    kept = MeasuredNodes(tmp_path / "nodes.jsonl", graph, load_device("cpu"))
    assert list(kept.read()) == []
    first, second = really(graph, Plan()), replace(really(graph, Plan()), drift=0.01)
    kept.keep(Plan(), first)
    whole = kept.path.read_bytes()
    kept.path.write_bytes(whole + whole.replace(b'"p25_ms"', b'"other"') + whole[:50])
    kept.keep(Plan(), second)
    assert [measured for _, measured in kept.read()] == [first, second]


def test_a_disk_that_is_full_names_the_file(graph: Graph, tmp_path: Path) -> None:
    kept = MeasuredNodes(tmp_path / "gone" / "nodes.jsonl", graph, load_device("cpu"))
    with pytest.raises(ConfigError, match="what was measured cannot be written") as caught:
        kept.keep(Plan(), really(graph, Plan()))
    assert "nodes.jsonl" in str(caught.value)
