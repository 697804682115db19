"""Which latency to aim at: a budget, or where the front has most to win."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.search.knapsack.curves import Values
from autoprune.search.knapsack.decoder import Decoder
from autoprune.search.knapsack.past import Past

__all__ = ["Aims"]

_NEAR_BUDGET = 0.5  # share of the proposals that aim just below a budget
_OVER_LEAST = 1.15
_YOUNG = 30  # candidates, after which a search is half as young
_LEAST = 0.02  # of what is lost at most: a gap's height
_EVEN = 0.3  # share of the proposals by gaps that go by their width alone
_BEYOND = 0.3  # of the way from the fastest useful candidate to the fastest plan: looked into, whatever is expected
_POWER, _POWER_SPREAD = 1.3, 0.4  # of the damage: how the loss grows, before it is seen
_LOCAL = 6  # members of the front, the fastest, that show how it grows
_SPREAD, _NOISE = 0.25, 0.01  # standard deviations of a loss: of its log, and of what is evaluated


class Aims:
    """targets_ms: the budgets (those above the dense latency are met by anything), none for a whole front. `top_ms` is
    the slowest that is aimed at.
    """

    def __init__(self, decoder: Decoder, targets_ms: Sequence[float]):
        self._decoder = decoder
        self.aim_at(targets_ms)

    def aim_at(self, targets_ms: Sequence[float]) -> None:
        """From now on these are the budgets."""
        self._targets_ms = [ms for ms in targets_ms if ms < self._decoder.dense_ms]
        self.top_ms = max(self._targets_ms, default=self._decoder.dense_ms)

    def next_ms(self, past: Past, random: np.random.Generator) -> float:
        """A latency: often just below a budget, otherwise in a gap of the front, by how much there is to win."""
        if self._targets_ms and random.random() < _NEAR_BUDGET:
            target_ms, least_ms = float(random.choice(self._targets_ms)), self._decoder.least_ms
            return float(target_ms * random.uniform(0.85, 1.0) if target_ms >= least_ms  # or all are the fastest plan
                         else min(least_ms * random.uniform(1.0, _OVER_LEAST), self._decoder.dense_ms))
        low_ms, low_loss = self._edge(past)
        members = [i for i in past.front() if low_ms < past.ms[i] < self.top_ms and past.losses[i] <= past.bearable]
        edges = np.array([low_ms, *past.ms[members], self.top_ms])
        lost = past.scale.lost(np.array([low_loss, *past.losses[members], 0.0]))
        areas = np.diff(edges) * np.maximum(-np.diff(lost), _LEAST * lost[0])
        if random.random() < _EVEN:
            areas = np.diff(edges)
        tried = np.histogram(past.ms * (1 + 1e-9), edges)[0]  # where nothing has come of many, others are due
        areas = areas / (1 + tried)
        young = 0.5 ** (len(past.losses) / _YOUNG)  # has to cover the range evenly: the largest gap, near its middle
        odds = areas ** (1 + young)
        gap = int(random.choice(len(odds), p=odds / odds.sum())) if odds.sum() > 0 else 0
        part = 0.5 + (1 - 0.6 * young) * random.uniform(-0.5, 0.5)
        return float(edges[gap] + part * (edges[gap + 1] - edges[gap]))

    def _edge(self, past: Past) -> tuple[float, float]:
        """The latency (ms) below which a plan would lose more than what is bearable, and what is lost there. Beyond the
        fastest useful candidate the loss is expected to grow with a power of the scan's damage, as it does among the
        fastest candidates so far.
        """
        useful = [i for i in past.front() if past.losses[i] <= past.bearable and past.ms[i] < self.top_ms]
        damage = self._damage(past)
        known = [i for i in useful if damage[i] > 0 and past.losses[i] > 0]
        least_ms, most = self._decoder.least_ms, float(self._decoder.damage[:, 0].sum())
        if not known or past.ms[known[0]] <= least_ms or damage[known[0]] >= most:
            fastest_ms = min((float(past.ms[i]) for i in useful), default=self.top_ms)
            return fastest_ms - _BEYOND * max(0.0, fastest_ms - least_ms), past.bearable
        first = known[0]
        fastest_ms, loss = float(past.ms[first]), float(past.losses[first])
        growth = _power(damage, past) * np.log(most / damage[first])  # of the log of the loss, up to the fastest plan
        part = min(1.0, float(np.log(past.bearable / loss) / max(growth, 1e-9)))
        part = max(part, _BEYOND)
        return fastest_ms - part * (fastest_ms - least_ms), min(past.bearable, loss * float(np.exp(part * growth)))

    def _damage(self, past: Past) -> Values:
        """[trials], by the decoder's table."""
        return np.asarray(self._decoder.damage[np.arange(len(self._decoder.damage)), past.levels].sum(1))


def _power(damage: Values, past: Past) -> float:
    """The exponent of the damage, by the fastest members of the front (weighted least squares with a prior)."""
    local = [i for i in past.front() if damage[i] > 0 and past.losses[i] > 0][:_LOCAL]
    x, y = np.log(damage[local]), np.log(past.losses[local])
    weights = 1 / (_SPREAD ** 2 + (_NOISE / past.losses[local]) ** 2)
    x, y = x - np.average(x, weights=weights), y - np.average(y, weights=weights)
    prior = _POWER_SPREAD ** -2
    return float((prior * _POWER + weights @ (x * y)) / (prior + weights @ x ** 2))
