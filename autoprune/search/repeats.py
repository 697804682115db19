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
    """Kept with the study as `verified_ms`, by the candidate's number, so that what is measured here need not be at the
    end. again_ms: measures a plan anew, each time in a process of its own (ms); empty where that cannot be measured.
    """

    def __init__(self, study: Study, again_ms: Callable[[Plan], list[float]]):
        self._study, self._again_ms = study, again_ms
        self._failed = False

    def excess(self, budget_ms: float) -> float:
        """By what factor the slowest repetition of a candidate near this budget was slower than it was at first; at
        least 1.
        """
        found = self._found()
        near = [excess for ms, excess in found if _NEAR * budget_ms <= ms <= budget_ms]
        return min(_LARGEST, max(1.0, median(near or [excess for _, excess in found]))) if found else 1.0

    def look(self, candidates: list[Candidate], targets_ms: Sequence[float]) -> bool:
        """Measure the front's nearest member to one of these again, of each in turn, if that is due; whether it was."""
        known = dict(self._study.attributes.get("verified_ms", {}))
        due = len(known) < min(_MOST, len(candidates) // _EVERY)
        if self._failed or not due or (len(known) >= _ENOUGH and all(excess <= _CALM for _, excess in self._found())):
            return False
        target_ms = targets_ms[len(known) % len(targets_ms)]
        members = [c for c in pareto(candidates) if c.ms <= target_ms and str(c.number) not in known]
        if not members:
            return False
        nearest = max(members, key=lambda c: c.ms)
        try:
            again_ms = self._again_ms(nearest.plan)
        except DeviceError:  # the next candidate says what is wrong with it
            again_ms = []
        self._failed = not again_ms
        if again_ms:
            self._study.note("verified_ms", {**known, str(nearest.number): again_ms})
        return bool(again_ms)

    def _found(self) -> list[tuple[float, float]]:
        """What each took at first (ms), and the slowest repetition over that."""
        known = self._study.attributes.get("verified_ms", {})
        return [(c.ms, max(known[str(c.number)]) / c.ms) for c in self._study.candidates() if str(c.number) in known]
