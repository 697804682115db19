"""What a study holds, as arrays: the plans, losses and latencies of the knapsack sampler's past, and its looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autoprune.search.knapsack.curves import Levels, Values
from autoprune.search.propose import Proposer

__all__ = ["NOTE", "Look", "Past", "Reader", "Scale", "front", "method_names"]

NOTE = "autoprune:knapsack"
"""Key of a trial's system attribute: which arm proposed it (`arm`), what it was decoded from (`latent`), and what was
looked at to choose it (`looks`)."""
_HALF = float(np.log(2))
_LEAST = 0.01  # of the dense metric: less is not told apart


@dataclass(frozen=True)
class Scale:
    """How losses are counted: −ln(metric / dense metric) for a positive metric that is maximised, else the difference.

    sign: 1 for a metric that is maximised, else −1; whole: the dense model's.
    """

    sign: float = 1.0
    whole: float = 1.0
    logs: bool = True

    def losses(self, values: Values) -> Values:
        if self.logs:
            return np.asarray(np.log(self.whole / np.maximum(values, _LEAST * self.whole)))
        return self.sign * (self.whole - values)

    def lost(self, losses: Values) -> Values:
        """The same losses in proportion to the metric."""
        return np.asarray(1 - np.exp(-losses)) if self.logs else losses


@dataclass(frozen=True)
class Look:
    """A plan whose untrained model was looked at: levels and methods [groups]; quality is minus its damage."""

    digest: str
    levels: Levels
    methods: Levels
    quality: float
    ms: float

    def to_json(self) -> list[Any]:
        return [self.digest, self.levels.tolist(), self.methods.tolist(), self.quality, self.ms]

    @classmethod
    def from_json(cls, data: Sequence[Any]) -> Look:
        return cls(data[0], np.array(data[1], dtype=np.int64), np.array(data[2], dtype=np.int64), *data[3:])


@dataclass(frozen=True)
class Past:
    """digests: of all plans in any state. Of the trials that ended with two finite values, in their order: levels and
    methods [trials, groups] (a method is its place in `method_names`), losses by `scale` and latencies (ms), and notes.
    `bearable` is the loss of half the metric, else half of what was lost at most. asked: trials that an arm proposed,
    in any state; looks: at plans that may not have become trials.
    """

    digests: frozenset[str]
    levels: Levels
    methods: Levels
    losses: Values
    ms: Values
    notes: list[Mapping[str, Any]]
    bearable: float
    asked: int = 0
    scale: Scale = Scale()
    looks: Sequence[Look] = ()

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
        self._looks: dict[str, dict[int, list[Look]]] = {}

    def read(self, study: Study) -> Past:
        trials = study._get_trials(deepcopy=False, use_cache=True)
        known = [(t, row) for t in trials if (row := self._row(study, t)) is not None]
        ended = [(t, row) for t, row in known if t.state == TrialState.COMPLETE and np.isfinite(t.values).all()]
        shape = (len(ended), len(self._whole))
        values = np.array([t.values for t, _ in ended]).reshape(len(ended), 2)
        scale, bearable = _scale(study, values[:, 0],
                                 np.array([not self._changes(row) for _, row in ended], dtype=bool))
        return Past(frozenset(row.digest for _, row in known),
                    np.array([row.levels for _, row in ended], dtype=np.int64).reshape(shape),
                    np.array([row.methods for _, row in ended], dtype=np.int64).reshape(shape),
                    scale.losses(values[:, 0]), values[:, 1],
                    [t.system_attrs.get(NOTE, {}) for t, _ in ended], bearable,
                    sum("arm" in t.system_attrs.get(NOTE, {}) for t in trials),
                    scale, [look for t in trials for look in self._looked(study, t)])

    def _looked(self, study: Study, trial: FrozenTrial) -> list[Look]:
        known = self._looks.setdefault(study.study_name, {})
        if trial.number not in known:
            noted = trial.system_attrs.get(NOTE)
            if noted is None:
                return []
            known[trial.number] = [Look.from_json(look) for look in noted.get("looks", ())]
        return known[trial.number]

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


def _scale(study: Study, values: Values, dense: Values) -> tuple[Scale, float]:
    """How losses are counted, and the bearable one."""
    sign = 1.0 if study.directions[0] == StudyDirection.MAXIMIZE else -1.0
    if not len(values):
        return Scale(sign), _HALF
    whole = float(np.median(values[dense])) if dense.any() else float((sign * values).max() * sign)
    scale = Scale(sign, whole, logs=bool(sign > 0 and values.min() > 0))
    return scale, _HALF if scale.logs else float(scale.losses(values).max()) / 2
