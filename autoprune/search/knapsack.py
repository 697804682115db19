"""The widths that do the least damage within a latency: a multiple-choice knapsack over tables of single groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Curve", "decode"]

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
        """Through values known at some widths.

        Damage is `a · share²` of the removed share, `a` by least squares: on the example the curves of all groups have
        that shape to a few per cent, and a curve that bends the other way would make every decision all or nothing.
        Saved time is interpolated, so that its staircase is kept as far as it is known.
        """
        size = widths[-1]
        squares = {w: (1 - w / size) ** 2 for w in (*damage, *widths)}
        norm = sum(squares[w] ** 2 for w in damage)
        factor = max(0.0, sum(d * squares[w] for w, d in damage.items())) / norm if norm else 0.0
        known = sorted(saved, reverse=True)
        shares = 1 - np.array(widths, dtype=np.float64) / size
        parts, times = [0.0, *(1 - w / size for w in known)], [0.0, *(saved[w] for w in known)]
        gains = np.interp(shares, parts, times)
        beyond = shares > parts[-1]
        if parts[-1] > 0:
            gains[beyond] = times[-1] * shares[beyond] / parts[-1]
        return cls(tuple(widths), tuple(factor * squares[w] for w in widths), tuple(gains.tolist()))

    def plus(self, factor: float) -> Curve:
        """The same curve with `factor · share²` more damage."""
        size = self.widths[-1]
        damage = tuple(d + factor * (1 - w / size) ** 2 for w, d in zip(self.widths, self.damage, strict=True))
        return Curve(self.widths, damage, self.saved)

    def at(self, width: int) -> float:
        """Damage at one of the widths."""
        return self.damage[self.widths.index(width)]

    def to_json(self) -> dict[str, Any]:
        return {"widths": list(self.widths), "damage": list(self.damage), "saved": list(self.saved)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Curve:
        return cls(tuple(data["widths"]), tuple(data["damage"]), tuple(data["saved"]))


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
