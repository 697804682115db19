"""Which candidates are worth training: those that look best untrained, among candidates of about their latency.

Asynchronous successive halving (Li, L. et al. 2020, arXiv:1810.05934) with two rungs. Latency does not depend on
training, so that halving over two objectives is plain halving within a band of latencies. The first rung is what the
model is like with the readers refitted and the norms recalibrated, which is how candidates begin anyway (EagleEye, Li,
B. et al. 2020, arXiv:2007.02491, ranks by nothing else).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

__all__ = ["Halving"]

_BAND = 0.15  # of the logarithm of the latency, to both sides
_LATEST = 40  # looks in the band that count: a search gets better


class Halving:
    """Looks so far: (milliseconds, quality of the untrained model, higher is better; −inf where that is no number).
    `factor`: one in so many is trained; 1 looks at none.
    """

    def __init__(self, factor: int, looks: Iterable[tuple[float, float]] = ()):
        self.factor, self._looks, self._stopped = factor, list(looks), 0

    def bar(self, ms: float) -> float | None:
        """The quality that an untrained model of this latency must reach to be trained; None when nobody looks.

        Minus infinity before there are enough to compare with, and after many that were stopped, so that a search that
        gets worse still goes on.
        """
        if self.factor < 2:
            return None
        near = [quality for other, quality in self._looks
                if abs(math.log(other / ms)) <= _BAND and math.isfinite(quality)][-_LATEST:]
        if len(near) < self.factor or self._stopped >= 3 * self.factor:
            return -math.inf
        return float(np.quantile(near, 1 - 1 / self.factor))

    def add(self, ms: float, quality: float, stopped: bool) -> None:
        """A candidate was looked at, and trained or stopped there."""
        self._looks.append((ms, quality))
        self._stopped = self._stopped + 1 if stopped else 0
