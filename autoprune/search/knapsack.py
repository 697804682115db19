"""The widths that do the least damage within a latency: a multiple-choice knapsack over tables of single groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Curve", "decode", "monotone"]

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One group: for each of its ascending widths (the last is all of it) the damage done and the latency saved.

    damage: ≥ 0, does not increase with the width, 0 for the whole group; saved: milliseconds less than with the whole
    group, 0 there.
    """

    widths: tuple[int, ...]
    damage: tuple[float, ...]
    saved: tuple[float, ...]

    @classmethod
    def through(cls, widths: Sequence[int], damage: Mapping[int, float], saved: Mapping[int, float]) -> Curve:
        """Through values known at some widths; in between they are interpolated, below them continued as a power law
        of the removed share (damage) and linearly (saved).
        """
        size = widths[-1]
        known = sorted(damage)
        removed = np.array([1 - w / size for w in reversed(known)] or [1.0])
        levels = monotone(np.array([damage[w] for w in reversed(known)] or [0.0]))
        shares = 1 - np.array(widths, dtype=np.float64) / size
        out = np.interp(shares, [0.0, *removed], [0.0, *levels])
        beyond = shares > removed[-1]
        out[beyond] = levels[-1] * (shares[beyond] / removed[-1]) ** 2
        times = np.array([saved[w] for w in sorted(saved, reverse=True)] or [0.0])
        parts = np.array([1 - w / size for w in sorted(saved, reverse=True)] or [1.0])
        gains = np.interp(shares, [0.0, *parts], [0.0, *times])
        gains[shares > parts[-1]] = times[-1] * shares[shares > parts[-1]] / parts[-1]
        return cls(tuple(widths), tuple(out.tolist()), tuple(gains.tolist()))

    def at(self, width: int) -> float:
        """Damage at one of the widths."""
        return self.damage[self.widths.index(width)]

    def to_json(self) -> dict[str, Any]:
        return {"widths": list(self.widths), "damage": list(self.damage), "saved": list(self.saved)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Curve:
        return cls(tuple(data["widths"]), tuple(data["damage"]), tuple(data["saved"]))


def monotone(values: Values) -> Values:
    """The non-decreasing sequence nearest to `values` in squares (pool adjacent violators), and at least 0."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        total, count = float(value), 1
        while blocks and blocks[-1][0] / blocks[-1][1] >= total / count:
            total, count = total + blocks[-1][0], count + blocks[-1][1]
            blocks.pop()
        blocks.append((total, count))
    fitted = [max(0.0, total / count) for total, count in blocks for _ in range(count)]
    return np.array(fitted, dtype=np.float64)


def decode(curves: Mapping[str, Curve], save_ms: float, weights: Mapping[str, float] | None = None) -> dict[str, int]:
    """Width of every group such that at least `save_ms` are saved (or all that can be) with little damage.

    `weights` multiply the damage of groups. The Lagrangian relaxation (Everett 1963) by bisection of the price of a
    millisecond, and then the saving left over is given back where it undoes the most damage per millisecond: exact on
    the convex hull, close to it between its corners.
    """
    weights = weights or {}
    names = list(curves)
    damage = {n: weights.get(n, 1.0) * np.array(curves[n].damage) for n in names}
    saved = {n: np.array(curves[n].saved) for n in names}

    def choose(price: float) -> dict[str, int]:
        return {n: int(np.flatnonzero((c := damage[n] - price * saved[n]) <= c.min() + 1e-12)[-1]) for n in names}

    def total(choice: Mapping[str, int]) -> float:
        return float(sum(saved[n][i] for n, i in choice.items()))

    low, high = 1e-9, 1e9
    best = choose(high)
    if total(best) < save_ms:
        return {n: curves[n].widths[int(saved[n].argmax())] for n in names}
    for _ in range(60):
        middle = (low * high) ** 0.5
        choice = choose(middle)
        if total(choice) >= save_ms:
            high, best = middle, choice
        else:
            low = middle
    slack = total(best) - save_ms
    while True:
        gains = [((damage[n][i] - damage[n][j]) / max(saved[n][i] - saved[n][j], 1e-12), n, j)
                 for n, i in best.items() for j in range(i + 1, len(damage[n]))
                 if saved[n][i] - saved[n][j] <= slack and damage[n][j] <= damage[n][i]]
        if not gains:
            return {n: curves[n].widths[i] for n, i in best.items()}
        _, name, j = max(gains)
        slack -= float(saved[name][best[name]] - saved[name][j])
        best[name] = j
