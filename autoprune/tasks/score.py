"""A metric's value with what it was taken on and how sure it is."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from autoprune.errors import ConfigError, did_you_mean

__all__ = ["FRACTIONS", "SPLITS", "Score"]

SPLITS = ("train", "search", "validation", "test")
FRACTIONS = ("accuracy", "f1", "miou", "token_accuracy", "top5")  # shown in percent


@dataclass(frozen=True)
class Score:
    """What a model reached.

    metric: its name. value: finite, in the metric's own units (accuracy is 0…1). split: "search" (a part of the data
    that candidates are ranked on), "validation", "test", or "train". n: samples it was taken on, ≥ 1.
    standard_error: of `value`, same units, ≥ 0; 0 where it is not known. It covers the choice of samples, not of seeds.
    `ConfigError` for NaN, infinite or negative where not allowed.
    """

    metric: str
    value: float
    split: str
    n: int
    standard_error: float
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ConfigError("unknown split in a score", given=repr(self.split),
                              allowed=did_you_mean(self.split, SPLITS))
        if not math.isfinite(self.value) or not math.isfinite(self.standard_error) or self.standard_error < 0:
            raise ConfigError("a score needs a finite value and a finite standard error of at least 0",
                              given=f"{self.value} ± {self.standard_error}", fix="look at the model's outputs for NaN")
        if self.n < 1:
            raise ConfigError("a score needs at least one sample", given=f"n={self.n}", fix="check the data")

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Score:
        """Inverse of `to_json`. `ConfigError` names missing and unknown keys."""
        known = {field.name for field in fields(cls)}
        wrong = sorted((known - {"higher_is_better"} - set(data)) | (set(data) - known))
        if wrong:
            raise ConfigError("a stored score has missing or unknown keys", given=", ".join(wrong),
                              allowed=", ".join(sorted(known)), fix="start the run again with --fresh")
        return cls(metric=str(data["metric"]), value=float(data["value"]), split=str(data["split"]), n=int(data["n"]),
                   standard_error=float(data["standard_error"]),
                   higher_is_better=bool(data.get("higher_is_better", True)))

    def better_than(self, other: Score) -> bool:
        """Whether the value is strictly better than the other's, whichever direction is better."""
        return self.value > other.value if self.higher_is_better else self.value < other.value

    def __str__(self) -> str:
        where = f"({self.metric}, {self.split}, n={self.n})"
        if self.metric in FRACTIONS:
            return f"{100 * self.value:.1f} % ± {100 * self.standard_error:.1f} {where}"
        return f"{self.value:.4g} ± {self.standard_error:.2g} {where}"
