"""Published onnxruntime rows of a Raspberry Pi 5 → `stall` and `k_act` of onnxruntime on Arm."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from autoprune.devices.device import ProfileConstants
from autoprune.devices.node import Node
from autoprune.devices.profile import node_ms

__all__ = ["fit_ort", "held_out_ort", "ort_rows"]


def ort_rows(data: Path, nets: dict[str, list[Node]]) -> list[tuple[str, float]]:
    """(net, ms) of every published onnxruntime row on a Pi 5 whose architecture is written down."""
    text = (data / "published_latencies.csv").read_text(encoding="utf-8")
    return [(r["model"], float(r["latency_ms"])) for r in csv.DictReader(text.splitlines())
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


def held_out_ort(rows: list[tuple[str, float]], nets: dict[str, list[Node]], base: ProfileConstants,
                 letters: int = 99) -> np.ndarray:
    """log(predicted/measured) of every row without the nets whose first `letters` letters are the same."""
    errors = []
    for name, ms in rows:
        constants = fit_ort([r for r in rows if r[0][:letters] != name[:letters]], nets, base)
        errors.append(math.log(sum(node_ms(n, constants, 4) for n in nets[name]) / ms))
    return np.array(errors)
