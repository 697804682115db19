"""`--sampler knapsack`: plans whose weights are learnt from the candidates evaluated so far.

The damage curves of single groups (`sensitivity.py`) say little about how groups differ once candidates recover. So
every proposal draws a weight for each group's curve from what the evaluated candidates say about it (Bayesian linear
regression, Thompson 1933 sampling), draws a latency, and lets the knapsack decode both into widths. What Optuna sees
are the widths and methods of the groups, as with any other sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autoprune.graph.plan import Plan
from autoprune.search.knapsack import Curve, Values, decode
from autoprune.search.propose import Proposer

__all__ = ["KnapsackSampler"]

_PRIOR_SPREAD = 0.6  # of a group's weight, relative to the mean weight
_RELATIVE_NOISE = 0.25  # of an observed loss: the model is additive, large losses are not
_NEAR_BUDGET = 0.5  # share of the proposals that aim just below the budget
_CORRECTIONS = 4  # of the aim, by the latency that a plan turns out to have
_CLOSE = 0.01  # of the dense latency: a plan that much below its target is not corrected


class KnapsackSampler(BaseSampler):
    """Proposes plans for the groups in `curves`; any other parameter is sampled at random.

    dense_ms: latency of the dense model; target_ms: the budget, None for a whole front; latency_ms: exact latency of a
    plan where that is cheap to tell, else None (then the aim is corrected by the candidates evaluated so far).
    """

    def __init__(self, proposer: Proposer, curves: Mapping[str, Curve], dense_ms: float, target_ms: float | None,
                 latency_ms: Callable[[Plan], float] | None = None, seed: int | None = None):
        self._proposer, self._curves = proposer, dict(curves)
        self._dense_ms, self._target_ms, self._latency_ms = dense_ms, target_ms, latency_ms
        self._random = np.random.default_rng(seed)
        self._fallback = RandomSampler(seed=seed)

    def reseed_rng(self) -> None:
        self._random = np.random.default_rng()
        self._fallback.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._proposer.distributions()

    def sample_relative(self, study: Study, trial: FrozenTrial,
                        search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        if search_space.keys() != self._proposer.distributions().keys():
            return {}
        trials = [t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
                  if t.values is not None and search_space.keys() <= t.params.keys() and np.isfinite(t.values).all()]
        plans = [self._proposer.plan(t.params) for t in trials]
        weights = self._draw_weights(study, trials, plans)
        methods = self._draw_methods(study, trials)
        return self.at(self._draw_target(), weights, methods, self._efficiency(trials, plans))

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str,
                           param_distribution: BaseDistribution) -> Any:
        return self._fallback.sample_independent(study, trial, param_name, param_distribution)

    def at(self, target_ms: float, weights: Mapping[str, float] | None = None, methods: Mapping[str, str] | None = None,
           efficiency: float = 1.0) -> dict[str, Any]:
        """Parameters of the plan that the knapsack gives for a latency.

        `efficiency`: milliseconds really saved per millisecond that the single groups promise; less than 1 where a
        layer loses inputs and outputs at once.
        """
        save_ms = max(0.0, self._dense_ms - target_ms)
        best: dict[str, Any] | None = None
        aim_ms = save_ms / efficiency
        for _ in range(_CORRECTIONS):
            widths = decode(self._curves, aim_ms, weights)
            parameters = self._proposer.parameters(widths, methods or {})
            if self._latency_ms is None or save_ms == 0:
                return parameters
            promised_ms = self._promised(widths)
            really_ms = self._dense_ms - self._latency_ms(self._proposer.plan(parameters))
            over_ms = really_ms - save_ms
            if over_ms >= 0:
                best = parameters  # later ones are closer
            if 0 <= over_ms <= _CLOSE * self._dense_ms or promised_ms <= 0 or really_ms <= 0:
                break
            aim_ms = promised_ms * max(0.5, min(2.0, (save_ms + 0.5 * _CLOSE * self._dense_ms) / really_ms))
        return best or parameters

    def _promised(self, widths: Mapping[str, int]) -> float:
        return sum(c.saved[c.widths.index(widths[n])] for n, c in self._curves.items())

    def _widths(self, plan: Plan) -> dict[str, int]:
        return {n: plan.cuts[n].keep if n in plan.cuts else c.widths[-1] for n, c in self._curves.items()}

    def _draw_target(self) -> float:
        """A latency: mostly just below the budget, otherwise anywhere (evenly on a log scale) below the dense one."""
        top = self._dense_ms
        if self._target_ms is not None:
            top = min(self._target_ms, self._dense_ms)
            if self._random.random() < _NEAR_BUDGET:
                return float(top * self._random.uniform(0.85, 1.0))
        least = max(self._dense_ms - self._promised({n: c.widths[0] for n, c in self._curves.items()}), 0.1 * top)
        return float(np.exp(self._random.uniform(np.log(min(least, top)), np.log(top))))

    def _efficiency(self, trials: Sequence[FrozenTrial], plans: Sequence[Plan]) -> float:
        ratios = [(self._dense_ms - t.values[1]) / promised for t, p in zip(trials, plans, strict=True)
                  if t.values is not None and (promised := self._promised(self._widths(p))) > 0.02 * self._dense_ms]
        return float(np.clip(np.median(ratios), 0.2, 2.0)) if ratios else 1.0

    def _losses(self, study: Study, trials: Sequence[FrozenTrial]) -> Values:
        """How much worse each trial's metric is than the best one's."""
        sign = 1.0 if study.directions[0] == StudyDirection.MAXIMIZE else -1.0
        quality = np.array([sign * t.values[0] for t in trials if t.values is not None])
        return np.asarray(quality.max() - quality) if len(quality) else quality

    def _draw_weights(self, study: Study, trials: Sequence[FrozenTrial], plans: Sequence[Plan]) -> dict[str, float]:
        """Thompson sampling: one draw from the posterior of `loss = Σ w_g damage_g`, prior around equal weights."""
        names = list(self._curves)
        losses = self._losses(study, trials)
        damage = np.array([[c.at(self._widths(p)[n]) for n, c in self._curves.items()] for p in plans])
        used = damage.sum(1) > 0 if len(plans) else np.zeros(0, dtype=bool)
        if not used.any():
            return {n: float(np.exp(self._random.normal(0, _PRIOR_SPREAD))) for n in names}
        x, y = damage[used], losses[used]
        mean = max(float(np.median(y / x.sum(1))), 1e-9)
        noise = np.median(y) * 0.1 + _RELATIVE_NOISE * y + 1e-9
        prior = np.eye(len(names)) / (_PRIOR_SPREAD * mean) ** 2
        scaled = x / noise[:, None]
        covariance = np.linalg.pinv(prior + scaled.T @ scaled)
        centre = mean + covariance @ (scaled.T @ ((y - x.sum(1) * mean) / noise))
        draw = self._random.multivariate_normal(centre, covariance, method="svd")
        return {n: float(max(w / mean, 0.05)) for n, w in zip(names, draw, strict=True)}

    def _draw_methods(self, study: Study, trials: Sequence[FrozenTrial]) -> dict[str, str]:
        """The methods of a trial that is not dominated, now and then with some changed, or one method for all."""
        choices = self._proposer.choices
        front = [trials[i] for i in _front(self._losses(study, trials), [t.values[1] for t in trials if t.values])]
        common = sorted({m for c in choices.values() for m in c.methods if m != "random" or len(c.methods) == 1})
        one = str(self._random.choice(common))
        parent = front[int(self._random.integers(len(front)))] if front and self._random.random() < 0.7 else None
        out = {}
        for name, c in choices.items():
            method = parent.params.get(f"{name}.method", one) if parent is not None else one
            if self._random.random() < 0.1:
                method = str(self._random.choice(c.methods))
            out[name] = method if method in c.methods else c.methods[0]
        return out


def _front(losses: Values, latencies: Sequence[float]) -> list[int]:
    order = sorted(range(len(losses)), key=lambda i: (latencies[i], losses[i]))
    out: list[int] = []
    for i in order:
        if not out or losses[i] < losses[out[-1]]:
            out.append(i)
    return out
