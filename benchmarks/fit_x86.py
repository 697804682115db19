"""onnxruntime times measured on one x86 machine → the x86 tables of costs.

MLAS keeps convolutions in blocks of channels there (NCHWc) and was not counted, so multiply-adds cost equivalents, one
constant per kind; every other operator costs what it does on Arm, times one constant for the wider vectors.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import whole_nets
from scipy.optimize import least_squares

from autoprune.devices.device import ProfileConstants
from autoprune.devices.node import Node
from autoprune.devices.nodes import read_nodes

__all__ = ["X86Fit"]

CLOCK_GHZ, FMLA = 3.7, 4.0  # AMD EPYC of family 19h: 2.6 GHz nominal, 3.7 boost; 512-bit vectors in two halves
KINDS = {"conv": ("conv3x3", "conv", "stem"), "pointwise": ("pointwise",), "grouped": ("grouped",),
         "depthwise": ("depthwise", "depthwise_other"), "gemm": ("gemm", "matmul", "lstm", "gru", "convtranspose")}
START = np.log([1.1, 1.2, 4., 6., 1.1, .4, 2., 1.])  # five kinds, other operators, k_act, tau


class X86Fit:
    """Prices of the measured nets as a function of eight constants."""

    def __init__(self, data: Path, arm: dict[str, Any]):
        lines = (data / "ort_x86_nets.csv").read_text(encoding="utf-8").splitlines()
        self.memcpy_gbs = float(lines[0].split("memcpy_gbs ")[1])
        rows = list(csv.DictReader(lines[1:]))
        self.names = [r["name"] for r in rows]
        self.log_ms = np.log([float(r["ms"]) for r in rows])
        self.arm = arm
        self.base = self.machine(START)
        self.x = np.array([self._features(read_nodes(whole_nets.net_bytes(n))) for n in self.names])

    def machine(self, p: np.ndarray) -> ProfileConstants:
        """The machine that was measured."""
        return ProfileConstants(
            costs="onnxruntime_avx512", value_bytes=4, cores=1, clock_ghz=CLOCK_GHZ, fmla_per_cycle=FMLA,
            issue_width=4., memcpy_gbs=self.memcpy_gbs, in_order=False, stall=1., in_order_factor=1.,
            thread_exponent=0.,
            k_act=round(math.exp(p[6]), 3), k_weights=.025, k_gemv=1., tau_us_ghz=round(math.exp(p[7]), 3))

    terms = (*KINDS, "others", "k_act", "tau")

    @staticmethod
    def table_of(p: np.ndarray, arm: dict[str, Any], block: int) -> dict[str, Any]:
        """The shipped table for one width of vectors; 16 is AVX-512, 8 is AVX2."""
        theta = np.exp(p)
        formulas: dict[str, Any] = {}
        for (_, classes), k in zip(KINDS.items(), theta, strict=False):
            unit = [float(f"{k * .25:.6g}"), 0., 0., float(f"{k * .25:.6g}")]
            for name in classes:
                blocked = name in ("conv3x3", "conv", "stem", "pointwise")
                formulas[name] = {f"macs_c{block}" if blocked else "macs": unit}
        formulas |= {n: formulas[c] for n, c in (
            ("int8_conv", "conv"), ("int8_pointwise", "pointwise"), ("int8_grouped", "grouped"),
            ("int8_depthwise", "depthwise"), ("int8_gemm", "gemm"), ("int8_dynamic", "gemm"))}
        kept = {n: t for n, t in arm["formulas"].items() if n not in {*formulas, "im2col", "depthwise_im2col"}}
        formulas |= {n: {f: [float(f"{v * theta[5]:.6g}") for v in c] for f, c in t.items()} for n, t in kept.items()}
        return {"about": "equivalents, fitted to times of onnxruntime on one AVX-512 machine; multiply-adds with "
                         f"channels rounded up to {block}; made by benchmarks/fit_profiles.py",
                "runtime": "onnxruntime 1.31.1", "int8_counted": False, "call": arm["call"], "formulas": formulas}

    def _features(self, nodes: list[Node]) -> np.ndarray:
        """ms per unit of each constant."""
        hz, bandwidth = CLOCK_GHZ * 1e6, 2e6 * self.memcpy_gbs
        busy = [n for n in nodes if n.cls != "free"]
        kinds = {c: k for k, classes in KINDS.items() for c in classes}
        work = dict.fromkeys(KINDS, 0.)
        for n in busy:
            if n.cls in kinds:
                work[kinds[n.cls]] += n.features["macs_c16" if kinds[n.cls] in ("conv", "pointwise") else "macs"]
        others = sum(c[0] * n.features.get(f, 0.) for n in busy if n.cls not in kinds
                     for f, c in self.arm["formulas"][{"unknown": "add"}.get(n.cls, n.cls)].items())
        return np.array([*(w * .25 / FMLA / hz for w in work.values()), others / 4 / hz,
                         4 * sum(n.in_elems + n.out_elems for n in busy) / bandwidth, len(busy) / CLOCK_GHZ / 1e3])

    def fit(self, rows: np.ndarray) -> np.ndarray:
        """Robust log least squares."""
        def residual(p: np.ndarray) -> np.ndarray:
            return np.r_[np.log(self.x[rows] @ np.exp(p)) - self.log_ms[rows], .1 * (p - START)]
        return least_squares(residual, START, loss="soft_l1", f_scale=.1).x

    def held_out(self) -> np.ndarray:
        """log(predicted/measured), each net left out."""
        rows = np.arange(len(self.names))
        return np.array([np.log(self.x[i] @ np.exp(self.fit(rows != i))) - self.log_ms[i] for i in rows])
