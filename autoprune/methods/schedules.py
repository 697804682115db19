"""When to cut, and how far: one-shot, iterative, gradual. Pure functions of the step; they know no model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from autoprune.errors import ConfigError, did_you_mean

__all__ = ["SCHEDULES", "Schedule", "gradual", "iterative", "one_shot"]


def one_shot(progress: float, start: float, end: float) -> float:
    """What is kept once pruning has begun: `end`, at any progress above 0; `start` at 0."""
    return end if progress > 0 else start


def iterative(progress: float, start: float, end: float) -> float:
    """The same share of what is left goes in every cycle: `start · (end/start)^progress` (Han et al. 2015,
    arXiv:1506.02626; Frankle & Carbin 2019, arXiv:1803.03635). Needs `end` > 0.
    """
    return float(start * (end / start) ** progress)


def gradual(progress: float, start: float, end: float, power: float = 3.0) -> float:
    """`s_f + (s_i − s_f)(1 − t/T)^power` of Zhu & Gupta 2017 (arXiv:1710.01878), cubic by default.

    They write it for the share that is gone; it is linear in it, so it holds for the kept share and for counts, too.
    """
    return float(end + (start - end) * (1 - progress) ** power)


SCHEDULES: dict[str, Callable[[float, float, float], float]] = {
    "gradual": gradual, "iterative": iterative, "one-shot": one_shot}


@dataclass(frozen=True)
class Schedule:
    """How what is kept falls from a start to a target over `cuts` cuts; cut 0 is before anything is cut.

    kind: "one-shot" (one cut), "iterative" or "gradual". power: of the polynomial of "gradual", ≥ 1. `ConfigError` when
    a number is out of range.
    """

    kind: str = "one-shot"
    cuts: int = 1
    power: float = 3.0

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise ConfigError("unknown schedule", given=repr(self.kind), allowed=did_you_mean(self.kind, SCHEDULES))
        if self.cuts < 1 or not 1 <= self.power < math.inf or (self.kind == "one-shot" and self.cuts != 1):
            raise ConfigError("a schedule is out of range", given=self,
                              allowed="cuts ≥ 1 (one-shot: 1), power ≥ 1")

    def kept(self, cut: int, target: float, start: float = 1.0) -> float:
        """Share kept after cut number `cut`, 0 … `cuts`: `start` after none, exactly `target` after the last.

        Shares in (0, 1], `target` ≤ `start`. `ConfigError` when they are not, or when there is no such cut.
        """
        if not 0 < target <= start <= 1:
            raise ConfigError("a schedule cannot reach its target", given=f"from {start:g} to {target:g} kept",
                              allowed="0 < target ≤ start ≤ 1")
        return self._value(cut, target, start)

    def count(self, cut: int, target: int, start: int) -> int:
        """Like `kept` for numbers of units: rounded, never below `target`, never rising from cut to cut."""
        if not 1 <= target <= start:
            raise ConfigError("a schedule cannot reach its target", given=f"from {start} to {target} units",
                              allowed="1 ≤ target ≤ start")
        return round(self._value(cut, target, start))

    def steps(self, total: int, settle: float = 0.25) -> tuple[int, ...]:
        """Before which of `total` training steps (from 0) each cut is made, evenly spaced.

        The last comes no later than leaves the share `settle` of the steps for training with the final mask (0 … 1;
        all of them for a single cut). `ConfigError` when the steps end before the last cut.
        """
        if not 0 <= settle <= 1:
            raise ConfigError("the share of steps after the last cut is out of range", given=settle, allowed="0 … 1")
        last = min(total - 1, math.floor(total * (1 - settle))) if self.cuts > 1 else 0
        if total < 1 or last < self.cuts - 1:
            raise ConfigError("the schedule never reaches its target: training ends before the last cut",
                              given=f"{self.cuts} cuts in {total} steps, the last {settle:.0%} of them for settling",
                              fix="more steps, or fewer cuts")
        return tuple(round(i * last / max(1, self.cuts - 1)) for i in range(self.cuts))

    def _value(self, cut: int, target: float, start: float) -> float:
        if not 0 <= cut <= self.cuts:
            raise ConfigError("the schedule has no such cut", given=cut, allowed=f"0 … {self.cuts}")
        if cut == self.cuts:
            return target
        if self.kind == "gradual":
            return gradual(cut / self.cuts, start, target, self.power)
        return SCHEDULES[self.kind](cut / self.cuts, start, target)
