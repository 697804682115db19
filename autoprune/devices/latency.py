"""`Latency`: milliseconds with an interval, a source, and what they were taken on. Never a bare float."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from autoprune.errors import ConfigError, DeviceError

__all__ = ["PERCENTILES", "SOURCES", "Latency", "check_percentile"]

PERCENTILES = ("p50", "p90", "p99")
SOURCES = ("measured", "calibrated", "profile")


def check_percentile(percentile: str) -> None:
    """Raises `ConfigError` for what is none of `PERCENTILES`."""
    if percentile not in PERCENTILES:
        raise ConfigError("unknown percentile", given=repr(percentile), allowed=", ".join(PERCENTILES))


@dataclass(frozen=True)
class Latency:
    """One inference of one model on one device.

    Units: milliseconds, all greater than 0 and finite, `lo_ms <= ms <= hi_ms`.

    What the interval means depends on `source`: for "measured" it is the p10–p90 of the runs; for "profile" the range
    that held 80 % of held-out measurements when the profile was fitted, for "calibrated" 90 % of the held-out nets.

    `n` is the number of timed runs ("measured"), or of held-out rows or nets behind the error figure. `notes` says what
    a reader must know before trusting the number ("noisy", "drift 7 %", "operator Foo never priced").

    Raises `DeviceError` when a value is not finite, not positive, out of order, or of an unknown kind.
    """

    ms: float
    lo_ms: float
    hi_ms: float
    percentile: str
    source: str
    device: str
    runtime: str
    runtime_version: str
    threads: int
    n: int
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("lo_ms", "ms", "hi_ms"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
                raise DeviceError(f"latency {name} must be a finite number of milliseconds above 0", given=repr(value),
                                  fix="measure again; if it persists, `autoprune doctor`")
            object.__setattr__(self, name, float(value))
        if not self.lo_ms <= self.ms <= self.hi_ms:
            raise DeviceError("a latency must lie inside its own interval",
                              given=f"{self.ms} not in [{self.lo_ms}, {self.hi_ms}]", allowed="lo_ms <= ms <= hi_ms")
        _one_of("percentile", self.percentile, PERCENTILES)
        _one_of("source", self.source, SOURCES)
        for name in ("threads", "n"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise DeviceError(f"latency {name} must be a whole number above 0", given=repr(value))
        for name in ("device", "runtime", "runtime_version"):
            if not isinstance(getattr(self, name), str):
                raise DeviceError(f"latency {name} must be text", given=repr(getattr(self, name)))
        if isinstance(self.notes, str) or not all(isinstance(note, str) for note in self.notes):
            raise DeviceError("latency notes must be a list of texts", given=repr(self.notes))
        object.__setattr__(self, "notes", tuple(self.notes))

    def __str__(self) -> str:
        """`18.6 ms (profile, expect 12–29)` or `3.21 ms (measured, p10–p90 3.1–3.4)`."""
        what = "p10–p90" if self.source == "measured" else "expect"
        tag = "" if self.percentile == "p50" else f" {self.percentile}"
        return (f"{_short(self.ms, 3)} ms{tag} ({self.source}, {what} "
                f"{_short(self.lo_ms, 2)}–{_short(self.hi_ms, 2)})")

    def scaled(self, factor: float) -> Latency:
        """The same with all its milliseconds multiplied by `factor`, above 0."""
        return replace(self, ms=self.ms * factor, lo_ms=self.lo_ms * factor, hi_ms=self.hi_ms * factor)

    def to_json(self) -> dict[str, Any]:
        """Every field as plain JSON values."""
        return {**asdict(self), "notes": list(self.notes)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Latency:
        """The inverse of `to_json`. Raises `DeviceError` for missing or unknown keys and for bad values."""
        if not isinstance(data, dict):
            raise DeviceError("a latency must be a JSON object", given=type(data).__name__)
        known = {f.name for f in fields(cls)}
        missing, unknown = sorted(known - {"notes"} - set(data)), sorted(set(data) - known)
        if missing or unknown:
            raise DeviceError("a latency record has the wrong keys", given=f"missing {missing}, unknown {unknown}",
                              allowed=", ".join(sorted(known)))
        notes = data.get("notes", ())
        if not isinstance(notes, list | tuple):
            raise DeviceError("latency notes must be a list of texts", given=repr(notes))
        return cls(**{**data, "notes": tuple(notes)})


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise DeviceError(f"unknown latency {name}", given=repr(value), allowed=", ".join(allowed))


def _short(value: float, digits: int) -> str:
    """`digits` significant digits, never in scientific notation (18.6, 3.21, 0.0421, 1230)."""
    if value >= 10 ** (digits - 1):
        return f"{round(value)}" if value >= 10**digits else f"{value:.{max(0, digits - 1 - int(math.log10(value)))}f}"
    return f"{value:.{digits - 1 - math.floor(math.log10(value))}f}"
