"""What the candidates say about the damage curves: a Bayesian fit to be sampled from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autoprune.search.knapsack.curves import Levels, Values

__all__ = ["Refit"]

# standard deviations of the prior, and a mean
_GROUP = 0.8  # of the log of a group's damage, about the scan's
_SHAPE = 0.5  # of the exponent that is added to a group's curve
_METHOD, _GROUP_METHOD = 0.4, 0.1  # of the log of a method's damage, in all groups and beside that in one
_LATER = 0.3  # and this is its mean for methods after the first, which is the best bet
_SCALE, _BEND, _TRUST = 3.0, 0.3, 0.3  # of the logs of c and of q, and of the trust in the scan
_GROUP_RANGE = 0.2, 2.0  # and that is learnt, within these
_RELATIVE_NOISE = 0.08  # of a loss: the model is additive, nets are not quite
_FIRST_NOISE, _LEAST_NOISE = 0.2, 0.01  # of the median loss, as long as nothing is known, and at least
_STEPS, _FURTHER_STEPS = 8, 2  # of Gauss-Newton: from the prior, and from the fit before
_MOST_TRIALS = 200  # the latest: a fit takes the cube of their number


class Refit:
    """`loss = c · (Σ_g damage_g(level) · exp(log_g + t · direction_g + method_m + both_gm) · (2 share)^shape_g)^q`
    (Laplace approximation about the most probable parameters).

    damage, shares: [groups, levels], the decoder's; direction: [groups], away from the scan (`Decoder.direction`), t is
    how far; levels, methods: [trials, groups], `methods` as numbers below `count`; losses: [trials]. Trials that change
    nothing are left out; with none left, the prior is what is drawn from. `before`: the fit to a candidate or two
    fewer, to start from.
    """

    def __init__(self, damage: Values, shares: Values, direction: Values, count: int, levels: Levels, methods: Levels,
                 losses: Values, before: Refit | None = None):
        self._damage, self._direction, self._count = damage, direction, count
        self._logs = np.log(np.maximum(2 * shares, 1e-3))
        self._later = np.append(0.0, np.full(count - 1, _LATER))
        groups = len(damage)
        spread = [np.full(groups, _GROUP), np.full(groups, _SHAPE), np.full(count, _METHOD),
                  np.full(groups * count, _GROUP_METHOD), np.array([_SCALE, _BEND, _TRUST])]
        self._spread = np.concatenate(spread)
        self._ends = np.cumsum([len(s) for s in spread])[:-1]
        self._best = np.zeros(len(self._spread))
        self._jacobian, self._noise = np.zeros((0, len(self._spread))), np.zeros(0)
        every = np.arange(groups)
        taken = damage[every, levels].reshape(-1, groups)
        some = np.flatnonzero(taken.sum(1) > 0)[-_MOST_TRIALS:]
        if len(some):
            self._taken, self._level_logs = taken[some], self._logs[every, levels[some]]
            self._methods, self._losses = methods[some], losses[some]
            self._centre = float(np.median(self._taken.sum(1)))
            positive = self._losses[self._losses > 0]  # a plan may well be better than the dense model
            self._middle = float(np.median(positive)) if len(positive) else 1e-9
            self._floor, steps = (_FIRST_NOISE * self._middle) ** 2, _STEPS
            if before is not None and len(before._noise):
                self._best, self._spread, self._floor = before._best, before._spread.copy(), before._floor
                steps = _FURTHER_STEPS
            self._fit(steps)

    def _fit(self, steps: int) -> None:
        """Gauss-Newton, a step halved as long as it makes the parameters less probable; after each, what the residuals
        and the parameters say of their own spread (MacKay 1992, "Bayesian interpolation").
        """
        expected, self._jacobian = self._expect(self._best)
        self._noise = (_RELATIVE_NOISE * self._losses) ** 2 + self._floor
        for _ in range(steps):
            cost = self._cost(expected, self._best)
            step = self._update(self._losses - expected + self._jacobian @ self._best) - self._best
            for part in (1.0, 0.5, 0.25, 0.125):
                moved, jacobian = self._expect(self._best + part * step)
                if self._cost(moved, self._best + part * step) < cost:
                    self._best, self._jacobian, expected = self._best + part * step, jacobian, moved
                    break
            self._learn_spreads(self._losses - expected)

    def _learn_spreads(self, residual: Values) -> None:
        """Noise of a metric, by the lesser losses; how far the scan is off, by all groups."""
        scaled = self._jacobian * self._spread ** 2
        inverse = np.linalg.inv(scaled @ self._jacobian.T + np.diag(self._noise))
        low = self._losses <= self._middle
        free = float((self._noise * np.diag(inverse))[low].sum())  # residuals less what the parameters could follow
        floor = float((residual[low] ** 2).sum()) / max(free, 1.0)
        own = scaled[:, :len(self._damage)]
        left = 1 - np.einsum("ng,nm,mg->g", own, inverse, own, optimize=True) / self._spread[0] ** 2
        known = max(len(left) - float(left.sum()), 1.0)  # parameters that were determined
        spread = float((self._best[:len(left)] ** 2).sum() / known) ** 0.5
        self._spread[:len(left)] = np.clip((self._spread[0] + spread) / 2, *_GROUP_RANGE)
        self._floor = max(floor, (_LEAST_NOISE * self._middle) ** 2)
        self._noise = (_RELATIVE_NOISE * self._losses) ** 2 + self._floor

    def _cost(self, expected: Values, parameters: Values) -> float:
        """Minus the log of the parameters' probability, up to a constant."""
        misfit = ((self._losses - expected) ** 2 / self._noise).sum()
        return float(misfit + ((parameters / self._spread) ** 2).sum())

    def _expect(self, parameters: Values) -> tuple[Values, NDArray[np.float64]]:
        """Losses by these parameters, and their derivatives [trials, parameters]."""
        log, shape, method, both, (scale, bend, trust) = np.split(parameters, self._ends)
        groups = len(log)
        pick = np.arange(groups) * self._count + self._methods
        by_method = (self._later + method)[self._methods] + both[pick]
        logs = log + trust * self._direction + shape * self._level_logs + by_method
        parts = self._taken * np.exp(np.clip(logs, -8, 8))
        total = parts.sum(1)
        power = float(np.exp(bend))
        expected = self._middle * np.exp(scale) * (total / self._centre) ** power
        by_part = (expected * power / total)[:, None] * parts  # derivative by the log of each group's damage
        rows = np.arange(len(parts))
        of_both = np.zeros((len(parts), groups * self._count))
        of_both[rows[:, None], pick] = by_part
        of_method = of_both.reshape(len(parts), groups, self._count).sum(1)
        of_scale = np.column_stack([expected, expected * power * np.log(total / self._centre),
                                    by_part @ self._direction])
        return expected, np.hstack([by_part, by_part * self._level_logs, of_method, of_both, of_scale])

    def _update(self, residual: Values) -> Values:
        """Most probable parameters of the linearised model."""
        scaled = self._jacobian * self._spread ** 2
        return np.asarray(scaled.T @ np.linalg.solve(scaled @ self._jacobian.T + np.diag(self._noise), residual))

    def draw(self, random: np.random.Generator, heat: float) -> tuple[Values, Values]:
        """Damage [groups, levels] of single groups up to a factor, and factors of the methods [groups, methods].

        heat: 1 is Thompson (1933) sampling, 0 the most probable parameters.
        """
        drawn = self._spread * random.normal(size=len(self._spread))
        if len(self._noise):  # Matheron's rule: a draw from the prior, made to agree with what was seen
            seen = self._jacobian @ drawn + np.sqrt(self._noise) * random.normal(size=len(self._noise))
            drawn = drawn - self._update(seen)
        log, shape, method, both, (_, _, trust) = np.split(self._best + heat * drawn, self._ends)
        log = log + trust * self._direction
        factors = np.exp(self._later + method + both.reshape(-1, self._count))
        with np.errstate(invalid="ignore"):
            damage = self._damage * np.exp(np.clip(log[:, None] + shape[:, None] * self._logs, -8, 8))
        return damage, factors
