"""What is evaluated, and in which order: controls first, then Optuna's proposals and variations of the front.

The parameters of a trial are what the study shows: `GROUP.keep` (fraction of units that stay, on the device's aligned
widths), `GROUP.method`, in spaces that say so `BRANCH.drop` (whether a residual branch goes) and `WEIGHT.mask` (the
method that chooses it), and `precision` where the space offers more than one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import Trial

from autoprune.graph.graph import Graph
from autoprune.graph.plan import Cut, Mask, Plan
from autoprune.search.candidate import Candidate
from autoprune.search.space import Choices

__all__ = ["DENSE", "At", "Proposer"]

At = Callable[[float, Mapping[str, str]], dict[str, Any]]
"""Latency in milliseconds, and the method of each group → parameters of a plan for that latency."""

DENSE = "control: dense"
_UNIFORM = (0.75, 0.5, 0.25)
_PRECISION = "precision"
_OTHER_MASK = 0.05  # of the weights of a variation
_OTHER_DEPTH = 0.3  # of variations
_DROPPED = 0.1  # of the branches of a plan drawn at random


class Proposer:
    """Turns a space into Optuna parameters and back into plans.

    masks: what each weight may wear. All of them wear one, but in the dense controls. branches: of `graph.branches`,
    those that may be dropped.
    """

    def __init__(self, graph: Graph, choices: Mapping[str, Choices], seed: int, precisions: Sequence[str] = ("fp32",),
                 masks: Mapping[str, Sequence[Mask]] | None = None, branches: Sequence[str] = ()):
        self.graph, self.choices, self.precisions = graph, dict(choices), tuple(precisions)
        self.masks = {name: {m.method: m for m in found} for name, found in (masks or {}).items()}
        self.branches = tuple(branches)
        self._random = np.random.default_rng(seed)

    @property
    def patterns(self) -> list[str]:
        """Of the masks."""
        return list(dict.fromkeys(m.pattern for found in self.masks.values() for m in found.values()))

    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distributions, by parameter name."""
        out: dict[str, BaseDistribution] = {}
        for name, c in self.choices.items():
            out[f"{name}.keep"] = FloatDistribution(c.widths[0] / c.widths[-1], 1.0)
            out[f"{name}.method"] = CategoricalDistribution(c.methods)
        for name in self.branches:
            out[f"{name}.drop"] = CategoricalDistribution((False, True))
        for name, masks in self.masks.items():
            out[f"{name}.mask"] = CategoricalDistribution(tuple(masks))
        if len(self.precisions) > 1:
            out[_PRECISION] = CategoricalDistribution(self.precisions)
        return out

    def suggest(self, trial: Trial) -> Plan:
        """Ask the study's sampler for a plan."""
        values: dict[str, Any] = {}
        for name, d in self.distributions().items():
            if isinstance(d, FloatDistribution):
                values[name] = trial.suggest_float(name, d.low, d.high)
            elif isinstance(d, CategoricalDistribution):
                values[name] = trial.suggest_categorical(name, d.choices)
        return self.plan(values, trial.user_attrs.get("origin", ""))

    def plan(self, values: Mapping[str, Any], origin: str = "") -> Plan:
        """The plan that a trial's parameters mean; kept fractions go to the nearest aligned width, and what lies within
        a branch that is dropped is not cut. Whatever its parameters, a trial that comes from a dense control wears no
        masks.
        """
        dropped = tuple(b for b in self.branches if values[f"{b}.drop"])
        gone, inside = self._tensors(dropped), self.inside(dropped)
        cuts: dict[str, Cut] = {}
        for name, c in self.choices.items():
            if name in inside:
                continue
            size = c.widths[-1]
            keep = _nearest(c.widths, values[f"{name}.keep"] * size)
            if keep < size:
                cuts[name] = Cut(keep, str(values[f"{name}.method"]))
        worn = {} if origin.startswith(DENSE) else {n: m[values[f"{n}.mask"]] for n, m in self.masks.items()
                                                    if n not in gone}
        return Plan(cuts, self.graph.fingerprint, dropped, str(values.get(_PRECISION, self.precisions[0])), worn)

    def inside(self, dropped: Collection[str]) -> set[str]:
        """The groups that lie within these branches as a whole."""
        gone = self._tensors(dropped)
        return {name for name in self.choices if all(tensor in gone for tensor, _ in self.graph.groups[name].tensors)
                } if gone else set()

    def _tensors(self, dropped: Collection[str]) -> set[str]:
        return {t for b in dropped for t in self.graph.branches[b].tensors}

    def parameters(self, keep: Mapping[str, int], method: Mapping[str, str], precision: str = "fp32",
                   masks: Mapping[str, str] | None = None, dropped: Collection[str] = ()) -> dict[str, Any]:
        """Trial parameters of given widths and methods; groups that are not named stay whole, branches stay, weights
        that are not named wear the mask of their first method.
        """
        out: dict[str, Any] = {}
        for name, c in self.choices.items():
            out[f"{name}.keep"] = keep.get(name, c.widths[-1]) / c.widths[-1]
            chosen = method.get(name, c.methods[0])
            out[f"{name}.method"] = chosen if chosen in c.methods else c.methods[0]
        for name in self.branches:
            out[f"{name}.drop"] = name in dropped
        for name, found in self.masks.items():
            wanted = (masks or {}).get(name, "")
            out[f"{name}.mask"] = wanted if wanted in found else next(iter(found))
        return out if len(self.precisions) == 1 else {**out, _PRECISION: precision}

    def parameters_of(self, plan: Plan) -> dict[str, Any]:
        """Trial parameters of a plan of this space."""
        return self.parameters({n: c.keep for n, c in plan.cuts.items()}, {n: c.method for n, c in plan.cuts.items()},
                               plan.precision, {n: m.method for n, m in plan.masks.items()}, plan.dropped)

    def uniform(self, ratio: float, method: str, precision: str = "fp32", dropped: Collection[str] = ()
                ) -> dict[str, Any]:
        """Every group at the width nearest to `ratio` of its units."""
        return self.parameters(self._uniform_widths(ratio), dict.fromkeys(self.choices, method), precision,
                               dropped=dropped)

    def _uniform_widths(self, ratio: float) -> dict[str, int]:
        return {n: _nearest(c.widths, ratio * c.widths[-1]) for n, c in self.choices.items()}

    def controls(self) -> dict[str, dict[str, Any]]:
        """The models that every search has to beat, by origin: dense (in each precision), whole with masks where there
        are any, and uniform ratios.
        """
        first = self._first_method()
        out = {DENSE + _in(p): self.parameters({}, {}, p) for p in self.precisions}
        if self.masks:
            out["control: masks alone"] = self.parameters({}, {})
        for ratio in _UNIFORM:
            out[f"control: uniform {ratio:g}"] = self.uniform(ratio, first)
        return out

    def at_budget(self, budget_ms: float, latency_ms: Callable[[Plan], float]) -> dict[str, dict[str, Any]]:
        """The widest uniform ratio that meets the budget (by bisection), or else the narrowest plan of the space; in
        each precision.
        """
        return {"control: uniform at budget" + _in(p):
                self.widest(partial(self.uniform, method=self._first_method(), precision=p), budget_ms, latency_ms)
                for p in self.precisions}

    def starts(self, budget_ms: float, at: At, below: Sequence[float], every_method: bool = True
               ) -> dict[str, dict[str, Any]]:
        """What is evaluated before anything is learnt: plans at the budget by every method, of groups and of masks (or
        by the first only), and at the parts `below` of the budget by the first.
        """
        out: dict[str, dict[str, Any]] = {}
        first = self._first_method()
        for method in (m for m in self._methods() if m == first or (every_method and m != "random")):
            out[f"start: at budget, {method}"] = at(budget_ms, dict.fromkeys(self.choices, method))
        others = [m for found in self.masks.values() for m in list(found)[1:]]
        for method in dict.fromkeys(others):
            masks = {f"{n}.mask": method for n, found in self.masks.items() if method in found}
            out[f"start: at budget, masks by {method}"] = {**at(budget_ms, dict.fromkeys(self.choices, first)), **masks}
        for part in below:
            out[f"start: at {part:g} of the budget"] = at(part * budget_ms, dict.fromkeys(self.choices, first))
        return out

    def uniform_at(self, latency_ms: Callable[[Plan], float]) -> At:
        """For `starts` without a knapsack: the widest uniform ratio for a latency."""
        def at(target_ms: float, methods: Mapping[str, str]) -> dict[str, Any]:
            return self.widest(lambda keep: self.parameters(self._uniform_widths(keep), methods), target_ms, latency_ms)
        return at

    def widest(self, at_keep: Callable[[float], dict[str, Any]], budget_ms: float, latency_ms: Callable[[Plan], float]
               ) -> dict[str, Any]:
        """Of the parameters for a kept fraction between 0 and 1, the widest that meet the budget (by bisection), or
        else the narrowest.
        """
        low, high = 0.0, 1.0
        for _ in range(6):
            middle = (low + high) / 2
            if latency_ms(self.plan(at_keep(middle))) <= budget_ms:
                low = middle
            else:
                high = middle
        return at_keep(low)

    def vary(self, parent: Candidate) -> dict[str, Any]:
        """A front member with a few groups one to three widths wider or narrower, now and then by another
        method, with masks by another method, with a branch dropped or taken back, or in another precision.
        """
        keep = {n: parent.plan.cuts[n].keep if n in parent.plan.cuts else c.widths[-1] for n, c in self.choices.items()}
        method = {n: parent.plan.cuts[n].method if n in parent.plan.cuts else c.methods[0]
                  for n, c in self.choices.items()}
        names = list(self.choices)
        count = max(2, round(len(names) * self._random.uniform(0.1, 0.5)))
        for name in self._random.choice(names, size=min(count, len(names)), replace=False):
            widths = self.choices[name].widths
            here = min(range(len(widths)), key=lambda i: abs(widths[i] - keep[name]))
            reach = max(1, len(widths) // 5)
            there = here + int(self._random.integers(-reach, reach + 1))
            keep[name] = widths[min(max(there, 0), len(widths) - 1)]
            if self._random.random() < 0.2:
                method[name] = str(self._random.choice(self.choices[name].methods))
        masks = {n: m.method for n, m in parent.plan.masks.items()}
        masks |= {n: self._any_mask(n) for n in self.masks if self._random.random() < _OTHER_MASK}
        dropped = set(parent.plan.dropped)
        if self.branches and self._random.random() < _OTHER_DEPTH:
            dropped ^= {str(self._random.choice(self.branches))}
        precision = parent.plan.precision
        if len(self.precisions) > 1 and self._random.random() < 0.2:
            precision = str(self._random.choice(self.precisions))
        return self.parameters(keep, method, precision, masks, dropped)

    def untried(self, digests: set[str]) -> dict[str, Any] | None:
        """A plan drawn at random from the space whose digest is not among `digests`; None when (nearly) all are."""
        for _ in range(1000):
            keep = {n: int(self._random.choice(c.widths)) for n, c in self.choices.items()}
            method = {n: str(self._random.choice(c.methods)) for n, c in self.choices.items()}
            precision = str(self._random.choice(self.precisions)) if len(self.precisions) > 1 else self.precisions[0]
            dropped = [b for b in self.branches if self._random.random() < _DROPPED]
            values = self.parameters(keep, method, precision, {n: self._any_mask(n) for n in self.masks}, dropped)
            if self.plan(values).digest not in digests:
                return values
        return None

    def _any_mask(self, weight: str) -> str:
        return str(self._random.choice(list(self.masks[weight])))

    def _first_method(self) -> str:
        return next(iter(self.choices.values())).methods[0]

    def _methods(self) -> list[str]:
        return list(dict.fromkeys(m for c in self.choices.values() for m in c.methods))


def _nearest(widths: Sequence[int], wanted: float) -> int:
    """Of ascending widths the nearest one, of two that are as near the lesser."""
    above = bisect_left(widths, wanted)
    near = widths[max(above - 1, 0):above + 1]
    return near[0] if len(near) == 1 or wanted - near[0] <= near[1] - wanted else near[1]


def _in(precision: str) -> str:
    """What an origin says of a precision that is not the model's own."""
    return "" if precision == "fp32" else f", {precision}"
