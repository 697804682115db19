"""Instruction counts of onnxruntime's aarch64 kernels → the coefficients in `autoprune/devices/aarch64_costs.json`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

COUNTERS = ("insn", "simd", "mem", "fmla")
FORMULAS = {  # features by formula; the reasons are in docs/decisions/2026-11-20-device-profiles.md
    "im2col": ("macs", "gather1", "gather2", "rows", "weights", "group_rows", "one"),
    "pointwise": ("macs", "in", "out", "weights", "one"),
    "depthwise": ("macs", "one"),
    "depthwise_im2col": ("macs", "gather2", "rows", "groups", "one"),
    "gemm": ("macs", "in", "out", "gemv_weights", "one"),
}
# One counted row each: class, row, the feature it scales with, rows that were part of the counted graph as well.
SINGLES = (
    ("relu", "u_relu", "out", ()), ("sigmoid", "u_sigmoid", "out", ()), ("tanh", "u_tanh", "out", ()),
    ("erf", "u_erf", "out", ()), ("exp", "u_exp", "out", ()), ("sqrt", "u_sqrt", "out", ()),
    ("hardsigmoid", "u_hardsigmoid", "out", ()), ("hardswish", "u_hardswish", "out", ()), ("silu", "silu", "out", ()),
    ("gelu", "gelu_erf", "out", ()), ("add", "add", "out", ("u_neg",)), ("layernorm", "layernorm", "out", ()),
    ("batchnorm", "bn", "out", ()), ("maxpool", "u_maxpool3s2", "window", ()),
    ("avgpool", "u_avgpool3s1", "window", ()),
    ("reduce", "u_globalaveragepool", "in", ()), ("transpose", "u_transpose", "out", ()),
    ("copy", "concat", "out", ("u_neg",)), ("resize", "resize2", "out", ()))


def _number(row: dict[str, str], key: str) -> int:
    return int(row[key]) if row[key] else 0


def _features(row: dict[str, str]) -> tuple[str, dict[str, float]] | None:
    macs, weights = _number(row, "macs"), _number(row, "weights")
    base = {"macs": macs, "in": _number(row, "in_elems"), "out": _number(row, "out_elems"), "weights": weights,
            "one": 1}
    if row["op"] in ("Gemm", "MatMul(QK)"):
        return "gemm", {**base, "gemv_weights": weights if weights and macs <= weights else 0}
    if row["op"] != "Conv" or row["act"]:
        return None
    k, s, g, cin, hw = (_number(row, c) for c in ("k", "stride", "groups", "cin", "hw"))
    out = -(-hw // s)
    gather = cin * k * k * out * out
    base |= {"gather1": gather * (s == 1), "gather2": gather * (s > 1), "rows": gather // out, "groups": g,
             "group_rows": g * out}
    if g > 1 and g == cin:
        return ("depthwise" if k == 3 and s == 1 else "depthwise_im2col"), base
    return ("pointwise" if k == 1 and s == 1 else "im2col"), base


def _nonnegative(a: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least squares of the relative error with coefficients ≥ 0 (a count cannot go down)."""
    weighted = a / np.maximum(y, 1)[:, None]
    scale = weighted.max(0) + 1e-30
    return nnls(weighted / scale, y / np.maximum(y, 1))[0] / scale


def fit(path: Path) -> dict[str, Any]:
    """The shipped table: formulas, the cost of a call, and leave-one-out errors of the total."""
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    formulas: dict[str, dict[str, list[float]]] = {}
    errors: dict[str, dict[str, float]] = {}
    for name, features in FORMULAS.items():
        picked = [(f[1], r) for r in rows if (f := _features(r)) is not None and f[0] == name]
        a = np.array([[f[x] for x in features] for f, _ in picked], float)
        y = np.array([[_number(r, c) for c in COUNTERS] for _, r in picked], float)
        x = np.array([_nonnegative(a, y[:, j]) for j in range(4)])
        formulas[name] = {f: [float(v) for v in x[:, i]] for i, f in enumerate(features)}
        held = np.abs([a[i] @ _nonnegative(np.delete(a, i, 0), np.delete(y[:, 0], i)) / y[i, 0] - 1
                       for i in range(len(a))])
        errors[name] = {"rows": len(a), "loo_median": round(float(np.median(held)), 4),
                        "loo_max": round(float(held.max()), 4)}
    call = formulas["gemm"]["one"]  # the smallest nodes counted: what a call costs, whatever the node
    by_name = {r["name"]: r for r in rows}
    for name, row, feature, others in SINGLES:
        counted = by_name[row]
        extent = float(_number(counted, "in_elems" if feature == "in" else "out_elems"))
        if row == "u_maxpool3s2":
            extent /= 4  # the file lists the input's size; stride 2 leaves a quarter (its SIMD count is 8/4 per output)
        net = [_number(counted, c) - sum(_number(by_name[o], c) for o in others) - (0 if others else call[j])
               for j, c in enumerate(COUNTERS)]
        scale = extent * (9 if feature == "window" else 1)
        formulas[name] = {feature: [max(0.0, v / scale) for v in net]}
    formulas["softmax"] = _softmax(by_name, call)
    for terms in formulas.values():
        terms["one"] = [max(0.0, v - c) for v, c in zip(terms.get("one", call), call, strict=True)]
    return {"about": "instructions per unit of each feature: total, SIMD, load/store, FMLA; fp32, one thread; "
                     "made by benchmarks/fit_profiles.py from benchmarks/data/ort_aarch64_instructions.csv",
            "runtime": "onnxruntime 1.31.1 aarch64 wheel", "call": [float(f"{c:.6g}") for c in call],
            "leave_one_out_error_of_total": errors,
            "formulas": {n: {f: [float(f"{v:.6g}") for v in c] for f, c in t.items()} for n, t in formulas.items()}}


def _softmax(by_name: dict[str, dict[str, str]], call: list[float]) -> dict[str, list[float]]:
    """Two counted line lengths (28 and 197) give a price per element and a price per line."""
    short, long = by_name["u_softmax"], by_name["u_softmax197"]
    terms: dict[str, list[float]] = {"out": [], "lines": []}
    for j, counter in enumerate(COUNTERS):
        a = np.array([[_number(r, "out_elems"), _number(r, "out_elems") / n] for r, n in ((short, 28), (long, 197))])
        y = np.array([_number(r, counter) - call[j] for r in (short, long)])
        x = nnls(a, y)[0]
        terms["out"].append(float(x[0]))
        terms["lines"].append(float(x[1]))
    return terms
