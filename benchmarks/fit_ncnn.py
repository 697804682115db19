"""ncnn rows of five boards → ncnn's own table of costs, and what changes between boards when the work stays the same.

Every node is priced by the formula of `autoprune/devices/profile.py`. ncnn was not counted, so its table holds
equivalents: a multiply-add of class c costs so many times one of a matrix product. Winograd's transforms are charged to
3x3 stride-1 convolutions per element read and written.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from boards import Board
from scipy.optimize import least_squares

from autoprune.devices.classes import OPERATOR_CLASS
from autoprune.devices.device import ProfileConstants
from autoprune.devices.node import Node

__all__ = ["BOARDS", "OTHERS", "NcnnFit", "ncnn_nodes"]

BOARDS = {"rpizero2w": "Raspberry Pi Zero 2 W", "rpi3bplus": "Raspberry Pi 3B+", "rpi4": "Raspberry Pi 4B (1.8GHz)",
          "rpi5": "Raspberry Pi 5", "jetson-nano-cpu": "NVIDIA Jetson Nano"}
OTHERS = {  # (profile, device, runtime, threads), never fitted: how far the five boards carry to newer cores
    ("rk3588", "Rockchip RK3588", "ncnn big-cores", "4"),
    ("jetson-orin-nano-cpu", "NVIDIA Jetson Orin Nano", "ncnn", "6"),
    ("jetson-agx-orin-cpu", "NVIDIA Jetson AGX Orin", "ncnn", "12"),
    ("sd8gen2", "Qualcomm SM8550-AB Snapdragon 8 Gen 2", "ncnn big-cores", "4"),
    ("pixel4", "Qualcomm SM8150-AC Snapdragon 855+", "ncnn big-cores", "4")}
PIS = ("rpizero2w", "rpi3bplus", "rpi4", "rpi5")
CLASSES = {"c3s1": "conv3x3", "conv": "conv", "dw": "depthwise", "gconv": "grouped", "pw": "pointwise", "stem": "stem",
           "fc": "gemm", "elt": "add", "pool": "maxpool", "free": "free"}
GEMM = (0.31, 0.25)  # instructions and FMLA per multiply-add of a matrix product (counted, onnxruntime)
COMPUTE = ("conv3x3", "winograd", "conv", "depthwise", "grouped", "pointwise", "stem")  # then the memory terms and tau
START = np.log([.5, 1., 1.29, 3.38, 1.69, 1.27, 4.25, 1.34, .02, 1., 9.4])
PRIOR, SHRINK = 0.05, 1.0  # how firmly constants stay near START, and residuals of a board near 0


def ncnn_nodes(net: list[dict[str, Any]]) -> list[Node]:
    """The layers of `published_net_features.json` as nodes."""
    return [Node(f"{n['typ']}_{i}", n["typ"], CLASSES[n["cls"]], macs=n["macs"], in_elems=n["bi"], out_elems=n["bo"],
                 weights=n["wt"]) for i, n in enumerate(net)]


class NcnnFit:
    """Features of every row once; fits and held-out errors from them."""

    def __init__(self, data: Path, boards: dict[str, Board]):
        features = json.loads((data / "published_net_features.json").read_text(encoding="utf-8"))
        nets = {name: ncnn_nodes(net) for name, net in features.items()}
        text = (data / "published_latencies.csv").read_text(encoding="utf-8")
        own = {(BOARDS[b], "ncnn", t): b for b in BOARDS for t in ("1", "4")}
        other = {(device, runtime, threads): name for name, device, runtime, threads in OTHERS}
        rows = [(({**own, **other})[key], r) for r in csv.DictReader(text.splitlines())
                if (key := (r["device"], r["runtime"], r["threads"])) in {**own, **other} and r["model"] in nets
                and r["precision"] in ("fp32", "fp16")]
        self.board = np.array([b for b, _ in rows])
        self.net = np.array([r["model"] for _, r in rows])
        self.threads = np.array([min(int(r["threads"]), boards[b].cores) for b, r in rows])
        self.half = np.array([r["precision"] == "fp16" for _, r in rows], float)
        self.in_order = np.array([boards[b].in_order for b, _ in rows], float)
        self.log_ms = np.log([float(r["latency_ms"]) for _, r in rows])
        self.ours = np.isin(self.board, list(BOARDS))
        self.pi = np.isin(self.board, PIS)
        self.x = np.array([_features(nets[r["model"]], boards[b], int(t), .5 if r["precision"] == "fp16" else 1.)
                           for (b, r), t in zip(rows, self.threads, strict=True)])
        self.groups = sorted({(b, int(t)) for b, t in zip(self.board[self.ours], self.threads[self.ours], strict=True)})
        self.group = np.array([self.groups.index(g) if (g := (b, int(t))) in self.groups else -1
                               for b, t in zip(self.board, self.threads, strict=True)])

    def predict(self, p: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """log ms of the picked rows; `p`: constants, in-order, threads, fp16, one residual per board and threads."""
        n, x = len(START), self.x[rows]
        theta, residual = np.exp(p[:n]), np.append(p[n + 3:], 0.)[self.group[rows]]
        slow = np.exp(p[n] * self.in_order[rows] + p[n + 1] * np.log(self.threads[rows] / 4)
                      + p[n + 2] * self.half[rows] + residual)
        return np.log(x[:, :7] @ theta[:7] * slow + x[:, 7:] @ theta[7:])

    def fit(self, rows: np.ndarray) -> np.ndarray:
        """Robust log least squares on the picked rows of the five boards."""
        n, rows = len(START), rows & self.ours

        def residual(p: np.ndarray) -> np.ndarray:
            return np.r_[self.predict(p, rows) - self.log_ms[rows], PRIOR * (p[:n] - START), .5 * p[n + 2],
                         SHRINK * p[n + 3:]]
        start = np.r_[START, .66, .22, 0., np.zeros(len(self.groups))]
        return least_squares(residual, start, loss="soft_l1", f_scale=.2).x

    def held_out(self, by: np.ndarray, among: Iterable[str]) -> np.ndarray:
        """log(predicted/measured) of every row of the five boards with its value of `by` left out; NaN elsewhere."""
        errors = np.full(len(self.log_ms), np.nan)
        for value in among:
            rows = (by == value) & self.ours
            errors[rows] = self.predict(self.fit(by != value), rows) - self.log_ms[rows]
        return errors

    def table(self, p: np.ndarray) -> dict[str, Any]:
        """The shipped table: equivalents of instructions per unit of each feature."""
        theta = dict(zip(COMPUTE, np.exp(p[:7]), strict=True))

        def times(k: float) -> list[float]:
            return [float(f"{k * GEMM[0]:.6g}"), 0., 0., float(f"{k * GEMM[1]:.6g}")]
        formulas = {"im2col_3x3": {"macs": times(theta["conv3x3"]), "in": times(theta["winograd"]),
                                   "out": times(theta["winograd"])},
                    **{c: {"macs": times(theta[c])} for c in ("conv", "depthwise", "grouped", "pointwise", "stem")}}
        gemms = ("gemm", "matmul", "lstm", "gru", "convtranspose", "int8_gemm", "int8_dynamic", "int8_pointwise")
        same = {"conv3x3": "im2col_3x3", "depthwise_other": "depthwise", "int8_conv": "conv", "int8_grouped": "grouped",
                "int8_depthwise": "depthwise", **dict.fromkeys(gemms, "pointwise")}
        named = {**{k: v for k, v in formulas.items() if k != "im2col_3x3"},
                 **{k: formulas[v] for k, v in same.items()}}
        rest = {*OPERATOR_CLASS.values(), "broadcast", "pad", "transpose_rows", "transpose_pairs", "transpose_any",
                "resize_nearest", "resize_linear", "resize_cubic", "reduce_middle", "avgpool_18"} - set(named)
        return {"about": "equivalents, fitted to published times: so many instructions of a matrix product; operators "
                         "without multiply-adds cost their memory traffic only; made by benchmarks/fit_profiles.py",
                "runtime": "ncnn", "int8_counted": False, "call": [0., 0., 0., 0.],
                "formulas": {**named, **{c: {} for c in sorted(rest)}}}

    def constants(self, p: np.ndarray, name: str, board: Board, half: bool) -> ProfileConstants:
        """One board's, with its residuals folded into `stall` and `thread_exponent`."""
        n = len(START)
        residual = {t: p[n + 3 + self.groups.index((name, t))] for t in (1, 4)}
        exponent = p[n + 1] + (residual[4] - residual[1]) / math.log(4)
        act, weights, gemv, tau = np.exp(p[7:11])
        stall = math.exp(residual[4]) * (.5 * math.exp(p[n + 2]) if half else 1.)
        return ProfileConstants(
            costs="ncnn", value_bytes=2 if half else 4, stall=_r(stall), in_order_factor=_r(math.exp(p[n])),
            thread_exponent=_r(max(0., exponent)), k_act=_r(act), k_weights=_r(weights), k_gemv=_r(gemv),
            tau_us_ghz=_r(tau), **board.constants())


def _r(value: float) -> float:
    return round(float(value), 4)


def _features(net: list[Node], board: Board, threads: int, size: float) -> np.ndarray:
    """ms per unit of each constant, as in `profile.py`; `size` is 0.5 for fp16 (half the bytes, twice the lanes)."""
    cycles = GEMM[1] / board.fmla_per_cycle + (GEMM[0] - GEMM[1]) / board.issue_width
    unit, bandwidth = size * cycles / (board.clock_ghz * 1e6 * threads), 2e6 * board.memcpy_gbs
    busy = [n for n in net if n.cls != "free"]
    work = {c: sum(n.macs for n in net if n.cls == c) for c in COMPUTE}
    work["pointwise"] += sum(n.macs for n in net if n.cls == "gemm")
    work["winograd"] = sum(n.in_elems + n.out_elems for n in net if n.cls == "conv3x3")
    gemv = sum(n.features["gemv_weights"] for n in net)
    return np.array([*(work[c] * unit for c in COMPUTE),
                     4 * size * sum(n.in_elems + n.out_elems for n in busy) / bandwidth,
                     4 * size * (sum(n.weights for n in busy) - gemv) / bandwidth, 4 * size * gemv / bandwidth,
                     len(busy) / board.clock_ghz / 1e3])
