"""`--sampler knapsack`: plans are decoded from a latency and damage curves, and it is the curves that are searched.

A scan says how much damage and how much latency each group stands for (`sensitivity.py`); a knapsack turns a latency
and these curves into widths (`decoder.py`). The first plans are decoded from the scan, looked at where that is
possible. After them five arms propose, by what each has lately won:

- `look` learns the curves from looks at untrained models, which take a small part of a candidate's time and say much
  of how good it will be, and proposes the one of several plans of a latency that looks best;
- `scan` goes on with the scan, which a short search does not learn to do better;
- `refit` learns the curves from the candidates and samples from what they leave open (`refit.py`);
- `tpe` leaves it to Optuna's TPE to find a latency, six weights that tilt the scan's curves along features of the
  groups, and a method;
- `vary` changes a member of the front in a few groups.

What Optuna sees are the widths and methods of the groups, as with any other sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from autoprune.graph.plan import Cut, Plan
from autoprune.search.candidate import Candidate
from autoprune.search.knapsack.aims import Aims
from autoprune.search.knapsack.curves import Curve, Levels
from autoprune.search.knapsack.decoder import Decoder, Pair
from autoprune.search.knapsack.past import NOTE, Look, Past, Reader, front, method_names
from autoprune.search.knapsack.refit import Refit
from autoprune.search.knapsack.tilt import Tilt
from autoprune.search.propose import Proposer

__all__ = ["ARMS", "KnapsackSampler"]

ARMS = {"look": 0.4, "scan": 0.05, "refit": 0.15, "tpe": 0.05, "vary": 0.05}
"""And the share of the proposals that each makes at least."""

_STARTS = 10  # plans decoded from the scan before any arm is judged
_TRUSTS = (0.5, 0.75, 1.0, 0.5, 0.25)  # in the scan, of these in turn
_OTHER = 5  # one plan in so many that are decoded from the scan is by another method than the first
_CAUTION = 3  # candidates for each group, before draws are as wide as what is not known: short searches have no time
_RECENT = 40  # candidates by which arms are judged
_WARM = 0.5  # how wide drafts are drawn at least, that are looked at before
_AT = 0.95  # of a latency and up to it: plans that are compared by their looks
_LATEST_LOOKS = 150  # of about the latency aimed at, that are learnt from
_TRIES = 12  # to propose a plan that the study does not hold

Looking = Callable[[Sequence[Plan]], Sequence[float]]
"""Minus the damage of each of some plans' untrained models; not finite where one fails."""

Proposal = tuple[dict[str, Any], dict[str, Any]]
"""Parameters of a trial, and what is noted of where they come from."""


class KnapsackSampler(BaseSampler):
    """Proposes plans for the groups in `curves`, the proposer's groups and then its branches (`sensitivity.scan`); any
    other parameter is sampled at random.

    dense_ms: latency of the dense model; targets_ms: the budgets, none for a whole front; latency_ms: of a plan, asked
    a few times per proposal; steady: whether it gives a plan the same latency always, and does not learn; shared: what
    pairs of groups save twice (`decoder.pairs`), where known; look: asked about `drafts()` plans per proposal of the
    arm `look`; where nothing is to be looked at, that arm is `refit`. A plan that the study holds, in any state, is not
    proposed again while there is another one.
    """

    def __init__(self, proposer: Proposer, curves: Mapping[str, Curve], dense_ms: float, targets_ms: Sequence[float],
                 latency_ms: Callable[[Plan], float], shared: Sequence[Pair] = (), seed: int | None = None,
                 arms: Sequence[str] = tuple(ARMS), look: Looking | None = None,
                 drafts: Callable[[], int] = lambda: 6, steady: bool = True):
        self._proposer, self._curves, self._look, self._drafts = proposer, dict(curves), look, drafts
        self._arms = tuple(arms)
        self._dense_ms = dense_ms
        self._decoder = Decoder(curves, dense_ms, lambda levels: latency_ms(self._plan(levels)), shared)
        self._steady, self._names = steady, method_names(proposer)
        self._sane = [m for m in self._names if m != "random"] or self._names
        self._applies = np.array([*([m in c.methods for m in self._names] for c in proposer.choices.values()),
                                  *([m == self._names[0] for m in self._names] for _ in proposer.branches)])
        self._aims = Aims(self._decoder, targets_ms)
        self._reader, self._tilt = Reader(proposer), Tilt(self._decoder, self._sane, self._aims.top_ms, seed)
        self._fit: Refit | None = None
        self._random = np.random.default_rng(seed)
        self._fallback = RandomSampler(seed=seed)

    def reseed_rng(self) -> None:
        self._random = np.random.default_rng()
        self._tilt.reseed()
        self._fallback.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._proposer.distributions() if len(study.directions) == 2 else {}

    def sample_relative(self, study: Study, trial: FrozenTrial,
                        search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        if search_space.keys() != self._proposer.distributions().keys():
            return {}
        if not self._steady:
            self._decoder.ask_again()
        past = self._reader.read(study)
        for _ in range(_TRIES):
            arm = self._choose(past)
            parameters, note = self._propose(arm, past)
            if self._proposer.plan(parameters).digest not in past.digests:
                break
        else:
            arm, note = "untried", {}
            parameters = self._proposer.untried(set(past.digests)) or parameters
        study._storage.set_trial_system_attr(trial._trial_id, NOTE, {"arm": arm, **note})
        return parameters

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str,
                           param_distribution: BaseDistribution) -> Any:
        return self._fallback.sample_independent(study, trial, param_name, param_distribution)

    def at(self, target_ms: float, methods: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Parameters of the plan that the scan's curves give for a latency."""
        return self._parameters(self._decoder.at(target_ms), methods or {})

    def aim_at(self, targets_ms: Sequence[float]) -> None:
        """From now on these are the budgets."""
        self._aims.aim_at(targets_ms)

    # -- arms -----------------------------------------------------------------------------------------------------

    def _choose(self, past: Past) -> str:
        """An arm, by the hypervolume that its recent candidates have won each."""
        if past.asked < _STARTS:
            return "start"
        gains = dict.fromkeys(self._arms, 1e-12)
        counts = dict.fromkeys(self._arms, 1)
        for i in range(max(0, len(past.notes) - _RECENT), len(past.notes)):
            arm = past.notes[i].get("arm")
            if arm in gains:
                gains[arm] += self._gain(past, i)
                counts[arm] += 1
        rates = np.array([gains[a] / counts[a] for a in self._arms])
        least = np.array([ARMS[a] for a in self._arms])
        shares = least + (1 - least.sum()) * rates / rates.sum()
        return str(self._random.choice(self._arms, p=shares / shares.sum()))

    def _gain(self, past: Past, i: int) -> float:
        """Hypervolume (ms × loss, up to the bearable one) that trial i added to those before it."""
        before = self._volume(past.losses[:i], past.ms[:i], past.bearable)
        return max(0.0, self._volume(past.losses[:i + 1], past.ms[:i + 1], past.bearable) - before)

    def _volume(self, losses: Any, ms: Any, bearable: float) -> float:
        area, top = 0.0, bearable
        for i in front(losses, ms):
            if losses[i] < top and ms[i] < self._dense_ms:
                area += (self._dense_ms - ms[i]) * (top - losses[i])
                top = losses[i]
        return area

    def _propose(self, arm: str, past: Past) -> Proposal:
        drafts = self._drafts() if arm in ("start", "look") and self._look is not None else 0
        if self._look is not None and drafts:
            return self._looked(past, self._look, drafts)
        if arm in ("start", "scan"):
            return self._scanned(past), {}
        if arm in ("refit", "look"):
            return self._refit(past), {}
        if arm == "tpe":
            return self._tilted(past)
        return self._vary(past), {}

    def _scanned(self, past: Past) -> dict[str, Any]:
        """By the first method of the space, which is its best bet, and now and then by another one."""
        trusted = self._decoder.trusting(_TRUSTS[past.asked % len(_TRUSTS)])
        levels = self._decoder.at(self._aims.next_ms(past, self._random), trusted)
        return self._parameters(levels, self._one(str(self._random.choice(self._sane))
                                                  if past.asked % _OTHER == _OTHER - 1 else self._sane[0]))

    def _looked(self, past: Past, look: Looking, count: int) -> Proposal:
        """Of new drafts and what was looked at before, the plan of a latency that looks best. (The fit starts anew:
        what was seen about another latency is another set.)
        """
        target_ms = self._aims.next_ms(past, self._random)
        near = sorted(past.looks, key=lambda seen: abs(np.log(seen.ms / target_ms)))[:_LATEST_LOOKS]
        fit = self._fitted([s.levels for s in near], [s.methods for s in near], [-s.quality for s in near])
        known = {*past.digests, *(seen.digest for seen in past.looks)}
        drafts = dict[str, tuple[Plan, Levels, Levels]]()
        for heat in np.linspace(0, max(_WARM, self._known(len(near))), count):
            levels, methods = self._drawn(fit, float(heat), target_ms)
            plan = self._proposer.plan(self._of(levels, methods))
            if plan.digest not in known:
                drafts.setdefault(plan.digest, (plan, levels, methods))
        seen_now = look([plan for plan, _, _ in drafts.values()])
        new = [Look(plan.digest, levels, methods, quality, self._decoder.latency_ms(levels))
               for (plan, levels, methods), quality in zip(drafts.values(), seen_now, strict=True)
               if np.isfinite(quality)]
        open_ = [seen for seen in near if _AT * target_ms <= seen.ms <= target_ms and seen.digest not in past.digests]
        best = max([*new, *open_], key=lambda seen: seen.quality, default=None)
        note = {"looks": [seen.to_json() for seen in new]}
        if best is None:
            return self._refit(past), note
        return self._of(best.levels, best.methods), note

    def _refit(self, past: Past) -> dict[str, Any]:
        self._fit = self._fitted(past.levels, past.methods, past.losses, self._fit)
        heat = float(self._random.uniform()) * self._known(len(past.losses))
        return self._of(*self._drawn(self._fit, heat, self._aims.next_ms(past, self._random)))

    def _fitted(self, levels: Any, methods: Any, losses: Any, before: Refit | None = None) -> Refit:
        levels, methods = (np.array(a, dtype=np.int64).reshape(len(losses), len(self._curves))
                           for a in (levels, methods))
        return Refit(self._decoder.damage, self._decoder.shares, self._decoder.direction, len(self._names), levels,
                     methods, np.array(losses, dtype=np.float64), before)

    def _known(self, count: int) -> float:
        """How much of what is open may be drawn after so many plans, at most 1."""
        return min(1.0, count / (_CAUTION * len(self._curves)))

    def _drawn(self, fit: Refit, heat: float, target_ms: float) -> tuple[Levels, Levels]:
        damage, factors = fit.draw(self._random, heat)
        factors = np.where(self._applies, factors, np.inf)
        return self._decoder.at(target_ms, damage * factors.min(1)[:, None], exact=heat == 0), factors.argmin(1)

    def _tilted(self, past: Past) -> Proposal:
        latent = self._tilt.ask(past)
        damage, target_ms, method = self._tilt.read(latent)
        return self._parameters(self._decoder.at(target_ms, damage), self._one(method)), {"latent": latent}

    def _vary(self, past: Past) -> dict[str, Any]:
        members = [i for i in past.front() if past.losses[i] <= past.bearable] or past.front()
        if not members:
            return self._scanned(past)
        parent = members[int(self._random.integers(len(members)))]
        plan = self._plan(past.levels[parent], past.methods[parent])
        return self._proposer.vary(Candidate(0, "", plan))

    # -- plans --------------------------------------------------------------------------------------------------------

    def _one(self, method: str) -> dict[str, str]:
        return dict.fromkeys(self._proposer.choices, method)

    def _parameters(self, levels: Levels, methods: Mapping[str, str]) -> dict[str, Any]:
        widths = {n: c.widths[k] for (n, c), k in zip(self._curves.items(), levels, strict=True)}
        return self._proposer.parameters(widths, methods, dropped=self._dropped(levels))

    def _of(self, levels: Levels, methods: Levels) -> dict[str, Any]:
        """Parameters, methods by their numbers."""
        return self._parameters(levels, {n: self._names[m] for n, m in zip(self._curves, methods, strict=True)})

    def _dropped(self, levels: Levels) -> tuple[str, ...]:
        stays = zip(self._proposer.branches, levels[len(self._proposer.choices):], strict=True)
        return tuple(branch for branch, stay in stays if not stay)

    def _plan(self, levels: Levels, methods: Levels | None = None) -> Plan:
        cuts, dropped = {}, self._dropped(levels)
        inside = self._proposer.inside(dropped)
        for g, (name, c) in enumerate(self._proposer.choices.items()):
            if levels[g] < len(c.widths) - 1 and name not in inside:
                cuts[name] = Cut(c.widths[levels[g]], c.methods[0] if methods is None else self._names[methods[g]])
        return Plan(cuts, self._proposer.graph.fingerprint, dropped)
