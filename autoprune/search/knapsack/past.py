"""What a study holds, as arrays: the plans, losses and latencies of the knapsack sampler's past."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autoprune.search.knapsack.curves import Levels, Values
from autoprune.search.propose import Proposer

__all__ = ["NOTE", "Past", "Reader", "front", "method_names"]

NOTE = "autoprune:knapsack"
"""Key of a trial's system attribute: which arm proposed it (`arm`), and what it was decoded from (`latent`)."""
_HALF = float(np.log(2))


@dataclass(frozen=True)
class Past:
    """digests: of all plans in any state. Of the trials that ended with two finite values, in their order: levels and
    methods [trials, groups] (a method is its place in `method_names`), losses and latencies (ms), and notes. A loss is
    −ln(metric / dense metric) for a positive metric that is maximised, else the difference; `bearable` is the loss of
    half the metric, else half of what was lost at most. asked: trials that an arm proposed, in any state.
    """

    digests: frozenset[str]
    levels: Levels
    methods: Levels
    losses: Values
    ms: Values
    notes: list[Mapping[str, Any]]
    bearable: float
    asked: int = 0

    def front(self) -> list[int]:
        """Trials that no other dominates, fastest first."""
        return front(self.losses, self.ms)


def front(losses: Values, ms: Values) -> list[int]:
    """Indices of the points that no other dominates, by ascending ms."""
    out: list[int] = []
    for i in np.lexsort((losses, ms)).tolist():
        if not out or losses[i] < losses[out[-1]]:
            out.append(i)
    return out


def method_names(proposer: Proposer) -> list[str]:
    """All methods of all groups."""
    return list(dict.fromkeys(m for c in proposer.choices.values() for m in c.methods))


@dataclass(frozen=True)
class _Row:
    digest: str
    levels: Levels
    methods: Levels


class Reader:
    """Reads a study's trials; plans that it has read once are remembered by number."""

    def __init__(self, proposer: Proposer):
        self._proposer = proposer
        self._names = proposer.distributions().keys()
        self._widths = {n: {w: i for i, w in enumerate(c.widths)} for n, c in proposer.choices.items()}
        self._whole = np.array([*(len(c.widths) - 1 for c in proposer.choices.values()),
                                *(1 for _ in proposer.branches)])
        self._methods = {m: i for i, m in enumerate(method_names(proposer))}
        self._rows: dict[str, dict[int, _Row]] = {}

    def read(self, study: Study) -> Past:
        trials = study._get_trials(deepcopy=False, use_cache=True)
        known = [(t, row) for t in trials if (row := self._row(study, t)) is not None]
        ended = [(t, row) for t, row in known if t.state == TrialState.COMPLETE and np.isfinite(t.values).all()]
        shape = (len(ended), len(self._whole))
        losses, bearable = _losses(study, np.array([t.values[0] for t, _ in ended]),
                                   np.array([not self._changes(row) for _, row in ended], dtype=bool))
        return Past(frozenset(row.digest for _, row in known),
                    np.array([row.levels for _, row in ended], dtype=np.int64).reshape(shape),
                    np.array([row.methods for _, row in ended], dtype=np.int64).reshape(shape),
                    losses, np.array([t.values[1] for t, _ in ended]),
                    [t.system_attrs.get(NOTE, {}) for t, _ in ended], bearable,
                    sum("arm" in t.system_attrs.get(NOTE, {}) for t in trials))

    def _row(self, study: Study, trial: FrozenTrial) -> _Row | None:
        """The plan of a trial that has all parameters, or is queued with them."""
        rows = self._rows.setdefault(study.study_name, {})
        if trial.number not in rows:
            values = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            if not self._names <= values.keys():
                return None
            plan = self._proposer.plan(values)
            cuts = plan.cuts
            levels = [self._widths[n][cuts[n].keep] if n in cuts else len(c.widths) - 1
                      for n, c in self._proposer.choices.items()]
            levels += [b not in plan.dropped for b in self._proposer.branches]
            methods = [self._methods[values[f"{n}.method"]] for n in self._proposer.choices]
            methods += [0] * len(self._proposer.branches)
            rows[trial.number] = _Row(plan.digest, np.array(levels), np.array(methods))
        return rows[trial.number]

    def _changes(self, row: _Row) -> bool:
        return bool((row.levels < self._whole).any())


def _losses(study: Study, values: Values, dense: Values) -> tuple[Values, float]:
    if not len(values):
        return values, _HALF
    sign = 1.0 if study.directions[0] == StudyDirection.MAXIMIZE else -1.0
    whole = float(np.median(values[dense])) if dense.any() else float((sign * values).max() * sign)
    if sign > 0 and values.min() > 0:
        return np.log(whole / values), _HALF
    losses = sign * (whole - values)
    return losses, float(losses.max()) / 2
