"""A front sorted into what a picture of it shows: front, controls, other candidates, failures, the chosen point."""

from __future__ import annotations

from dataclasses import dataclass, field

from autoprune.devices.latency import Latency
from autoprune.errors import AutopruneError
from autoprune.front.front import Front
from autoprune.search.candidate import Candidate
from autoprune.tasks.score import FRACTIONS, Score

__all__ = ["COLOURS", "View", "Window", "drawable", "latency_of", "score_of", "view_of", "window_of"]

COLOURS = {"front": "#1f5fa8", "test": "#7b3fa0", "dense": "#222222", "uniform": "#c8741a", "other": "#b9bec5",
           "chosen": "#0b7a4b", "budget": "#b3261e", "grid": "#e8eaed", "text": "#24292f"}
_CONTROL = "control:"
_DENSE = "control: dense"


@dataclass(frozen=True)
class Window:
    """The part of the plane that is shown first: milliseconds, and the metric's own units.

    outside: drawable candidates that lie beyond it.
    """

    low_ms: float
    high_ms: float
    low: float
    high: float
    outside: int


@dataclass(frozen=True)
class View:
    """points: the front, by latency; uniform: the controls but the dense model; others: drawable candidates that are
    neither on the front nor controls; dense: None when it cannot be drawn; chosen: what is emphasised, and why.
    """

    front: Front
    points: list[Candidate]
    uniform: list[Candidate]
    others: list[Candidate]
    failed: list[Candidate]
    dense: Candidate | None
    chosen: Candidate | None
    why: str
    groups: dict[str, int] = field(default_factory=dict)

    @property
    def drawn(self) -> list[Candidate]:
        """Every candidate that has a place in the plane, each once, by number."""
        every = [*([self.dense] if self.dense else []), *self.uniform, *self.points, *self.others]
        return [c for _, c in sorted({c.number: c for c in every}.items())]

    @property
    def latencies(self) -> list[Latency]:
        return [latency_of(c) for c in self.drawn]

    @property
    def split(self) -> str:
        """Name of the split that candidates are ranked on."""
        return next((c.score.split for c in self.drawn if c.score is not None), "search")

    @property
    def tested(self) -> list[Candidate]:
        """Front points and the dense model, those with a score on the test split."""
        every = {c.number: c for c in [*self.points, *([self.dense] if self.dense else [])]}
        return sorted((c for c in every.values() if c.test is not None), key=lambda c: c.ms)


def drawable(candidate: Candidate) -> bool:
    """Whether it succeeded with a score and a latency."""
    return candidate.status == "ok" and candidate.score is not None and candidate.latency is not None


def latency_of(candidate: Candidate) -> Latency:
    """The latency of a drawable candidate."""
    assert candidate.latency is not None  # drawable() was asked before
    return candidate.latency


def score_of(candidate: Candidate) -> Score:
    """The score of a drawable candidate, on the split that candidates are ranked on."""
    assert candidate.score is not None  # drawable() was asked before
    return candidate.score


def view_of(front: Front) -> View:
    """Sort a front's candidates. The chosen point is the recommended one, else the knee of the front."""
    points = [p.candidate for p in front.points]
    on_front = {c.number for c in points}
    drawn = [c for c in front.candidates if drawable(c)]
    failed = [c for c in front.candidates if not drawable(c)]
    dense = front.dense if drawable(front.dense) else None
    hidden = on_front | {front.dense.number}
    uniform = [c for c in drawn if c.origin.startswith(_CONTROL) and c.origin != _DENSE
               and c.number != front.dense.number]
    others = [c for c in drawn if c.number not in hidden and not c.origin.startswith(_CONTROL)]
    chosen = next((c for c in drawn if c.number == front.recommended), None)
    why = "recommended"
    if chosen is None and points:
        why = "knee of the front"
        try:
            chosen = front.pick(knee=True).candidate
        except AutopruneError:
            chosen = points[-1]
    return View(front, points, uniform, others, failed, dense, chosen, why, dict(front.groups))


def window_of(view: View) -> Window | None:
    """What to show first: the front and what is not far from it; None when nothing is drawable."""
    drawn = view.drawn
    if not drawn:
        return None
    important = {c.number: c for c in [*view.points, *([view.dense] if view.dense else []),
                                       *([view.chosen] if view.chosen else [])]}
    errors = [(s.value - s.standard_error, s.value + s.standard_error)
              for c in important.values() for s in (c.score, c.test) if s is not None]
    low, high = min(e[0] for e in errors), max(e[1] for e in errors)
    values = [score_of(c).value for c in drawn]
    values += [s.value - s.standard_error for s in map(score_of, view.uniform)]
    span = (high - low) or max(values) - min(values)
    near = [v for v in values if low - span <= v <= high + span]  # the rest would squash the front
    low, high = min([low, *near]), max([high, *near])
    bars = {c.number: c for c in [*important.values(), *view.uniform]}
    times = [t for c in bars.values() for t in (latency_of(c).lo_ms, latency_of(c).hi_ms)]
    times += view.front.budgets_ms.values()
    central = [latency_of(c).ms for c in drawn]
    low_ms, high_ms = min([*times, *central]), max(times)
    if max(central) <= 2 * high_ms:
        high_ms = max(high_ms, *central)
    pad_ms = 0.06 * (high_ms - low_ms) or 0.1 * high_ms
    pad = 0.08 * (high - low) or 0.05 * abs(high) or 0.05
    left = 0.0 if low_ms < 0.35 * high_ms else low_ms - pad_ms
    bottom, top = low - pad, high + pad
    if view.front.metric in FRACTIONS:  # no axis up to 104 %
        bottom, top = max(bottom, min(low, -0.01)), min(top, max(high, 1.01))
    box = (left, high_ms + pad_ms, bottom, top)
    outside = sum(not (box[0] <= latency_of(c).ms <= box[1] and box[2] <= score_of(c).value <= box[3]) for c in drawn)
    return Window(*box, outside)
