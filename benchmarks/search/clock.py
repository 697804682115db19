"""Time that does not depend on the machine: processor time of this process, in seconds of a usual core."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F

__all__ = ["Clock"]

_USUAL_S = 0.009  # of `_work`, a little below what a shared core of an Intel Xeon takes (0.010): no run is short
_EVERY_S = 0.5  # of processor time
_T = TypeVar("_T")


class Clock:
    """Runs from when it is made. A shared core is half as fast at times, when its neighbours work, and two machines
    are not alike: when it is read, every half second at most, a fixed piece of training is timed (off the clock), and
    the time since counts by it.
    """

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(0)
        self._images = torch.randn(64, 16, 16, 16, generator=random)
        self._weight = torch.randn(16, 16, 3, 3, generator=random, requires_grad=True)
        self._spent, self._told = 0.0, 0.0
        self._slow = self._slowness()
        self._read = time.process_time()

    @property
    def spent(self) -> float:
        """Seconds; never fewer than before."""
        passed = time.process_time() - self._read
        if passed >= _EVERY_S:
            before, self._slow = self._slow, self._slowness()
            self._spent += passed / ((before + self._slow) / 2)
            self._read, passed = time.process_time(), 0.0
        self._told = max(self._told, self._spent + passed / self._slow)
        return self._told

    def off(self, work: Callable[[], _T]) -> _T:
        """What `work` gives; its time does not count."""
        self._spent, found = self.spent, work()
        self._read = time.process_time()
        return found

    def _slowness(self) -> float:
        start = time.process_time()
        self._work()
        return (time.process_time() - start) / _USUAL_S

    def _work(self) -> None:
        y = self._images
        for _ in range(2):
            y = F.relu(F.conv2d(y, self._weight, padding=1))
        y.mean().backward()
