"""How much more a candidate takes when it is measured again, found out while the search can still aim lower."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from autoprune.errors import DeviceError
from autoprune.graph.plan import Plan
from autoprune.search.candidate import Candidate
from autoprune.search.outcome import pareto
from autoprune.search.study import Study

__all__ = ["Repeats"]

_EVERY = 12  # candidates: one of them is measured again, which takes as long as five candidates' measurements
_MOST = 6  # of a search
_CALM, _ENOUGH = 1.02, 2  # a device that repeats itself so well so often is not asked any more
_NEAR = 0.75  # of a budget and up to it: what says something of it
_LARGEST = 1.3


class Repeats:
    """Kept with the study. again_ms: measures a plan anew, each time in a process of its own (ms); empty where that
    cannot be measured.
    """

    def __init__(self, study: Study, again_ms: Callable[[Plan], list[float]]):
        self._study, self._again_ms = study, again_ms
        self._found: dict[str, tuple[float, float]] = {
            number: (ms, excess) for number, (ms, excess) in study.attributes.get("repeats", {}).items()}
        self._failed = False

    def excess(self, budget_ms: float) -> float:
        """By what factor the slowest repetition of a candidate near this budget was slower than it was at first; at
        least 1.
        """
        near = [excess for ms, excess in self._found.values() if _NEAR * budget_ms <= ms <= budget_ms]
        found = near or [excess for _, excess in self._found.values()]
        return min(_LARGEST, max(1.0, median(found))) if found else 1.0

    def look(self, candidates: list[Candidate], targets_ms: Sequence[float]) -> bool:
        """Measure the front's nearest member to one of these again, of each in turn, if that is due; whether it was."""
        calm = len(self._found) >= _ENOUGH and all(excess <= _CALM for _, excess in self._found.values())
        if self._failed or calm or not len(self._found) < min(_MOST, len(candidates) // _EVERY):
            return False
        target_ms = targets_ms[len(self._found) % len(targets_ms)]
        members = [c for c in pareto(candidates) if c.ms <= target_ms and str(c.number) not in self._found]
        if not members:
            return False
        nearest = max(members, key=lambda c: c.ms)
        try:
            again_ms = self._again_ms(nearest.plan)
        except DeviceError:  # the next candidate says what is wrong with it
            again_ms = []
        self._failed = not again_ms
        if again_ms:
            self._found[str(nearest.number)] = nearest.ms, max(again_ms) / nearest.ms
            self._study.note("repeats", self._found)
        return bool(again_ms)
