"""Arm `tpe`: Optuna's TPE over a few numbers that a plan is decoded from."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from autoprune.search.knapsack.curves import Values
from autoprune.search.knapsack.decoder import Decoder
from autoprune.search.knapsack.past import Past

__all__ = ["Tilt"]

_STEEPEST = 1.5  # a group one standard deviation off in a feature does exp(±1.5) times the damage at most
_COSINES = 3
Latent = Mapping[str, Any]


class Tilt:
    """A latency (`ms`), six weights (`z0` … `z5`) and a method. The weights multiply a group's damage by
    `exp(z · features)`: three cosines of its place in the net, the logs of its largest width, its damage and its
    latency. What was tried is read from the notes of the trials, so that a resumed study knows it.
    """

    def __init__(self, decoder: Decoder, methods: Sequence[str], top_ms: float, seed: int | None):
        self._decoder, self._told, self._top_ms = decoder, 0, top_ms
        self._least_ms = min(decoder.least_ms, top_ms)
        self._space: dict[str, BaseDistribution] = {
            "ms": FloatDistribution(self._least_ms, top_ms),
            **{f"z{i}": FloatDistribution(-_STEEPEST, _STEEPEST) for i in range(_COSINES + 3)},
            "method": CategoricalDistribution(tuple(methods))}
        self._features = _features(decoder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=8)
        self._study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)

    def reseed(self) -> None:
        self._study.sampler.reseed_rng()

    def ask(self, past: Past) -> dict[str, Any]:
        """The numbers to try next."""
        tried = [(i, note["latent"]) for i, note in enumerate(past.notes) if "latent" in note]
        for i, latent in tried[self._told:]:
            ms = min(max(latent["ms"], self._least_ms), self._top_ms)  # these may have been others then
            known = {**latent, "ms": ms}
            self._study.add_trial(create_trial(values=[past.losses[i], past.ms[i]], params=known,
                                               distributions=self._space))
        self._told = len(tried)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = self._study.ask(self._space)
        self._study.tell(trial, state=TrialState.FAIL)
        return dict(trial.params)

    def read(self, latent: Latent) -> tuple[Values, float, str]:
        """Damage [groups, levels], target in milliseconds, and method."""
        weights = np.array([latent[f"z{i}"] for i in range(_COSINES + 3)])
        return (self._decoder.damage * np.exp(weights @ self._features)[:, None], float(latent["ms"]),
                str(latent["method"]))


def _features(decoder: Decoder) -> Values:
    """[6, groups], each of mean 0 and standard deviation 1 (0 where all groups are alike)."""
    groups = len(decoder.damage)
    place = (np.arange(groups) + 0.5) / groups
    finite = np.where(np.isfinite(decoder.damage), decoder.damage, 0.0)
    rows = [*(np.cos(np.pi * k * place) for k in range(1, _COSINES + 1)), np.log(decoder.whole + 1.0),
            np.log(finite.max(1) + 1e-12), np.log(np.maximum(decoder.saved.max(1), 1e-9))]
    features = np.array(rows)
    features -= features.mean(1, keepdims=True)
    deviation = features.std(1, keepdims=True)
    return np.asarray(np.divide(features, deviation, out=np.zeros_like(features), where=deviation > 1e-9))
