"""ncnn rows of five boards → what changes between boards (and with threads) when the work stays the same."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

CORES = {  # instructions decoded per cycle
    "Cortex-A53": (2, "Arm Cortex-A53 TRM: dual issue, in order"),
    "Cortex-A57": (3, "Arm UAN 0015B, Cortex-A57 Software Optimization Guide: 3-wide decode"),
    "Cortex-A72": (3, "Arm UAN 0016A, Cortex-A72 Software Optimization Guide: 3-wide decode"),
    "Cortex-A76": (4, "Arm PJDOC-466751330-7215, Cortex-A76 Software Optimization Guide: 4-wide decode")}
BOARDS = {"rpizero2w": "Raspberry Pi Zero 2 W", "rpi3bplus": "Raspberry Pi 3B+", "rpi4": "Raspberry Pi 4B (1.8GHz)",
          "rpi5": "Raspberry Pi 5", "jetson-nano-cpu": "NVIDIA Jetson Nano"}
MAC_CLASSES = ("c3s1", "conv", "dw", "gconv", "pw", "stem")  # a fully connected layer computes as "pw" does
TERMS = (*MAC_CLASSES, "act", "weights", "gemv", "tau")
START = np.log([.53, 1.29, 3.38, 1.69, 1.27, 4.25, 1.34, .02, 1., 9.4, math.exp(.66), math.exp(.22), 1.])


def board_facts(path: Path) -> dict[str, dict[str, Any]]:
    """Per board: clock, FMLA per cycle, issue width, memcpy (GB/s; the middle where a range is published)."""
    facts = {}
    for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
        if row["profile"] not in BOARDS:
            continue
        core = next(c for c in CORES if c.split("-")[1] in row["soc_or_chip"])
        span = [float(v) for v in re.findall(r"\d+\.?\d*", row["bw_measured_gbs"].split("memcpy")[0])]
        facts[row["profile"]] = {
            "row": row, "core": core, "cores": int(row["cores_used"]), "clock_ghz": float(row["clock_ghz"]),
            "fmla_per_cycle": float(row["fp32_flops_per_cycle_per_core"]) / 8, "issue_width": float(CORES[core][0]),
            "memcpy_gbs": round(sum(span) / len(span), 3), "in_order": row["in_order"] == "1"}
    return facts


class Transfer:
    """ncnn rows of five boards, priced by the same formula with ncnn's own constants."""

    def __init__(self, data: Path, boards: dict[str, dict[str, Any]], gemm: dict[str, list[float]]):
        nets = json.loads((data / "published_net_features.json").read_text(encoding="utf-8"))
        names = {v: k for k, v in BOARDS.items()}
        text = (data / "published_latencies_pi.csv").read_text(encoding="utf-8")
        rows = [r for r in csv.DictReader(text.splitlines())
                if r["runtime"] == "ncnn" and r["device"] in names and r["model"] in nets
                and r["precision"] in ("fp32", "fp16") and r["threads"] in ("1", "4")]
        self.board = np.array([names[r["device"]] for r in rows])
        self.threads = np.array([int(r["threads"]) for r in rows])
        self.half = np.array([r["precision"] == "fp16" for r in rows], float)
        self.in_order = np.array([boards[b]["in_order"] for b in self.board], float)
        self.log_ms = np.log([float(r["latency_ms"]) for r in rows])
        insn, fmla = gemm["macs"][0], gemm["macs"][3]
        self.x = np.array([self._features(nets[r["model"]], boards[b], t, .5 if h else 1., insn, fmla)
                           for r, b, t, h in zip(rows, self.board, self.threads, self.half, strict=True)])

    @staticmethod
    def _features(net: list[dict[str, Any]], board: dict[str, Any], threads: int, size: float, insn: float,
                  fmla: float) -> list[float]:
        cycles = fmla / board["fmla_per_cycle"] + (insn - fmla) / board["issue_width"]  # per MAC, as in profile.py
        per_ms = board["clock_ghz"] * 1e6 * threads
        bandwidth = 2 * board["memcpy_gbs"] * 1e6
        busy = [n for n in net if n["cls"] != "free"]
        macs = {c: sum(n["macs"] for n in net if n["cls"] == c) for c in (*MAC_CLASSES, "fc")}
        macs["pw"] += macs.pop("fc")
        gemv = sum(n["wt"] for n in net if n["cls"] == "fc")
        return [*(macs[c] * cycles * size / per_ms for c in MAC_CLASSES),
                sum(4 * size * (n["bi"] + n["bo"]) for n in busy) / bandwidth,
                4 * size * (sum(n["wt"] for n in net) - gemv) / bandwidth, 4 * size * gemv / bandwidth,
                len(busy) / board["clock_ghz"] / 1e3]

    def predict(self, p: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """log ms of the picked rows."""
        theta, x = np.exp(p[:10]), self.x[rows]
        slow = np.exp(p[10] * self.in_order[rows] + p[11] * np.log(self.threads[rows]) + p[12] * self.half[rows])
        return np.log((x[:, :6] @ theta[:6] + x[:, 9] * theta[9]) * slow + x[:, 6:9] @ theta[6:9])

    def fit(self, rows: np.ndarray) -> np.ndarray:
        """Robust log least squares; a weak prior at the constants of a fit to 46 boards keeps rare terms in place."""
        def residual(p: np.ndarray) -> np.ndarray:
            return np.r_[self.predict(p, rows) - self.log_ms[rows], .05 * (p[:10] - START[:10]), .5 * p[12]]
        return least_squares(residual, START, loss="soft_l1", f_scale=.2).x

    def held_out(self) -> dict[str, np.ndarray]:
        """log(predicted/measured) at 4 threads, per board, with constants from the other boards only."""
        errors = {}
        for board in BOARDS:
            rows = (self.board == board) & (self.threads == 4)
            errors[board] = self.predict(self.fit(self.board != board), rows) - self.log_ms[rows]
        return errors
