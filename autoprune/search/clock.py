"""Where a candidate's time goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Clock"]


class Clock:
    """Wall clock by activity, in seconds, on the monotonic clock; an activity within another counts as itself only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._within = [0.0]

    @contextmanager
    def time(self, activity: str) -> Iterator[None]:
        start = time.perf_counter()
        self._within.append(0.0)
        try:
            yield
        finally:
            whole = time.perf_counter() - start
            self.seconds[activity] = self.seconds.get(activity, 0.0) + whole - self._within.pop()
            self._within[-1] += whole
