from __future__ import annotations

import csv
import itertools
import json
import statistics
import sys
from pathlib import Path

import pytest

from autoprune.devices import compare, profile
from autoprune.devices.classes import OPERATOR_CLASS
from autoprune.devices.costs import Counts, call_instructions, counts, formula_of, table, tables
from autoprune.devices.device import list_devices, load_device
from autoprune.devices.nodes import read_nodes
from autoprune.devices.profile import node_ms, predict, predict_table
from autoprune.errors import ConfigError, DeviceError

ROOT = Path(__file__).resolve().parents[2]
ARM = "onnxruntime_aarch64"
PIS = ("rpizero2w", "rpi3bplus", "rpi4", "rpi5")


def test_wider_is_slower(cnn):
    device = load_device("rpi4")
    widths = [predict(read_nodes(cnn(w)), device).ms for w in (8, 16, 24, 32, 48, 64)]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1] / 2


def test_boards_are_ordered_and_threads_help(cnn):
    nodes = read_nodes(cnn(64))
    times = [predict(nodes, load_device(d)).ms for d in PIS]
    assert times == sorted(times, reverse=True)
    assert times[0] > 3 * times[-1]
    device = load_device("rpi4")
    assert predict(nodes, device, threads=1).ms > predict(nodes, device, threads=4).ms


def test_the_table_adds_up_and_free_nodes_cost_nothing(cnn):
    nodes, device = read_nodes(cnn(32)), load_device("rpi4")
    rows = predict_table(nodes, device)
    assert [n for n, _ in rows] == nodes
    assert sum(ms for _, ms in rows) == pytest.approx(predict(nodes, device).ms)
    assert all((ms == 0) == (n.cls == "free") for n, ms in rows)


def test_the_interval_is_the_measured_error(cnn):
    device = load_device("rpi4")
    latency = predict(read_nodes(cnn(32)), device)
    assert device.error is not None
    assert latency.lo_ms == pytest.approx(latency.ms * device.error.lo_ratio)
    assert latency.hi_ms == pytest.approx(latency.ms * device.error.hi_ratio)
    assert (latency.source, latency.threads, latency.n, latency.notes) == ("profile", 4, device.error.rows, ())
    assert latency.device == predict(read_nodes(cnn(32)), load_device("raspberrypi")).device == "rpi4"


def test_an_unpriced_operator_widens_and_is_named(unpriced, matmul):
    device = load_device("rpi4")
    known, strange = predict(read_nodes(matmul()), device), predict(read_nodes(unpriced), device)
    assert strange.hi_ms / strange.ms > 1.2 * known.hi_ms / known.ms
    assert strange.lo_ms / strange.ms < known.lo_ms / known.ms
    assert "CumSum" in strange.notes[0]


PROFILES = [d.name for d in list_devices() if d.kind == "profile"]
COMPUTE_BOUND = 64  # channels from which even a GPU is not paid per kernel only


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_sane(name, cnn, unpriced, matmul):
    device = load_device(name)
    narrow, wide, big = (predict(read_nodes(cnn(w, side=s)), device)
                         for w, s in ((COMPUTE_BOUND, 16), (2 * COMPUTE_BOUND, 16), (2 * COMPUTE_BOUND, 64)))
    assert narrow.ms < wide.ms < big.ms
    assert wide.lo_ms < wide.ms < wide.hi_ms
    known, strange = predict(read_nodes(matmul()), device), predict(read_nodes(unpriced), device)
    assert any("CumSum" in note for note in strange.notes)
    assert strange.hi_ms / strange.ms > known.hi_ms / known.ms
    assert predict(read_nodes(cnn(8)), device, threads=1).threads == 1


def test_devices_are_ordered_as_one_would_think(cnn):
    nodes = read_nodes(cnn(512, side=56))
    ms = {name: predict(nodes, load_device(name)).ms for name in PROFILES}
    for slower, faster in (("rpizero2w", "rpi3bplus"), ("rpi3bplus", "rpi4"), ("rpi4", "rpi5"), ("rpizero2w-ncnn",
                                                                                                 "rpi5-ncnn"),
                           ("rpi5", "pixel8"), ("pixel4", "pixel8"), ("snapdragon-8gen1", "snapdragon-8gen3"),
                           ("iphone-a15", "iphone-a17pro"), ("x86-avx2", "x86-avx512"), ("rpi5", "x86-avx2"),
                           ("jetson-nano", "jetson-orin-nano"), ("jetson-orin-nano", "t4"), ("t4", "a100"),
                           ("l4", "rtx4090"), ("a100", "h100")):
        assert ms[slower] > ms[faster], (slower, faster)


def test_int8_has_its_own_price_where_it_was_counted(int8):
    nodes = read_nodes(int8)
    [note] = predict(nodes, load_device("rpi5")).notes
    assert "priced by counted instructions" in note
    for name in ("rpi5-ncnn", "x86-avx2", "a100"):
        assert any("QLinearConv never priced" in note for note in predict(nodes, load_device(name)).notes)


def test_percentiles_other_than_the_median_are_flagged(cnn):
    assert "medians only" in predict(read_nodes(cnn(8)), load_device("rpi4"), "p90").notes[0]


def test_bad_questions(cnn):
    nodes = read_nodes(cnn(8))
    with pytest.raises(ConfigError):
        predict(nodes, load_device("cpu"))
    with pytest.raises(ConfigError):
        predict(nodes, load_device("rpi4"), threads=5)
    with pytest.raises(ConfigError):
        predict(nodes, load_device("rpi4"), "p42")
    with pytest.raises(DeviceError):
        predict([], load_device("rpi4"))


def test_every_node_is_priced_once(cnn, monkeypatch):
    nodes, priced = read_nodes(cnn(32)) * 3, []
    monkeypatch.setattr(profile, "node_ms", lambda node, *rest: priced.append(node) or node_ms(node, *rest))
    predict(nodes, load_device("rpi4"))
    assert priced == [n for n in nodes if n.cls != "free"]


@pytest.mark.parametrize("costs", tables())
def test_every_class_has_a_price(costs):
    families = {"conv3x3", "conv", "stem", "grouped", "pointwise", "depthwise", "depthwise_other", "gemm", "matmul",
                "broadcast", "transpose_rows", "transpose_pairs", "transpose_any", "resize_nearest", "resize_linear",
                "resize_cubic", "reduce_middle", "avgpool_18", "int8_conv", "int8_pointwise", "int8_depthwise",
                "int8_grouped", "unknown", *OPERATOR_CLASS.values()} - {"resize"}
    for cls in families:
        assert formula_of(cls) in table(costs) or cls in table(costs), cls
    assert call_instructions(costs) >= 0
    for formula in table(costs).values():
        assert all(len(c) == 4 and min(c) >= 0 for c in formula.values())


def test_unknown_table():
    with pytest.raises(ConfigError, match="did you mean 'ncnn'"):
        table("ncn")


def test_counted_operators_are_reproduced():
    """The shipped table against the counts it came from: depthwise stride 2 costs 20x a dense multiply-add."""
    data = json.loads((ROOT / "autoprune/devices/costs_onnxruntime_aarch64.json").read_text())
    errors = data["leave_one_out_error_of_total"]
    assert all(errors[name]["loo_median"] < 0.03 for name in ("im2col", "pointwise", "depthwise", "depthwise_im2col"))
    strided, dense = table(ARM)["depthwise_im2col"], table(ARM)["pointwise"]
    assert strided["macs4"][0] + strided["gather2"][0] > 10 * dense["macs8"][0]


@pytest.mark.skipif(not (ROOT / "benchmarks/data").is_dir(), reason="the wheel has no benchmarks")
def test_published_rows_of_the_raspberry_pi_5(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import yolo_nets

    nets, device = yolo_nets.nets(), load_device("rpi5")
    for name, net in nets.items():
        parameters, gflops = yolo_nets.PUBLISHED[name]
        assert sum(n.weights for n in net) / 1e6 == pytest.approx(parameters, rel=0.03)
        assert sum(n.macs for n in net) / 5e8 == pytest.approx(gflops, rel=0.04)  # theirs count norms too
    text = (ROOT / "benchmarks/data/published_latencies.csv").read_text(encoding="utf-8")
    rows = [r for r in csv.DictReader(text.splitlines())
            if r["device"] == "Raspberry Pi 5" and r["runtime"].startswith("ONNX Runtime CPU") and r["model"] in nets]
    inside = [lat.lo_ms <= float(r["latency_ms"]) <= lat.hi_ms for r in rows
              for lat in [predict(nets[r["model"]], device)]]
    assert len(rows) == 13
    assert sum(inside) >= 11
    medians = {name: statistics.median(float(r["latency_ms"]) for r in rows if r["model"] == name) for name in nets}
    tables = {name: (predict_table(nodes, device), predict(nodes, device)) for name, nodes in nets.items()}
    held = []
    for a, b in itertools.combinations(nets, 2):
        (ours, latency), (theirs, reference) = tables[a], tables[b]
        found = compare.predicted(ours, theirs, device.error, (latency, reference))
        held.append(found.lo <= medians[a] / medians[b] <= found.hi)
    assert (sum(held), len(held)) == (30, 36)  # what `compare.predicted` says of itself


def test_counts_add_up():
    assert Counts(1, 2, 3, 4) + Counts(1, 1, 1, 1) == Counts(2, 3, 4, 5)


def test_free_nodes_count_nothing(cnn):
    free = next(n for n in read_nodes(cnn(8)) if n.cls == "free")
    assert counts(free, ARM).insn == 0
