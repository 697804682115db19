"""Instructions that onnxruntime's Arm kernels execute for a node: `counts(node)`.

The coefficients in `aarch64_costs.json` are fitted by `benchmarks/fit_profiles.py` to counts of onnxruntime's aarch64
wheel; they measure work, not time. They hold for fp32 and one thread.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from autoprune.devices.node import Node

__all__ = ["Counts", "call_instructions", "counts", "fixed_instructions", "formula_of", "table"]

_FORMULA = {"conv3x3": "im2col", "conv": "im2col", "stem": "im2col", "grouped": "im2col",
            "depthwise_other": "depthwise_im2col"}


@dataclass(frozen=True)
class Counts:
    """Instructions of one execution: in total, and of these SIMD data processing, loads/stores, and 128-bit FMLA.

    FMLA instructions are SIMD instructions too; one is 4 multiply-adds.
    """

    insn: float
    simd: float
    mem: float
    fmla: float

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.insn + other.insn, self.simd + other.simd, self.mem + other.mem, self.fmla + other.fmla)


@cache
def _file() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(Path(__file__).with_name("aarch64_costs.json").read_text(encoding="utf-8"))
    return data


def call_instructions() -> float:
    """Instructions of one call of the runtime, whatever the model."""
    return float(_file()["call"][0])


def fixed_instructions(node: Node) -> float:
    """Instructions of one execution of `node` that do not grow with its size (dispatch, set-up)."""
    return 0.0 if node.cls == "free" else table()[formula_of(node.cls)].get("one", (0.0,))[0]


@cache
def table() -> Mapping[str, Mapping[str, tuple[float, float, float, float]]]:
    """Formula name → feature name → coefficients (total, SIMD, memory, FMLA instructions per unit of the feature)."""
    formulas: dict[str, dict[str, list[float]]] = _file()["formulas"]
    return {name: {feature: (c[0], c[1], c[2], c[3]) for feature, c in terms.items()}
            for name, terms in formulas.items()}


def formula_of(cls: str) -> str:
    """The name of the cost formula of a price class; an unknown operator costs what an addition of its size would."""
    return "add" if cls == "unknown" else _FORMULA.get(cls, cls)


def counts(node: Node) -> Counts:
    """Instructions of one execution of `node`, its fused activation included. Free nodes cost nothing."""
    if node.cls == "free":
        return Counts(0.0, 0.0, 0.0, 0.0)
    found = _apply(formula_of(node.cls), node.features)
    if node.activation:
        found = found + _apply(node.activation, {"out": float(node.out_elems), "one": 0.0})
    return found


def _apply(formula: str, features: Mapping[str, float]) -> Counts:
    total = [0.0, 0.0, 0.0, 0.0]
    for feature, coefficients in table()[formula].items():
        value = features.get(feature, 0.0)
        for index in range(4):
            total[index] += coefficients[index] * value
    return Counts(*total)
