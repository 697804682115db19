"""A device file as text."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from autoprune.devices.device import ErrorFigures, ProfileConstants, RooflineConstants

__all__ = ["Described", "figures", "toml"]


@dataclass(frozen=True)
class Described:
    """What a device file says besides its numbers."""

    name: str
    description: str
    runtime: str
    version: str
    provider: str
    precision: str
    align: int
    source: str
    announce: str = ""
    facts: dict[str, tuple[Any, str]] = field(default_factory=dict)


def toml(what: Described, constants: ProfileConstants | RooflineConstants, error: ErrorFigures) -> str:
    """The whole file."""
    def text(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)  # a JSON string, number or boolean is one of TOML too

    table = "roofline" if isinstance(constants, RooflineConstants) else "profile"
    lines = ["# Made by benchmarks/fit_profiles.py --write; do not edit numbers by hand.",
             "schema = 1", f"name = {text(what.name)}", 'kind = "profile"', f"description = {text(what.description)}",
             *([f"announce = {text(what.announce)}"] if what.announce else []),
             f"threads = {constants.cores}", f"align = {what.align}", "sparsity = []", "", "[runtime]",
             *(f"{k} = {text(getattr(what, v))}" for k, v in (("name", "runtime"), ("version", "version"),
                                                              ("provider", "provider"), ("precision", "precision"))),
             "", f"[{table}]", *(f"{k} = {text(v)}" for k, v in asdict(constants).items()),
             f"source = {text(what.source)}", "", "[error]", *(f"{k} = {text(v)}" for k, v in asdict(error).items()),
             "", "[facts]", *(f"{k} = {{ value = {text(v)}, source = {text(s)} }}" for k, (v, s) in what.facts.items())]
    return "\n".join(lines) + "\n"


def figures(errors: np.ndarray, rows: int, source: str) -> ErrorFigures:
    """Error quantiles; the interval is of measured/predicted and always contains 1."""
    ratio, size = np.exp(-errors), np.abs(errors)
    return ErrorFigures(p50=round(float(np.median(size)), 3), p90=round(float(np.quantile(size, .9)), 3), rows=rows,
                        lo_ratio=round(min(1., float(np.quantile(ratio, .1))), 3),
                        hi_ratio=round(max(1., float(np.quantile(ratio, .9))), 3), source=source)
