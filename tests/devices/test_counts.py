"""Sums over nodes against the instructions counted for whole nets (`benchmarks/count_instructions.py`)."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from autoprune.devices.costs import call_instructions, counts
from autoprune.devices.nodes import read_nodes

ROOT = Path(__file__).resolve().parents[2]
COSTS = "onnxruntime_aarch64"


@pytest.mark.skipif(not (ROOT / "benchmarks/data").is_dir(), reason="the wheel has no benchmarks")
@pytest.mark.filterwarnings("ignore")  # the exporter's
@pytest.mark.parametrize("name", [pytest.param("poolformer", marks=pytest.mark.slow), "lstm", "distilbert"])
def test_nodes_add_up_to_the_net(name, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import whole_nets

    text = (ROOT / "benchmarks/data/ort_aarch64_nets.csv").read_text(encoding="utf-8")
    counted = {row["name"]: int(row["insn"]) for row in csv.DictReader(text.splitlines())}
    summed = call_instructions(COSTS) + sum(counts(n, COSTS).insn for n in read_nodes(whole_nets.net_bytes(name)))
    assert summed == pytest.approx(counted[name], rel=0.03)
