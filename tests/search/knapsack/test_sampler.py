"""The knapsack sampler: Optuna's own tests, and that it learns which groups matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase

from autoprune.graph.graph import Graph
from autoprune.graph.plan import Plan
from autoprune.search.knapsack.curves import Curve
from autoprune.search.knapsack.past import NOTE, Past
from autoprune.search.knapsack.sampler import ARMS, KnapsackSampler
from autoprune.search.propose import Proposer
from autoprune.search.space import Space

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def proposer(tiny_graph: Graph) -> Proposer:
    return Proposer(tiny_graph, Space("x", methods=("l1", "l2", "random"), min_keep=0.1).choices(tiny_graph, 1), 0)


def curves(proposer: Proposer) -> dict[str, Curve]:
    """Every group looks the same: quadratic damage, 10 ms saved by removing all of it."""
    out = {}
    for name, c in proposer.choices.items():
        shares = [1 - w / c.widths[-1] for w in c.widths]
        out[name] = Curve(c.widths, tuple(s * s for s in shares), tuple(10 * s for s in shares))
    return out


def dense_ms(proposer: Proposer) -> float:
    return 10.0 * len(proposer.choices) + 5.0


def exact_ms(proposer: Proposer, plan: Plan) -> float:
    """Less is really saved than the single groups promise."""
    left = [1 - (plan.cuts[n].keep if n in plan.cuts else c.widths[-1]) / c.widths[-1]
            for n, c in proposer.choices.items()]
    return dense_ms(proposer) - 8.0 * sum(left)


def loss_of(proposer: Proposer, plan: Plan, precious: str) -> float:
    """A landscape in which one group does all the damage, though the scan took all groups for equal."""
    damage = {n: c.damage[c.widths.index(plan.cuts[n].keep)] if n in plan.cuts else 0.0
              for n, c in curves(proposer).items()}
    return sum((20.0 if n == precious else 1.0) * d for n, d in damage.items())


def make(proposer: Proposer, *targets_ms: float, arms: Sequence[str] = tuple(ARMS), seed: int = 0,
         look: Callable[[Plan], float] | None = None) -> KnapsackSampler:
    return KnapsackSampler(proposer, curves(proposer), dense_ms(proposer), targets_ms,
                           lambda plan: exact_ms(proposer, plan), seed=seed, arms=arms,
                           look=None if look is None else lambda plans: list(map(look, plans)))


class TestAsOptunaSampler(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self, proposer: Proposer) -> Callable[[], BaseSampler]:
        return lambda: make(proposer)


def test_a_plan_for_a_target_meets_it_closely(proposer: Proposer) -> None:
    for share in (0.9, 0.7, 0.5):
        target = share * dense_ms(proposer)
        plan = proposer.plan(make(proposer, target).at(target))
        assert 0.93 * target <= exact_ms(proposer, plan) <= target


def study_of(proposer: Proposer, sampler: BaseSampler, count: int, precious: str) -> optuna.Study:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    noise = np.random.default_rng(1)

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        plan = proposer.suggest(trial)
        return 1.0 - 0.01 * loss_of(proposer, plan, precious) + float(noise.normal(0, 1e-4)), exact_ms(proposer, plan)

    study.optimize(objective, n_trials=count)
    return study


@pytest.mark.parametrize("arms", [ARMS, ("refit",)])
def test_it_learns_which_group_to_spare(proposer: Proposer, arms: tuple[str, ...]) -> None:
    precious = max(proposer.choices, key=lambda n: proposer.choices[n].widths[-1])
    study = study_of(proposer, make(proposer, 0.7 * dense_ms(proposer), arms=arms), 40, precious)
    kept = [t.params[f"{precious}.keep"] for t in study.trials]
    others = [np.mean([t.params[f"{n}.keep"] for n in proposer.choices if n != precious]) for t in study.trials]
    late = slice(-15, None)
    assert np.mean(kept[late]) > np.mean(others[late]) + 0.1
    near = [t for t in study.trials[late] if t.values[1] <= 0.72 * dense_ms(proposer)]
    assert len(near) >= 8


def test_proposals_stay_in_the_space_and_differ(proposer: Proposer) -> None:
    study = study_of(proposer, make(proposer, 0.6 * dense_ms(proposer)), 25, "")
    plans = [proposer.plan(t.params) for t in study.trials]
    assert len({p.digest for p in plans}) > 15
    for plan in plans:
        assert all(cut.keep in proposer.choices[name].widths for name, cut in plan.cuts.items())


def test_a_sampler_without_a_budget_covers_the_range(proposer: Proposer) -> None:
    study = study_of(proposer, make(proposer), 30, "")
    latencies = sorted(t.values[1] for t in study.trials)
    assert latencies[0] < 0.6 * dense_ms(proposer)
    assert latencies[-1] > 0.8 * dense_ms(proposer)


def arms_of(study: optuna.Study) -> list[str]:
    return [t.system_attrs[NOTE]["arm"] for t in study.trials]


def test_the_scan_comes_first_and_every_arm_has_its_share(proposer: Proposer) -> None:
    arms = arms_of(study_of(proposer, make(proposer, look=lambda plan: -loss_of(proposer, plan, "")), 80, ""))
    assert set(arms[:8]) == {"start"}
    assert all(arm in arms[15:] for arm in ARMS)


def test_an_arm_that_wins_gets_more(proposer: Proposer) -> None:
    sampler = make(proposer, look=lambda _: 0.0)
    notes = [{"arm": arm} for arm in ("start", *ARMS) for _ in range(8)]
    ms = np.linspace(20, 10, 48)
    losses = np.where([note["arm"] == "tpe" for note in notes], np.linspace(0.5, 0.01, 48), 0.6)
    past = Past(frozenset(), np.zeros((48, 1), dtype=int), np.zeros((48, 1), dtype=int), losses, ms, notes, 0.69, 48)
    drawn = [sampler._choose(past) for _ in range(300)]
    assert drawn.count("tpe") > 90
    assert all(drawn.count(arm) > 150 * share for arm, share in ARMS.items())


def test_looks_teach_it_what_candidates_would(proposer: Proposer) -> None:
    """By its looks alone it spares the precious group from its first proposals on; without them it cannot know."""
    precious = max(proposer.choices, key=lambda n: proposer.choices[n].widths[-1])
    kept = {}
    for looks in (True, False):
        look = (lambda plan: -0.02 * loss_of(proposer, plan, precious)) if looks else None
        study = study_of(proposer, make(proposer, 0.7 * dense_ms(proposer), look=look), 10, precious)
        kept[looks] = np.mean([t.params[f"{precious}.keep"] for t in study.trials])
    assert kept[True] > kept[False] + 0.1


def test_of_the_looks_at_a_latency_the_best_is_proposed(proposer: Proposer) -> None:
    seen: dict[str, float] = {}

    def look(plan: Plan) -> float:
        seen[plan.digest] = -float(len(seen) % 4)
        return seen[plan.digest]
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=make(proposer, arms=("look",), look=look))
    plan = proposer.suggest(study.ask())
    assert len(seen) > 2
    assert seen[plan.digest] == max(seen.values())
    assert {digest: quality for digest, _, _, quality, _ in looks_of(study.trials[0])} == seen


def test_looks_of_before_are_proposed_by_a_resumed_search(proposer: Proposer) -> None:
    """Nothing that the second sampler looks at is as good, so it takes what the trials of the first one hold."""
    study = study_of(proposer, make(proposer, arms=("look",), look=lambda _: -1.0), 8, "")
    before = {look[0] for t in study.trials for look in looks_of(t)} - {proposer.plan(t.params).digest
                                                                       for t in study.trials}
    study.sampler = make(proposer, arms=("look",), look=lambda _: -2.0, seed=1)
    proposed = {proposer.suggest(study.ask()).digest for _ in range(20)}
    own = {look[0] for t in study.trials[8:] for look in looks_of(t)}
    assert len(proposed & before - own) >= 2


def looks_of(trial: optuna.trial.FrozenTrial) -> list[list[Any]]:
    return trial.system_attrs[NOTE].get("looks", [])


def test_looks_that_fail_are_left_out(proposer: Proposer) -> None:
    study = study_of(proposer, make(proposer, look=lambda _: float("nan")), 12, "")
    assert all(looks_of(t) == [] for t in study.trials)


def test_nothing_is_looked_at_where_there_is_no_time(proposer: Proposer) -> None:
    def look(plans: Sequence[Plan]) -> list[float]:
        raise AssertionError("looked")
    sampler = KnapsackSampler(proposer, curves(proposer), dense_ms(proposer), (), lambda plan: exact_ms(proposer, plan),
                              seed=0, look=look, drafts=lambda: 0)
    assert "look" in arms_of(study_of(proposer, sampler, 25, ""))  # its share goes to the fit


def test_no_plan_is_proposed_twice_while_there_is_another(tiny_graph: Graph) -> None:
    small = Proposer(tiny_graph, Space("x", methods=("l1",), min_keep=0.5).choices(tiny_graph, 8), 0)
    count = 1
    for c in small.choices.values():
        count *= len(c.widths)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=make(small))
    study.enqueue_trial(small.uniform(0.5, "l1"))  # held, though it waits
    digests = []
    for i in range(count):
        trial = study.ask()
        plan = small.suggest(trial)
        digests.append(plan.digest)
        if i % 3:
            study.tell(trial, [0.9, exact_ms(small, plan)])
        elif i % 2:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)  # others stay as if they were running
    assert len(set(digests)) == count
    assert small.suggest(study.ask()).digest in digests


def test_proposals_aim_at_each_of_several_budgets(proposer: Proposer) -> None:
    dense = dense_ms(proposer)
    study = study_of(proposer, make(proposer, 0.8 * dense, 0.5 * dense, arms=("refit",)), 50, "")
    ms = np.array([t.values[1] for t in study.trials]) / dense
    assert ((ms > 0.65) & (ms <= 0.8)).sum() >= 8
    assert ((ms > 0.4) & (ms <= 0.5)).sum() >= 8
    assert (ms <= 0.81).mean() > 0.85  # a variation may come out slower


def test_another_sampler_on_the_same_study_knows_what_was_tried(proposer: Proposer) -> None:
    study = study_of(proposer, make(proposer, arms=("tpe",)), 25, "")
    resumed = make(proposer, arms=("tpe",), seed=1)
    study.sampler = resumed
    proposer.suggest(study.ask())
    told = resumed._tilt._study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    assert len(told) == arms_of(study).count("tpe") - 1  # all but the one that runs


def test_latencies_that_are_learnt_meanwhile(proposer: Proposer) -> None:
    """The fastest plan turns out slower: what was aimed at before is below what can be aimed at now."""
    factor = [1.0]

    def sampler(seed: int) -> KnapsackSampler:
        return KnapsackSampler(proposer, curves(proposer), dense_ms(proposer), [], seed=seed, arms=("tpe",),
                               steady=False, latency_ms=lambda plan: factor[0] * exact_ms(proposer, plan))
    study = study_of(proposer, first := sampler(0), 40, "")
    least_ms = first._decoder.least_ms
    target_ms = 0.7 * dense_ms(proposer)
    assert exact_ms(proposer, proposer.plan(first.at(target_ms))) > 0.9 * target_ms
    factor[0] = 1.3
    proposer.suggest(study.ask())
    assert first._decoder.least_ms == pytest.approx(1.3 * least_ms)
    assert exact_ms(proposer, proposer.plan(first.at(target_ms))) <= target_ms / 1.3  # asked again
    study.sampler = sampler(1)  # resumed
    proposer.suggest(study.ask())


def test_groups_to_which_other_methods_apply_get_theirs(proposer: Proposer) -> None:
    names = list(proposer.choices)
    choices = {n: replace(c, methods=("l2", "l1") if n == names[0] else ("l1", "geometric")) for n, c in
               proposer.choices.items()}
    mixed = Proposer(proposer.graph, choices, 0)
    study = study_of(mixed, make(mixed, 0.6 * dense_ms(mixed)), 40, "")
    assert {t.params[f"{names[0]}.method"] for t in study.trials} <= {"l2", "l1"}
    assert {t.params[f"{names[1]}.method"] for t in study.trials} == {"l1", "geometric"}


@pytest.mark.parametrize("values", [[-3.0, 2.0], [0.0, 5.0], [float("inf"), 5.0]])
def test_any_metric_will_do(proposer: Proposer, values: list[float]) -> None:
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=make(proposer))
    for i in range(16):
        trial = study.ask()
        proposer.suggest(trial)
        study.tell(trial, [values[0] + 0.1 * (i % 5), values[1]])
    assert proposer.suggest(study.ask()) is not None


def test_failed_and_foreign_trials_are_left_out(proposer: Proposer) -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=make(proposer))
    study.add_trial(optuna.trial.create_trial(values=[0.5, 1.0], params={"x": 1.0}, distributions={
        "x": optuna.distributions.FloatDistribution(0, 2)}))
    failed = study.ask()
    study.tell(failed, state=optuna.trial.TrialState.FAIL)
    assert proposer.suggest(study.ask()) is not None
