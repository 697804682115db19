"""Published facts → the shipped Arm profiles: `python benchmarks/fit_profiles.py --data benchmarks/data [--write]`.

Three steps, each from files in DIR only: instruction counts → cost table (`fit_costs.py`); onnxruntime rows measured on
a Raspberry Pi 5 → `stall` and `k_act`; ncnn rows on five boards → what changes between boards (`fit_boards.py`).
Without `--write` it prints the constants and their errors; with it, it rewrites `devices/rpi*.toml` and the cost table.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import fit_costs
import numpy as np
import yolo_nets
from fit_boards import CORES, TERMS, Transfer, board_facts
from scipy.optimize import least_squares

from autoprune.devices.device import ErrorFigures, ProfileConstants
from autoprune.devices.node import Node
from autoprune.devices.profile import node_ms

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ("rpizero2w", "rpi3bplus", "rpi4", "rpi5")
GEMV = 1.0  # every fp32 weight crosses the memory bus once; ncnn's own (printed) has weights it may keep as fp16
SOURCE = ("facts: benchmarks/data/device_facts.csv; stall, k_act: onnxruntime rows on a Raspberry Pi 5; "
          "in_order_factor, k_weights, tau_us_ghz: ncnn rows on five boards; k_gemv 1 by definition; see "
          "docs/decisions/2026-11-20-device-profiles.md")


def ort_rows(data: Path, nets: dict[str, list[Node]]) -> list[tuple[str, float]]:
    """(net, ms) of every published onnxruntime row on a Pi 5 whose architecture is written down."""
    return [(r["model"], float(r["latency_ms"]))
            for r in csv.DictReader((data / "published_latencies_pi.csv").read_text(encoding="utf-8").splitlines())
            if r["device"] == "Raspberry Pi 5" and r["runtime"].startswith("ONNX Runtime CPU") and r["model"] in nets]


def fit_ort(rows: list[tuple[str, float]], nets: dict[str, list[Node]], base: ProfileConstants) -> ProfileConstants:
    """`stall` and `k_act`, by robust log least squares."""
    parts = {name: _parts(net, base) for name, net in nets.items()}

    def residual(p: np.ndarray) -> list[float]:
        return [math.log(parts[n] @ [*np.exp(p), 1.]) - math.log(ms) for n, ms in rows]

    stall, k_act = np.exp(least_squares(residual, [.3, .7], loss="soft_l1", f_scale=.1).x)
    return replace(base, stall=round(float(stall), 3), k_act=round(float(k_act), 3))


def _parts(net: list[Node], base: ProfileConstants) -> np.ndarray:
    """ms per unit of stall, per unit of k_act, and the rest."""
    unit = [sum(node_ms(n, replace(base, stall=s, k_act=k), 4) for n in net)
            for s, k in ((1., 0.), (0., 1.), (0., 0.))]
    return np.array([unit[0] - unit[2], unit[1] - unit[2], unit[2]])


def log_error(net: list[Node], ms: float, constants: ProfileConstants) -> float:
    """log(predicted / measured)."""
    return math.log(sum(node_ms(n, constants, 4) for n in net) / ms)


def figures(errors: np.ndarray, rows: int, source: str) -> ErrorFigures:
    """Error quantiles; the interval is of measured/predicted and always contains 1."""
    ratio, size = np.exp(-errors), np.abs(errors)
    return ErrorFigures(p50=round(float(np.median(size)), 3), p90=round(float(np.quantile(size, .9)), 3), rows=rows,
                        lo_ratio=round(min(1., float(np.quantile(ratio, .1))), 3),
                        hi_ratio=round(max(1., float(np.quantile(ratio, .9))), 3), source=source)


def toml(name: str, board: dict[str, Any], constants: ProfileConstants, error: ErrorFigures, version: str) -> str:
    """The device file."""
    row = board["row"]
    facts = {"soc": (row["soc_or_chip"], row["sources"]),
             "peak_fp32_gflops": (float(row["peak_fp32_gflops"]), row["how_computed"]),
             "memcpy_gbs_published": (row["bw_measured_gbs"], row["sources"]),
             "l1d_kb": (row["l1d_kb"], row["sources"]), "l2": (row["l2"], row["sources"]),
             "issue_width": (board["issue_width"], CORES[board["core"]][1]),
             "align": ("no staircase on Arm; 4 fp32 lanes in a 128-bit vector",
                       "benchmarks/data/ort_aarch64_instructions.csv"),
             "confidence": (row["confidence"], "benchmarks/data/device_facts.csv")}

    def text(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)  # a JSON string, number or boolean is one of TOML too

    lines = ["# Made by benchmarks/fit_profiles.py --write; do not edit numbers by hand.",
             "schema = 1", f"name = {text(name)}", 'kind = "profile"',
             f"description = {text(row['device'] + ', ' + row['soc_or_chip'] + ', 64-bit OS')}",
             f"threads = {constants.cores}", "align = 4", "sparsity = []", "", "[runtime]", 'name = "onnxruntime"',
             f"version = {text(version)}", 'provider = "CPUExecutionProvider"', 'precision = "fp32"', "", "[profile]",
             *(f"{k} = {text(v)}" for k, v in asdict(constants).items()), f"source = {text(SOURCE)}", "", "[error]",
             *(f"{k} = {text(v)}" for k, v in asdict(error).items()), "", "[facts]",
             *(f"{k} = {{ value = {text(v)}, source = {text(s)} }}" for k, (v, s) in facts.items())]
    return "\n".join(lines) + "\n"


def fit_shared(boards: dict[str, dict[str, Any]], transfer: Transfer) -> dict[str, ProfileConstants]:
    """Constants of the shipped boards before the onnxruntime rows are looked at; prints the ncnn figures."""
    p = transfer.fit(np.ones(len(transfer.log_ms), bool))
    terms = dict(zip(TERMS, np.exp(p[:len(TERMS)]).round(3).tolist(), strict=True))
    print("ncnn constants:", terms, f"in-order factor {math.exp(p[10]):.3f}, threads^{p[11]:.3f}, "
          f"fp16 factor {math.exp(p[12]):.3f}")
    keys = ("cores", "clock_ghz", "fmla_per_cycle", "issue_width", "memcpy_gbs", "in_order")
    return {b: ProfileConstants(**{k: boards[b][k] for k in keys}, stall=1., k_act=1., k_weights=terms["weights"],
                                in_order_factor=round(math.exp(p[10]), 3), thread_exponent=round(float(p[11]), 3),
                                k_gemv=GEMV, tau_us_ghz=terms["tau"]) for b in SHIPPED}


def held_out_ort(rows: list[tuple[str, float]], nets: dict[str, list[Node]], base: ProfileConstants) -> np.ndarray:
    """Errors of the onnxruntime rows, each net left out; prints them, and those with each family left out."""
    def errors(letters: int) -> np.ndarray:
        return np.array([log_error(nets[n], ms, fit_ort([r for r in rows if r[0][:letters] != n[:letters]], nets, base))
                         for n, ms in rows])
    out, family = errors(99), errors(5)
    for (name, ms), error in zip(rows, out, strict=True):
        print(f"  {name:11s} {ms:7.1f} ms, without it {ms * math.exp(error):7.1f} ({100 * math.expm1(error):+.0f} %)")
    for label, e in (("net left out", out), ("family left out", family)):
        size = np.abs(e)
        print(f"  {label}: median |error| {np.median(size):.3f}, p90 {np.quantile(size, .9):.3f}, {len(e)} rows")
    return out


def error_of(board: str, out: np.ndarray, held: dict[str, np.ndarray]) -> ErrorFigures:
    """The Pi 5 has onnxruntime rows of its own; the others carry the error of moving between boards as well."""
    pooled = np.concatenate(list(held.values()))
    scatter = np.concatenate([e - np.median(e) for e in held.values()])
    own = board == "rpi5"
    source = (f"{len(out)} onnxruntime rows on a Raspberry Pi 5, each net left out, combined with "
              + ("the scatter between nets" if own else "the error")
              + f" of {len(pooled)} ncnn rows at 4 threads, each board left out"
              + ("" if own else "; no onnxruntime row of this board is published"))
    rows = len(out) + (0 if own else len(pooled))
    return figures(np.add.outer(out, scatter if own else pooled).ravel(), rows, source)


def main() -> None:
    """Fit, report, and with --write ship."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the CSV files")
    parser.add_argument("--write", action="store_true", help="rewrite devices/rpi*.toml and the cost table")
    args = parser.parse_args()
    costs = fit_costs.fit(args.data / "ort_aarch64_instructions.csv")
    print("instruction counts, leave one out:", json.dumps(costs["leave_one_out_error_of_total"]))
    shipped = ROOT / "autoprune" / "devices" / "aarch64_costs.json"
    if args.write:
        shipped.write_text(json.dumps(costs, indent=1) + "\n", encoding="utf-8")
    elif json.loads(shipped.read_text(encoding="utf-8")) != costs:
        print("note: the shipped cost table differs; what follows uses the shipped one")
    boards, nets = board_facts(args.data / "device_facts.csv"), yolo_nets.nets()
    transfer = Transfer(args.data, boards, costs["formulas"]["pointwise"])
    base, held = fit_shared(boards, transfer), transfer.held_out()
    for board, e in held.items():
        print(f"  ncnn, {board} held out, 4 threads: bias {np.median(e):+.3f}, median |error| "
              f"{np.median(np.abs(e)):.3f}, p90 {np.quantile(np.abs(e), .9):.3f}, {len(e)} rows")
    rows = ort_rows(args.data, nets)
    best, out = fit_ort(rows, nets, base["rpi5"]), held_out_ort(rows, nets, base["rpi5"])
    limit = math.log(best.stall) / math.log(4)  # above it, one thread would beat its core's issue width
    exponent = round(max(0., min(base["rpi5"].thread_exponent, limit)), 3)
    print(f"onnxruntime on rpi5: stall {best.stall}, k_act {best.k_act}, thread exponent {exponent}")
    for board in SHIPPED:
        constants = replace(base[board], stall=best.stall, k_act=best.k_act, thread_exponent=exponent)
        error = error_of(board, out, held)
        print(board, error)
        if args.write:
            text = toml(board, boards[board], constants, error, costs["runtime"].split()[1])
            (ROOT / "devices" / f"{board}.toml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
