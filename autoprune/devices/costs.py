"""Instructions that a runtime executes for a node, by table: `counts(node, "onnxruntime_aarch64")`.

A table is a file `costs_NAME.json` beside this one, made by `benchmarks/fit_profiles.py`. "onnxruntime_aarch64" (and
"onnxruntime_aarch64_dotprod", for cores with int8 dot products) were counted by executing onnxruntime's aarch64 wheel;
the others are equivalents: so many instructions that the published times come out. Work of one thread, not time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from autoprune.devices.classes import OPERATOR_CLASS
from autoprune.devices.node import Node
from autoprune.errors import ConfigError, did_you_mean

__all__ = ["Counts", "call_instructions", "counts", "fixed_instructions", "forget", "formula_of", "int8_counted",
           "table", "tables"]

_FORMULA = {"conv3x3": "im2col", "conv": "im2col", "stem": "im2col", "grouped": "im2col",
            "depthwise_other": "depthwise_im2col", "resize_cubic": "resize_linear", "unknown": "add"}


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


def tables() -> list[str]:
    """The names of the tables there are."""
    return sorted(path.stem.removeprefix("costs_") for path in Path(__file__).parent.glob("costs_*.json"))


@cache
def _file(costs: str) -> dict[str, Any]:
    if costs not in tables():
        raise ConfigError("unknown table of costs", given=repr(costs), allowed=did_you_mean(costs, tables()))
    path = Path(__file__).with_name(f"costs_{costs}.json")
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


def call_instructions(costs: str) -> float:
    """Instructions of one call of the runtime, whatever the model. `ConfigError` for an unknown table."""
    return float(_file(costs)["call"][0])


def int8_counted(costs: str) -> bool:
    """Whether quantised operators have prices of their own in this table, rather than those of fp32."""
    return bool(_file(costs)["int8_counted"])


def fixed_instructions(node: Node, costs: str) -> float:
    """Instructions of one execution of `node` that do not grow with its size (dispatch, set-up)."""
    return 0.0 if node.cls == "free" else _terms(node, costs).get("one", (0.0,))[0]


@cache
def table(costs: str) -> Mapping[str, Mapping[str, tuple[float, float, float, float]]]:
    """Formula name → feature name → coefficients (total, SIMD, memory, FMLA instructions per unit of the feature)."""
    formulas: dict[str, dict[str, list[float]]] = _file(costs)["formulas"]
    return {name: {feature: (c[0], c[1], c[2], c[3]) for feature, c in terms.items()}
            for name, terms in formulas.items()}


def forget() -> None:
    """Read the files anew from here on; for the scripts that write them."""
    _file.cache_clear()
    table.cache_clear()


def formula_of(cls: str) -> str:
    """The name of the cost formula of a price class; an unknown operator costs what an addition of its size would."""
    return _FORMULA.get(cls, cls)


def _terms(node: Node, costs: str) -> Mapping[str, tuple[float, float, float, float]]:
    """The formula of the node's class: the table's own for it, or the one of its family."""
    formulas = table(costs)
    return formulas[node.cls] if node.cls in formulas else formulas[formula_of(node.cls)]


def counts(node: Node, costs: str) -> Counts:
    """Instructions of one execution of `node`, its fused activation included. Free nodes cost nothing."""
    if node.cls == "free":
        return Counts(0.0, 0.0, 0.0, 0.0)
    found = _apply(_terms(node, costs), node.features)
    if node.activation:
        formulas, cls = table(costs), OPERATOR_CLASS.get(node.activation, "relu")
        terms = formulas.get(f"fused_{cls}", formulas[cls])
        found = found + _apply(terms, {"out": float(node.out_elems), "one": 0.0})
    return found


def _apply(terms: Mapping[str, tuple[float, float, float, float]], features: Mapping[str, float]) -> Counts:
    total = [0.0, 0.0, 0.0, 0.0]
    for feature, coefficients in terms.items():
        value = features.get(feature, 0.0)
        for index in range(4):
            total[index] += coefficients[index] * value
    return Counts(*total)
