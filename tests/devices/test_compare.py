from __future__ import annotations

import csv
import itertools
import statistics
import sys
from pathlib import Path

import pytest

from autoprune.devices import compare
from autoprune.devices.device import load_device
from autoprune.devices.latency import Latency
from autoprune.devices.measurement import Measurement, RunStats
from autoprune.devices.nodes import read_nodes
from autoprune.devices.profile import predict, predict_table

ROOT = Path(__file__).resolve().parents[2]
RPI4 = load_device("rpi4")


def latency(ms: float) -> Latency:
    return Latency(ms, ms, ms, "p50", "measured", "cpu", "onnxruntime", "1", 1, 9)


def of(nodes, reference, device=RPI4):
    return compare.predicted(predict_table(nodes, device), predict_table(reference, device), device.error,
                             (predict(nodes, device), predict(reference, device)))


def test_the_interval_of_runs_in_turns_spans_the_ratios_of_percentiles():
    found = compare.timed_in_turns(Measurement(latency(2.0), latency(4.0), RunStats(1, 1.8, 1.9, 2.0, 2.4, 3, 9),
                                               RunStats(1, 3.0, 3.8, 4.0, 6.0, 7, 9), 0.0, 1, (), 0.5))
    assert (found.ratio, found.lo, found.hi) == (0.5, pytest.approx(0.4), pytest.approx(0.6))
    assert str(found) == "0.500x (0.400–0.600)"
    assert found.to_json()["reference"]["ms"] == 4.0
    with pytest.raises(ValueError, match="no reference"):
        compare.timed_in_turns(Measurement(latency(2.0), None, RunStats(1, 1, 1, 2, 3, 4, 9), None, 0.0, 1))


def test_no_basis_no_interval():
    found = compare.plain(latency(2.0), latency(4.0))
    assert (found.ratio, found.lo, found.hi) == (0.5, None, None)
    assert str(found) == "0.500x (no interval)"
    assert "not known" in found.basis


def test_shared_errors_make_the_interval_narrower_than_two_apart(cnn):
    small, large = read_nodes(cnn(24)), read_nodes(cnn(64))
    found = of(small, large)
    assert found.ratio == pytest.approx(found.latency.ms / found.reference.ms)
    assert found.lo < found.ratio < found.hi
    assert RPI4.error is not None
    apart = (RPI4.error.hi_ratio / RPI4.error.lo_ratio) ** 2
    assert found.hi / found.lo < apart ** 0.5


def test_a_model_and_itself_and_the_other_way_round(cnn):
    small, large = read_nodes(cnn(24)), read_nodes(cnn(64))
    same = of(small, small)
    assert (same.lo, same.ratio, same.hi) == pytest.approx((1, 1, 1))
    there, back = of(small, large), of(large, small)
    assert (there.lo, there.hi) == pytest.approx((1 / back.hi, 1 / back.lo))


def test_the_ends_are_the_extremes_of_all_errors_shared_by_kind(cnn, matmul):
    """Against every combination of the ends."""
    tables = [predict_table(read_nodes(m), RPI4) for m in (cnn(16), matmul(512))]
    found = of(read_nodes(cnn(16)), read_nodes(matmul(512)))
    kinds = sorted({n.cls for table in tables for n, _ in table})
    assert RPI4.error is not None
    ratios = []
    for ends in itertools.product((RPI4.error.lo_ratio, RPI4.error.hi_ratio), repeat=len(kinds)):
        factor = dict(zip(kinds, ends, strict=True))
        ours, theirs = (sum(factor[n.cls] * ms for n, ms in table) for table in tables)
        ratios.append(ours / theirs)
    assert (found.lo, found.hi) == pytest.approx((min(ratios), max(ratios)))


def test_an_operator_that_nobody_priced_widens(unpriced, matmul):
    strange, plain = of(read_nodes(unpriced), read_nodes(matmul())), of(read_nodes(matmul(32)), read_nodes(matmul()))
    assert strange.hi / strange.lo > plain.hi / plain.lo


@pytest.mark.skipif(not (ROOT / "benchmarks/data").is_dir(), reason="the wheel has no benchmarks")
def test_published_pairs_of_the_raspberry_pi_5(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import yolo_nets

    nets, device = yolo_nets.nets(), load_device("rpi5")
    text = (ROOT / "benchmarks/data/published_latencies.csv").read_text(encoding="utf-8")
    published: dict[str, list[float]] = {}
    for row in csv.DictReader(text.splitlines()):
        if row["device"] == "Raspberry Pi 5" and row["runtime"].startswith("ONNX Runtime CPU") and row["model"] in nets:
            published.setdefault(row["model"], []).append(float(row["latency_ms"]))
    medians = {name: statistics.median(values) for name, values in published.items()}
    pairs = [(of(nets[a], nets[b], device), medians[a] / medians[b]) for a, b in itertools.combinations(medians, 2)]
    assert len(pairs) == 36
    assert sum(found.lo <= ratio <= found.hi for found, ratio in pairs) >= 29
