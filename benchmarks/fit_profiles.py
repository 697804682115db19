"""Published facts and counts → every shipped profile.

    python benchmarks/fit_profiles.py --data benchmarks/data [--write]

Steps, each from files in DIR only: instruction counts → tables of costs (`fit_costs.py`); ncnn rows → ncnn's table and
what changes between boards (`fit_ncnn.py`); onnxruntime rows of a Raspberry Pi 5 → onnxruntime on Arm (`fit_ort.py`);
times of one x86 machine → onnxruntime on x86 (`fit_x86.py`); TensorRT rows → GPUs (`fit_gpus.py`). Without `--write` it
prints constants and errors; with it, it rewrites `devices/*.toml` (but `cpu` and aliases) and the tables.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import catalogue
import fit_costs
import numpy as np
import yolo_nets
from boards import Board, all_facts, boards
from device_file import Described, figures, toml
from fit_gpus import GpuFit
from fit_ncnn import BOARDS, PIS, NcnnFit
from fit_ort import fit_ort, held_out_ort, ort_rows
from fit_x86 import START as X86_START
from fit_x86 import X86Fit

from autoprune.devices import costs
from autoprune.devices.device import ErrorFigures, ProfileConstants, RooflineConstants

ROOT = Path(__file__).resolve().parent.parent
GEMV = 1.0  # every fp32 weight crosses the memory bus once; ncnn's own constant has weights it may keep as fp16
DOTPROD = ("A53", "A57", "A72")  # cores without int8 dot products
Shipped = list[tuple[Described, ProfileConstants | RooflineConstants, ErrorFigures]]


def report(label: str, errors: np.ndarray) -> None:
    """Median and p90 of |predicted/measured - 1|."""
    size = np.abs(np.exp(errors) - 1)
    print(f"  {label}: median {100 * np.median(size):.1f} %, p90 {100 * np.quantile(size, .9):.1f} %, bias "
          f"{100 * np.expm1(np.median(errors)):+.0f} %, {len(errors)} rows")


def combined(*parts: np.ndarray) -> np.ndarray:
    """Every sum of one error of each part: the parts taken as independent."""
    total = parts[0]
    for part in parts[1:]:
        total = np.add.outer(total, part).ravel()
    return total


def put(name: str, table: dict[str, Any], write: bool) -> None:
    """Write a table of costs, or say that the shipped one differs."""
    path = ROOT / "autoprune" / "devices" / f"costs_{name}.json"
    if write:
        path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        costs.forget()
    elif not path.is_file() or json.loads(path.read_text(encoding="utf-8")) != table:
        print(f"note: the shipped table {name} differs; what follows uses the shipped one")


def ncnn_profiles(fit: NcnnFit, facts: dict[str, Board], write: bool) \
        -> tuple[Shipped, dict[str, np.ndarray], np.ndarray]:
    """The ncnn files, the errors of moving to each board at 4 threads, and of moving on to newer cores."""
    everything = np.ones(len(fit.log_ms), bool)
    p = fit.fit(everything)
    put("ncnn", fit.table(p), write)
    by_net, by_board = fit.held_out(fit.net, sorted(set(fit.net))), fit.held_out(fit.board, BOARDS)
    print("ncnn rows, 18 nets, 1 and 4 threads")
    report("Raspberry Pis, each net left out", by_net[fit.pi])
    report("Raspberry Pis, each board left out", by_board[fit.pi])
    shipped: Shipped = []
    for name in BOARDS:
        rows, half = fit.board == name, bool(fit.half[fit.board == name].all())
        report(f"{name}, net left out", by_net[rows])
        report(f"{name}, board left out", by_board[rows])
        error = figures(by_net[rows], int(rows.sum()),
                        f"{rows.sum()} published ncnn rows of this board, 1 and 4 threads, each net left out")
        shipped.append((catalogue.ncnn(name, facts[name], half), fit.constants(p, name, facts[name], half), error))
    newer = fit.predict(p, ~fit.ours) - fit.log_ms[~fit.ours]
    for name in sorted(set(fit.board[~fit.ours])):
        report(f"{name}, never fitted", newer[fit.board[~fit.ours] == name])
    moved = {b: by_board[(fit.board == b) & (fit.threads == 4)] for b in BOARDS}
    return shipped, moved, newer


def arm_profiles(data: Path, facts: dict[str, Board], fit: NcnnFit, held: dict[str, np.ndarray],
                 newer: np.ndarray) -> Shipped:
    """onnxruntime on Arm CPUs."""
    p = fit.fit(np.ones(len(fit.log_ms), bool))
    shared = fit.constants(p, "rpi4", facts["rpi4"], False)
    nets = yolo_nets.nets()
    rows = ort_rows(data, nets)

    def base(name: str) -> ProfileConstants:
        board = facts[name]
        old = any(core in board.row["soc_or_chip"] for core in DOTPROD)
        return replace(shared, costs="onnxruntime_aarch64" + ("" if old else "_dotprod"), k_gemv=GEMV, stall=1.,
                       k_act=1., **board.constants())
    best, out = fit_ort(rows, nets, base("rpi5")), held_out_ort(rows, nets, base("rpi5"))
    exponent = round(min(float(p[len(p) - len(fit.groups) - 2]), max(0., math.log(best.stall) / math.log(4))), 3)
    print(f"onnxruntime on a Raspberry Pi 5: stall {best.stall}, k_act {best.k_act}, thread exponent {exponent}")
    report("each net left out", out)
    report("each family left out", held_out_ort(rows, nets, base("rpi5"), 5))
    moved = np.concatenate(list(held.values()))
    scatter = np.concatenate([e - np.median(e) for e in held.values()])
    shipped: Shipped = []
    for name, file in catalogue.ARM.items():
        constants = replace(base(name), stall=best.stall, k_act=best.k_act, thread_exponent=exponent)
        unsure = np.array([0.] if facts[name].measured_memcpy else [-.15, 0., .15])
        if name == "rpi5":
            error = figures(combined(out, scatter), len(out), catalogue.OWN_ROWS.format(len(out), len(moved)))
        elif name in PIS:
            error = figures(combined(out, moved), len(out) + len(moved),
                            catalogue.OTHER_ROWS.format(len(out), len(moved)))
        else:
            error = figures(combined(out, newer, unsure), len(out) + len(newer),
                            catalogue.NEWER_ROWS.format(len(out), len(newer)))
        shipped.append((catalogue.arm(name, file, facts[name]), constants, error))
    return shipped


def x86_profiles(data: Path, facts: dict[str, Board], arm: dict[str, Any], moved: np.ndarray, write: bool) -> Shipped:
    """onnxruntime on x86."""
    if write:  # the fit reads nodes only, but its constants name a table that must be there
        put("onnxruntime_avx512", X86Fit.table_of(X86_START, arm, 16), write)
    fit = X86Fit(data, arm)
    p, out = fit.fit(np.arange(len(fit.names))), fit.held_out()
    print("onnxruntime on one x86 machine, 20 nets, 1 thread:", dict(zip(fit.terms, np.exp(p).round(3), strict=True)))
    report("each net left out", out)
    shipped: Shipped = []
    for name, (file, block) in catalogue.X86.items():
        put(f"onnxruntime_{'avx512' if block == 16 else 'avx2'}", X86Fit.table_of(p, arm, block), write)
        board = facts[name]
        exponent = .18  # as on Arm; `stall` makes up for it, so that one thread is what was measured
        constants = replace(fit.machine(p), costs=f"onnxruntime_{'avx512' if block == 16 else 'avx2'}",
                            thread_exponent=exponent, stall=round(4 ** exponent, 3), **board.constants())
        error = figures(combined(out, moved, np.array([-.15, 0., .15])), len(out) + len(moved),
                        catalogue.X86_ROWS.format(len(out), len(moved)))
        shipped.append((catalogue.x86(name, file, block, board), constants, error))
    return shipped


def gpu_profiles(data: Path) -> Shipped:
    """TensorRT on GPUs."""
    fit = GpuFit(data)
    p = fit.fit(np.ones(len(fit.rows), bool))
    by_net, by_gpu = fit.held_out(fit.model), fit.held_out(fit.family)
    print("TensorRT fp16: compute efficiency, memory efficiency, µs per kernel:", np.exp(p).round(3))
    report("each net left out", by_net)
    report("each architecture left out", by_gpu)
    shipped: Shipped = []
    for name, file in catalogue.GPUS.items():
        row = all_facts(data)[name]
        peak, bandwidth = catalogue.gpu_peaks(row)
        own = sum(r["device"] == catalogue.GPU_ROWS.get(name) for r in fit.rows)
        errors = by_gpu if own else combined(by_gpu, np.array([-.22, 0., .22]))
        error = figures(errors, len(by_gpu), catalogue.gpu_errors(len(by_gpu), own))
        shipped.append((catalogue.gpu(name, file, row), fit.constants(p, peak, bandwidth), error))
    return shipped


def main() -> None:
    """Fit, report, and with --write ship."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the CSV files")
    parser.add_argument("--write", action="store_true", help="rewrite devices/*.toml and the tables of costs")
    args = parser.parse_args()
    arm = fit_costs.fit(args.data)
    print("instruction counts, leave one out:", json.dumps(arm["leave_one_out_error_of_total"]))
    put("onnxruntime_aarch64", arm, args.write)
    put("onnxruntime_aarch64_dotprod", fit_costs.fit(args.data, "int8_dotprod"), args.write)
    facts = boards(args.data)
    fit = NcnnFit(args.data, facts)
    shipped, held, newer = ncnn_profiles(fit, facts, args.write)
    shipped += arm_profiles(args.data, facts, fit, held, newer)
    shipped += x86_profiles(args.data, facts, arm, np.concatenate(list(held.values())), args.write)
    shipped += gpu_profiles(args.data)
    for what, constants, error in shipped:
        print(f"{what.name}: p50 {error.p50}, p90 {error.p90}, measured/predicted {error.lo_ratio} – {error.hi_ratio}")
        if args.write:
            (ROOT / "devices" / f"{what.name}.toml").write_text(toml(what, constants, error), encoding="utf-8")


if __name__ == "__main__":
    main()
