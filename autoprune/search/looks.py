"""What untrained models look like: asked before something is proposed, of whatever evaluates candidates."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from autoprune.devices.latency import Latency
from autoprune.graph.plan import Plan
from autoprune.search.candidate import Candidate
from autoprune.search.pipeline import Pipeline
from autoprune.search.workers.job import Done, Job
from autoprune.search.workers.workers import Workers

__all__ = ["Looks"]

_MOST, _FIRST = 6, 2  # for a proposal; beside several workers, before it is known what a look takes
_FORGOTTEN = 0.03  # of what a look took, with every candidate: it is tried again


class Looks:
    """Hands looks to the workers that have room, as jobs that no quality is enough for. Their numbers are negative.

    folder: for what the jobs may write. ended: what else has ended meanwhile, for the search to take, and looks that
    say what is wrong with every candidate.
    """

    def __init__(self, pipeline: Pipeline, workers: Workers, folder: Path):
        self._pipeline, self._workers, self._folder = pipeline, workers, folder
        self.ended: list[Done] = []
        self._numbers = 0
        self._look_s, self._candidate_s = 0.0, 0.0

    @property
    def count(self) -> int:
        """How many for a proposal: beside several workers as many as are over before the next of them is done."""
        workers = self._workers.running + self._workers.room
        if workers < 2:
            return _MOST
        if not self._candidate_s or not self._look_s:
            return _FIRST
        count = int(self._candidate_s / (workers * self._look_s))
        return min(count, _MOST) if count > 1 else 0

    def heard(self, candidate: Candidate) -> None:
        """Of a candidate that has ended: how long one takes that is trained."""
        seconds = candidate.seconds.get("total", 0.0)
        if candidate.status == "ok" and not candidate.plan.is_dense and seconds:
            self._candidate_s = _mean(self._candidate_s, seconds)
            self._look_s *= 1 - _FORGOTTEN

    def at(self, plans: Sequence[Plan], latency: Latency, until_s: Callable[[], float]) -> list[float]:
        """The quality of each plan's untrained model (higher is better); not a number where it fails, or where
        `until_s` on the monotonic clock is reached before. latency: any, nothing is asked of it.
        """
        start = time.monotonic()
        with self._pipeline.clock.time("look"):
            waiting = {self._numbers - i - 1: plan for i, plan in enumerate(plans)}
            self._numbers -= len(plans)
            found = dict.fromkeys(waiting, math.nan)
            open_ = set[int]()
            while (waiting or open_) and time.monotonic() < until_s():
                while waiting and self._workers.room > 0:
                    number, plan = waiting.popitem()
                    open_.add(number)
                    self._workers.start(Job(number, "look", plan, latency, self._folder / f"look{-number}", math.inf))
                for done in self._workers.wait(until_s()):
                    if done.number not in open_ or done.fatal is not None:
                        self.ended.append(done)
                    elif done.look is not None:
                        found[done.number] = done.look
                    open_.discard(done.number)
        if plans:
            self._look_s = _mean(self._look_s, (time.monotonic() - start) / len(plans))
        return [found[number] for number in sorted(found, reverse=True)]


def _mean(before: float, now: float) -> float:
    """Of what was and what is, the latter only where there was nothing."""
    return (before + now) / 2 if before else now
