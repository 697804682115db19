"""What measured variants of one model say about the prices of its nodes, and of the whole.

Each node has a factor: the mean of log(measured / price) over the variants in which it was timed, pulled towards none
by one variant's weight. What is left over of the whole net follows a line in the logarithm of its size, by ridge
regression: small variants, whose weights stay in the cache, are off by another factor than large ones.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from autoprune.devices.node import Node

__all__ = ["Correction"]

_SLOPE_PRIOR = 0.5  # the slope's pull towards 0, in variants at one natural logarithm from the mean


class Correction:
    """Made empty; `learn` from measured variants, then `total_ms` of further ones."""

    def __init__(self) -> None:
        self._nodes: dict[str, list[float]] = defaultdict(list)
        self._factors: dict[str, float] = {}
        self._nets: list[tuple[list[tuple[Node, float]], float]] = []
        self._mean = self._slope = self._centre = 0.0

    def __len__(self) -> int:
        return len(self._nets)

    def learn(self, table: Sequence[tuple[Node, float]], timed_ms: Mapping[str, float], total_ms: float) -> None:
        """One variant: its nodes' prices (ms), what those of them that were timed took (ms, by name, without the
        profiler's share), and the whole latency (ms).
        """
        for node, price in table:
            if node.name in timed_ms and price > 0 and timed_ms[node.name] > 0:
                seen = self._nodes[node.name]
                seen.append(math.log(timed_ms[node.name] / price))
                self._factors[node.name] = math.exp(sum(seen) / (len(seen) + 1))
        self._nets.append((list(table), total_ms))
        sizes, rests = [], []
        for known, measured in self._nets:
            summed = self._summed(known)
            sizes.append(math.log(summed))
            rests.append(math.log(measured / summed))
        self._centre = float(np.mean(sizes))
        self._mean = sum(rests) / (len(rests) + 0.5)
        away = np.array(sizes) - self._centre
        self._slope = float(away @ (np.array(rests) - np.mean(rests)) / (away @ away + _SLOPE_PRIOR))

    def total_ms(self, table: Sequence[tuple[Node, float]]) -> float:
        """Latency (ms) of a variant whose nodes have these prices; their sum as long as nothing was learnt."""
        summed = self._summed(table)
        if not self._nets:
            return summed
        return summed * math.exp(self._mean + self._slope * (math.log(summed) - self._centre))

    def _summed(self, table: Sequence[tuple[Node, float]]) -> float:
        return sum(price * self._factors.get(node.name, 1.0) for node, price in table)
