"""Quantities a user types: `20ms`, `50fps`, `0.5x`, `1pp`, `2h`. A bare number is an error that shows the readings."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from autoprune.errors import ConfigError

__all__ = ["Budget", "parse_budget", "parse_budgets", "parse_drop", "parse_duration_s"]

_NUMBER = r"([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)"
_TO_MS = {"us": 1e-3, "µs": 1e-3, "μs": 1e-3, "ms": 1.0, "s": 1e3}
_TO_S = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BUDGETS = "20ms, 0.5x, 60fps, 20ms@p90"
_PERCENTILES = ("p50", "p90", "p99")


@dataclass(frozen=True)
class Budget:
    """A latency bound: absolute (`limit_ms`) or relative to the dense model (`ratio`); exactly one is set."""

    text: str
    limit_ms: float | None = None
    ratio: float | None = None
    percentile: str = "p50"

    def resolve_ms(self, dense_ms: float) -> float:
        """The bound in milliseconds, given the dense model's latency in milliseconds."""
        if self.limit_ms is not None:
            return self.limit_ms
        assert self.ratio is not None  # by construction in parse_budget
        return self.ratio * dense_ms


def _require_text(value: object, name: str, unit: str, allowed: str) -> None:
    if not isinstance(value, str):
        raise ConfigError(f"a {name.replace('_', ' ')} is text with a unit", given=repr(value), allowed=allowed,
                          fix=f'{name}="{value}{unit}"')


def _split(text: str, what: str, units: str, example: str) -> tuple[float, str]:
    match = re.fullmatch(rf"\s*{_NUMBER}\s*([a-zA-Zµμ%]*)\s*", text)
    if match is None:
        raise ConfigError(f"{what} is not a quantity", given=repr(text), allowed=units, fix=example)
    value = float(match.group(1))
    if not math.isfinite(value) or value <= 0:
        raise ConfigError(f"{what} must be greater than 0 and finite", given=repr(text), allowed=units, fix=example)
    return value, match.group(2)


def parse_budget(text: str) -> Budget:
    """Read a latency budget.

    `20ms`, `0.02s`, `1500us` are absolute; `50fps` is 1000/50 ms; `0.5x` is half the dense model's latency. `@p90` or
    `@p99` asks for that percentile instead of the median. Raises `ConfigError` for anything else; for a bare number
    the error lists what it could have meant.
    """
    _require_text(text, "budget", "ms", _BUDGETS)
    units = "a number with us, ms, s, fps or x (of the dense model), optionally @p50, @p90 or @p99"
    body, at, tail = text.strip().partition("@")
    percentile = tail.strip().lower() if at else "p50"
    if percentile not in _PERCENTILES:
        raise ConfigError("unknown percentile in the budget", given=repr(text), allowed=", ".join(_PERCENTILES),
                          fix="--budget 20ms@p90")
    value, unit = _split(body, "the budget", units, "--budget 20ms")
    if unit in _TO_MS or unit == "fps":
        limit_ms = 1000.0 / value if unit == "fps" else value * _TO_MS[unit]
        if not 0 < limit_ms < math.inf:
            raise ConfigError("the budget must be greater than 0 and finite", given=repr(text), allowed=units,
                              fix="--budget 20ms")
        return Budget(text.strip(), limit_ms=limit_ms, percentile=percentile)
    if unit == "x":
        return Budget(text.strip(), ratio=value, percentile=percentile)
    if unit == "":
        number = body.strip()
        readings = f"{number}ms (per inference), {number}fps (inferences per second), {number}x (times the dense model)"
        raise ConfigError("the budget has no unit", given=repr(text), allowed=readings, fix=f"--budget {number}ms")
    raise ConfigError("unknown unit in the budget", given=repr(text), allowed=units, fix="--budget 20ms")


def parse_budgets(text: str) -> tuple[Budget, ...]:
    """Read one budget or several with commas between, `20ms,10ms`, each once and in their order. Raises `ConfigError`
    also where they ask for different percentiles.
    """
    _require_text(text, "budget", "ms", _BUDGETS)
    found = tuple({budget.text: budget for budget in map(parse_budget, text.split(","))}.values())
    if len({budget.percentile for budget in found}) > 1:
        raise ConfigError("budgets of one search are held to one percentile", given=repr(text),
                          fix="--budget 20ms@p90,10ms@p90")
    return found


def parse_drop(text: str) -> float:
    """Read an allowed loss of the metric; `1pp` (percentage points) and `0.01abs` both give 0.01."""
    _require_text(text, "max_drop", "abs", "1pp (percentage points of the metric), 0.01abs (the metric's own units)")
    value, unit = _split(text, "the allowed drop", "a number with pp (percentage points) or abs", "--max-drop 1pp")
    if unit == "pp":
        return value / 100.0
    if unit == "abs":
        return value
    number = text.strip().removesuffix(unit).strip()
    raise ConfigError("the allowed drop needs a unit", given=repr(text),
                      allowed=f"{number}pp (percentage points of the metric) or {number}abs (the metric's own units)",
                      fix=f"--max-drop {number}pp")


def parse_duration_s(text: str) -> float:
    """Read a duration (`90s`, `10m`, `2h`, `1d`) in seconds."""
    _require_text(text, "timeout", "s", "90s, 30m, 2h, 1d")
    value, unit = _split(text, "the duration", "a number with s, m, h or d", "--timeout 30m")
    if unit not in _TO_S:
        raise ConfigError("the duration needs a unit", given=repr(text), allowed="s, m, h, d", fix="--timeout 30m")
    return value * _TO_S[unit]
