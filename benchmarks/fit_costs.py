"""Instruction counts of onnxruntime's aarch64 kernels → `autoprune/devices/costs_onnxruntime_aarch64*.json`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from operators import OPERATORS
from operators_int8 import INT8_OPERATORS
from scipy.optimize import nnls

from autoprune.devices.classes import OPERATOR_CLASS, classify
from autoprune.devices.costs import formula_of
from autoprune.devices.node import Node
from autoprune.devices.nodes import read_nodes

__all__ = ["FORMULAS", "counted_nodes", "fit"]

COUNTERS = ("insn", "simd", "mem", "fmla")
_PIXELS = ("out", "one")
_LINES = ("out", "lines", "one")
FORMULAS = {  # features by formula; the reasons are in docs/decisions/2026-11-21-profiles-of-other-devices.md
    "im2col": ("macs8", "macs_tail", "gather1", "gather2", "rows1", "rows2", "out", "biased", "groups", "group_rows",
               "one"),
    "pointwise": ("macs8", "macs_tail", "in", "out", "biased", "one"),
    "depthwise": ("out", "biased", "group_rows", "groups", "one"),
    "depthwise_im2col": ("macs4", "gather1", "gather2", "rows1", "rows2", "biased", "groups", "one"),
    "gemm": ("macs", "in", "out", "gemv_weights", "one"), "matmul": ("macs", "in", "out", "lines", "one"),
    "lstm": ("macs", "out", "lines", "one"), "gru": ("macs", "out", "lines", "one"),
    "convtranspose": ("macs", "gather1", "gather2", "out", "one"),
    **dict.fromkeys(("relu", "sigmoid", "tanh", "erf", "exp", "elu", "log", "softplus", "pow", "sqrt", "hardsigmoid",
                     "silu", "gelu", "fastgelu", "cast", "where", "add", "transpose", "transpose_any",
                     "transpose_pairs", "resize_nearest", "resize_linear"), _PIXELS),
    **dict.fromkeys(("broadcast", "softmax", "layernorm", "rmsnorm", "copy", "pad", "transpose_rows"), _LINES),
    "instancenorm": ("out", "group_rows", "one"), "batchnorm": ("out", "one"),
    "maxpool": ("window", "out", "one"), "avgpool": ("window", "out", "one"), "avgpool_18": ("window", "out", "one"),
    "reduce": ("in", "out", "one"), "reduce_middle": ("in", "one"),
}
INT8_FORMULAS = {
    "int8_conv": ("macs", "gather1", "gather2", "out", "one"), "int8_pointwise": ("macs", "in", "out", "one"),
    "int8_depthwise": ("macs", "out", "one"), "int8_grouped": ("macs", "gather1", "gather2"),
    "int8_gemm": ("macs", "in", "out", "gemv_weights", "one"),
    "int8_dynamic": ("macs", "in", "out", "gemv_weights", "one"),
    **dict.fromkeys(("quantize", "dequantize", "int8_add", "int8_table"), _PIXELS), "int8_copy": _PIXELS,
    "int8_reduce": ("in", "one")}


def _old_rows(path: Path) -> list[tuple[str, Node, list[int]]]:
    """Convolutions and matrix products of the first table, which lists sizes rather than models."""
    found = []
    for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
        number = {k: int(row[k]) if row[k].isdigit() else 0 for k in row}
        sizes: dict[str, Any] = {k: number[k] for k in ("macs", "in_elems", "out_elems", "weights")}
        counts = [number[c] for c in COUNTERS]
        if counts[0] < 1e5:
            continue  # that table's totals are good to some 10 thousand instructions, the call among them
        if row["op"] in ("Gemm", "MatMul(QK)"):
            cls = "gemm" if row["op"] == "Gemm" else "matmul"
            shape = ((int(row["groups"] or 1), number["m"], number["n"]),)
            found.append((row["name"], Node(row["name"], "Gemm", cls, out_shapes=shape, **sizes), counts))
        elif row["op"] == "Conv" and not row["act"]:
            k, s, g = number["k"], number["stride"], number["groups"]
            cls = classify("Conv", channels_in=number["cin"], channels_out=number["cout"], groups=g, kernel=(k, k),
                           stride=s)
            side = -(-number["hw"] // s)
            sizes["weights"] += number["cout"]  # they were counted with a bias
            gather = 0 if cls in ("pointwise", "depthwise") else number["cin"] * k * k * side * side
            found.append((row["name"], Node(row["name"], "Conv", cls, kernel=(k, k), stride=s, groups=g, gather=gather,
                          rows=gather // side, out_shapes=((1, number["cout"], side, side),), **sizes), counts))
    return found


def counted_nodes(data: Path, int8: str) -> list[tuple[str, Node, list[int]]]:
    """(name, node, counts) of every operator counted by itself; `int8` names the file of the quantised ones.

    The multiply-accumulate instructions of int8 stand in the column of FMLA.
    """
    found = _old_rows(data / "ort_aarch64_instructions.csv")
    for file, make in (("operators", OPERATORS), (int8, INT8_OPERATORS)):
        for row in csv.DictReader((data / f"ort_aarch64_{file}.csv").read_text(encoding="utf-8").splitlines()):
            if row["name"].startswith("chain"):
                continue
            nodes = read_nodes(make[row["name"]]())
            if len(nodes) != 1:
                raise SystemExit(f"{row['name']} is {len(nodes)} nodes after optimisation")
            counts = [int(row[c]) for c in COUNTERS]
            found.append((row["name"], nodes[0], [*counts[:3], counts[3] + int(row["int8"])]))
    return found


def _nonnegative(a: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least squares of the relative error with coefficients ≥ 0 (a count cannot go down)."""
    weighted = a / np.maximum(y, 1)[:, None]
    scale = weighted.max(0) + 1e-30
    return nnls(weighted / scale, y / np.maximum(y, 1))[0] / scale


def _call(data: Path) -> tuple[list[float], list[float]]:
    """What a call costs, and what one tiny node costs, from chains of nodes."""
    text = (data / "ort_aarch64_operators.csv").read_text(encoding="utf-8")
    chains = {int(r["name"].split()[-1]): [int(r[c]) for c in COUNTERS]
              for r in csv.DictReader(text.splitlines()) if r["name"].startswith("chain")}
    few, many = min(chains), max(chains)
    node = [(b - a) / (many - few) for a, b in zip(chains[few], chains[many], strict=True)]
    return [max(0.0, a - few * n) for a, n in zip(chains[few], node, strict=True)], node


def _fused(rows: list[tuple[str, Node, np.ndarray]], formulas: dict[str, dict[str, list[float]]]) \
        -> dict[str, dict[str, list[float]]]:
    """What an activation fused into a convolution adds per output: the difference from the same one without."""
    plain = {name.partition(" ")[2]: counts for name, node, counts in rows if node.op == "Conv"}
    found: dict[str, list[np.ndarray]] = {}
    for name, node, counts in rows:
        if node.activation and name.startswith("fused"):
            alone = plain[name.partition(" ")[2].rpartition(" ")[0].removesuffix(" 1")]
            cls = OPERATOR_CLASS.get(node.activation, "relu")
            found.setdefault(cls, []).append(np.maximum(counts - alone, 0) / node.out_elems)
    return {f"fused_{act}": {"out": [float(f"{v:.6g}") for v in np.mean(extra, 0)]} for act, extra in found.items()}


def fit(data: Path, int8: str = "int8") -> dict[str, Any]:
    """A shipped table: formulas, the cost of a call, and leave-one-out errors of the total.

    Fitted without the call and with at least the cost of a tiny node in every formula that starts a kernel.
    """
    call, _ = _call(data)
    rows = [(name, node, np.maximum(np.array(counts, float) - call, 0))
            for name, node, counts in counted_nodes(data, int8)]
    formulas, errors = {}, {}
    for formula, features in {**FORMULAS, **INT8_FORMULAS}.items():
        picked = [(node, counts) for _, node, counts in rows if formula_of(node.cls) == formula and not node.activation]
        a = np.array([[node.features[f] for f in features] for node, _ in picked])
        y = np.array([counts for _, counts in picked])
        x = np.array([_nonnegative(a, y[:, j]) for j in range(4)])
        formulas[formula] = {f: [float(f"{v:.6g}") for v in x[:, i]] for i, f in enumerate(features)}
        held = [abs(a[i] @ _nonnegative(np.delete(a, i, 0), np.delete(y[:, 0], i)) / y[i, 0] - 1)
                for i in range(len(a))]
        errors[formula] = {"rows": len(a), "loo_median": round(float(np.median(held)), 4),
                           "loo_max": round(float(np.max(held)), 4)}
    formulas |= _fused(rows, formulas)
    return {"about": "instructions per unit of each feature: total, SIMD, load/store, multiply-accumulate; one thread; "
                     "made by benchmarks/fit_profiles.py from benchmarks/data/ort_aarch64_*.csv",
            "runtime": "onnxruntime 1.31.1 aarch64 wheel", "int8_counted": True,
            "call": [float(f"{c:.6g}") for c in call],
            "leave_one_out_error_of_total": errors, "formulas": formulas}
