from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path

import pytest

from autoprune.devices.costs import Counts, call_instructions, counts, table
from autoprune.devices.device import load_device
from autoprune.devices.node import OPERATOR_CLASS
from autoprune.devices.nodes import read_nodes
from autoprune.devices.profile import predict, predict_table
from autoprune.errors import ConfigError, DeviceError

ROOT = Path(__file__).resolve().parents[2]
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


def test_predicting_is_cheap(cnn):
    nodes, device = read_nodes(cnn(32)) * 13, load_device("rpi4")
    predict(nodes, device)
    start = time.perf_counter()
    predict(nodes, device)
    assert time.perf_counter() - start < 0.5  # 0.3 ms here; the bound only catches something quadratic


def test_every_class_has_a_price():
    assert set(OPERATOR_CLASS.values()) <= set(table())
    assert call_instructions() > 0
    for formula in table().values():
        assert all(len(c) == 4 and min(c) >= 0 for c in formula.values())


def test_counted_operators_are_reproduced():
    """The shipped table against the counts it came from: depthwise stride 2 costs 20x a dense multiply-add."""
    data = json.loads((ROOT / "autoprune/devices/aarch64_costs.json").read_text())
    assert all(e["loo_median"] < 0.03 for e in data["leave_one_out_error_of_total"].values())
    strided, dense = table()["depthwise_im2col"], table()["pointwise"]
    assert strided["macs"][0] + strided["gather2"][0] > 10 * dense["macs"][0]


@pytest.mark.skipif(not (ROOT / "benchmarks/data").is_dir(), reason="the wheel has no benchmarks")
def test_published_rows_of_the_raspberry_pi_5(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import yolo_nets

    nets, device = yolo_nets.nets(), load_device("rpi5")
    for name, net in nets.items():
        parameters, gflops = yolo_nets.PUBLISHED[name]
        assert sum(n.weights for n in net) / 1e6 == pytest.approx(parameters, rel=0.03)
        assert sum(n.macs for n in net) / 5e8 == pytest.approx(gflops, rel=0.04)  # theirs count norms too
    text = (ROOT / "benchmarks/data/published_latencies_pi.csv").read_text(encoding="utf-8")
    rows = [r for r in csv.DictReader(text.splitlines())
            if r["device"] == "Raspberry Pi 5" and r["runtime"].startswith("ONNX Runtime CPU") and r["model"] in nets]
    inside = [lat.lo_ms <= float(r["latency_ms"]) <= lat.hi_ms for r in rows
              for lat in [predict(nets[r["model"]], device)]]
    assert len(rows) == 13
    assert sum(inside) >= 11


def test_counts_add_up():
    assert Counts(1, 2, 3, 4) + Counts(1, 1, 1, 1) == Counts(2, 3, 4, 5)


def test_free_nodes_count_nothing(cnn):
    free = next(n for n in read_nodes(cnn(8)) if n.cls == "free")
    assert counts(free).insn == 0
