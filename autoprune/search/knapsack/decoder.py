"""A latency → the level of every group: the knapsack, told how groups share the latency of their layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from autoprune.search.knapsack.curves import Curve, Levels, Values, decode, nearly, relax

__all__ = ["Decoder", "Pair", "pairs"]

Pair = tuple[int, int, float]
"""Two groups (by place), and the milliseconds that are counted twice when both are cut to half."""

_MANY = 40  # groups: a decoded plan takes milliseconds
_ROUNDS = 4  # of linearising the saving at the plan found before
_CORRECTIONS = 4  # of the aim, by the latency that a plan turns out to have
_CLOSE = 0.002  # of the dense latency: a plan that much below its target is not corrected
_SEEN = 1e-4  # of the dense latency: what two groups share at least
_TRUST = 0.5  # in the scan: between 0, where all groups lose the same share of their units, and 1, the scan alone
_FARTHEST = 3.0  # of the log of a group's damage, between these two


class Decoder:
    """Tables of all groups as arrays, [groups, levels]; a level is an index into a group's widths.

    shares: of the group that is removed; damage: half-way (of the logarithm) between the scan's and one in proportion
    to what a group saves, for which all groups would lose the same share; infinite where a group has no such level;
    latency_ms: of the plan of given levels, asked a few times per plan. `pairs` make up for layers that lose inputs and
    outputs at once: what g and h save together is less than their sum by `ms · part_g · part_h`, a group's part being
    what it saves alone over what it saves alone at half its width.
    """

    def __init__(self, curves: Mapping[str, Curve], dense_ms: float, latency_ms: Callable[[Levels], float],
                 pairs: Sequence[Pair] = ()):
        self.dense_ms, self._latency_ms = dense_ms, latency_ms
        shape = len(curves), max(len(c.widths) for c in curves.values())
        self.damage, self.saved, self.shares = np.full(shape, np.inf), np.zeros(shape), np.zeros(shape)
        self.whole = np.array([len(c.widths) - 1 for c in curves.values()])
        half = np.empty(shape[0])
        for g, c in enumerate(curves.values()):
            count = len(c.widths)
            self.damage[g, :count], self.saved[g, :count] = c.damage, c.saved
            self.shares[g, :count] = 1 - np.array(c.widths) / c.widths[-1]
            half[g] = c.saved[c.half]
        self.direction = self._to_even(half)
        self.damage = self.trusting(_TRUST, before=1.0)
        self._parts = self.saved / np.where(half > 0, half, np.inf)[:, None]
        self._shared = np.zeros((shape[0], shape[0]))
        for g, h, ms in pairs:
            self._shared[g, h] = self._shared[h, g] = ms
        self._groups = np.arange(shape[0])
        self.ask_again()

    def ask_again(self) -> None:
        """Latencies have changed since they were asked for."""
        self._known_ms = dict[bytes, float]()
        self.least_ms = self.latency_ms(np.where(np.isfinite(self.damage), self.saved, -np.inf).argmax(1))

    def latency_ms(self, levels: Levels) -> float:
        """Of the plan of these levels, asked once (until `ask_again`)."""
        key = levels.tobytes()
        if key not in self._known_ms:
            self._known_ms[key] = self._latency_ms(levels)
        return self._known_ms[key]

    def at(self, target_ms: float, damage: Values | None = None, exact: bool = True) -> Levels:
        """Levels of a plan of at most `target_ms` (of the fastest plan, where that is above it), with the least damage
        by these tables; of many groups with a little more, and sooner, unless `exact`.
        """
        damage = self.damage if damage is None else damage
        if target_ms >= self.dense_ms:
            return self.whole.copy()
        aim_ms = self.dense_ms - target_ms
        lost = self._lost(self._even(aim_ms))
        for _ in range(_ROUNDS):
            saved, twice_ms = self._linear(lost)
            lost = self._lost(self._part(relax(damage, saved, aim_ms - twice_ms)[1]))
        saved, twice_ms = self._linear(lost)
        of = decode if exact or len(self._groups) < _MANY else lambda *tables: nearly(*tables)[1]
        best = levels = of(damage, saved, aim_ms - twice_ms)
        best_ms = ms = self.latency_ms(levels)
        for _ in range(_CORRECTIONS):
            if target_ms - _CLOSE * self.dense_ms <= ms <= target_ms:
                return levels
            really_ms = max(self.dense_ms - ms, 1e-9)
            aim_ms *= min(2.0, max(0.5, (self.dense_ms - target_ms + _CLOSE / 2 * self.dense_ms) / really_ms))
            levels = of(damage, saved, aim_ms - twice_ms)
            ms = self.latency_ms(levels)
            if (ms <= target_ms, -abs(ms - target_ms)) > (best_ms <= target_ms, -abs(best_ms - target_ms)):
                best, best_ms = levels, ms
        return best

    def _to_even(self, half_ms: Values) -> Values:
        """[groups]: what is added to the log of a group's damage so that it is in proportion to what it saves."""
        groups = len(half_ms)
        scanned = self.damage[:, 0] / np.maximum(self.shares[:, 0], 1e-9) ** 2
        logs = [np.log(np.maximum(v, 1e-6 * v.max() + 1e-300)) for v in (half_ms, scanned)]
        even, own = (log - log.mean() for log in logs)
        return np.clip(even - own, -_FARTHEST, _FARTHEST) if groups > 1 else np.zeros(groups)

    def trusting(self, trust: float, before: float = _TRUST) -> Values:
        """Damage [groups, levels] that trusts the scan so much (0 to 1)."""
        return np.asarray(self.damage * np.exp((before - trust) * self.direction)[:, None])

    def _part(self, levels: Levels) -> Values:
        return np.asarray(self._parts[self._groups, levels])

    def _even(self, save_ms: float) -> Values:
        """Parts, the same fraction of each group's largest, that save so much together."""
        most = self._parts.max(1)
        alone, twice = float(self.saved.max(1).sum()), float(most @ self._shared @ most / 2)
        root = max(alone ** 2 - 4 * twice * save_ms, 0.0) ** 0.5
        return np.asarray(most * (2 * save_ms / max(alone + root, 1e-9)))

    def _lost(self, part: Values) -> tuple[Values, float]:
        """Milliseconds that a part of 1 of each group saves less beside these parts; and counted twice in all."""
        lost = self._shared @ part
        return lost, float(part @ lost / 2)

    def _linear(self, lost: tuple[Values, float]) -> tuple[Values, float]:
        """What is saved, as a sum over groups and a constant, exact at the parts that `lost` belongs to."""
        return self.saved - self._parts * lost[0][:, None], lost[1]


def pairs(curves: Mapping[str, Curve], dense_ms: float, latency_ms: Callable[[Levels], float]) -> list[Pair]:
    """Which groups share layers, by the latency of cutting two to half. Asks for as many latencies as there are pairs
    (a second or two for 100 groups), so only where that is cheap.
    """
    whole = np.array([len(c.widths) - 1 for c in curves.values()])
    halves = [c.half for c in curves.values()]
    alone = [c.saved[c.half] for c in curves.values()]
    out: list[Pair] = []
    for g in range(len(whole)):
        for h in range(g):
            levels = whole.copy()
            levels[g], levels[h] = halves[g], halves[h]
            twice = alone[g] + alone[h] - (dense_ms - latency_ms(levels))
            if abs(twice) > _SEEN * dense_ms:
                out.append((h, g, twice))
    return out
