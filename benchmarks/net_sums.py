"""Sums over nodes beside counts of whole nets: `python benchmarks/net_sums.py` prints the decision note's table."""

from __future__ import annotations

import csv
from pathlib import Path

import whole_nets

from autoprune.devices.costs import call_instructions, counts
from autoprune.devices.nodes import read_nodes

COSTS = "onnxruntime_aarch64"


def main() -> None:
    """One line per net."""
    text = (Path(__file__).with_name("data") / "ort_aarch64_nets.csv").read_text(encoding="utf-8")
    print("| net | nodes | counted, M | summed, M | difference |\n|---|---|---|---|---|")
    for row in csv.DictReader(text.splitlines()):
        nodes = read_nodes(whole_nets.net_bytes(row["name"]))
        whole, summed = int(row["insn"]), call_instructions(COSTS) + sum(counts(n, COSTS).insn for n in nodes)
        print(f"| {row['name']} | {len(nodes)} | {whole / 1e6:.1f} | {summed / 1e6:.1f} "
              f"| {100 * (summed / whole - 1):+.1f} % |", flush=True)


if __name__ == "__main__":
    main()
