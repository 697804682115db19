from __future__ import annotations

from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.graph.graph import Graph
from autoprune.graph.plan import Cut, Plan
from autoprune.search.candidate import Candidate
from autoprune.search.propose import DENSE, Proposer
from autoprune.search.space import Space

METHODS = ("l1", "taylor", "random")


@pytest.fixture(scope="module")
def proposer(tiny_graph: Graph) -> Proposer:
    return Proposer(tiny_graph, Space("x", methods=METHODS).choices(tiny_graph, 4), seed=0)


def in_space(proposer: Proposer, plan: Plan) -> bool:
    return all(n in proposer.choices and c.keep in proposer.choices[n].widths[:-1]
               and c.method in proposer.choices[n].methods for n, c in plan.cuts.items())


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_plan_survives_the_way_through_parameters(proposer: Proposer, data: Any) -> None:
    keep = {n: data.draw(st.sampled_from(c.widths)) for n, c in proposer.choices.items()}
    method = {n: data.draw(st.sampled_from(c.methods)) for n, c in proposer.choices.items()}
    plan = proposer.plan(proposer.parameters(keep, method))
    expected = {n: Cut(k, method[n]) for n, k in keep.items() if k < proposer.choices[n].widths[-1]}
    assert plan == Plan(expected, proposer.graph.fingerprint)
    # and what the sampler may give: any fraction in the distribution
    for name, d in proposer.distributions().items():
        assert d._contains(d.to_internal_repr(proposer.parameters(keep, method)[name]))


@settings(max_examples=60, deadline=None)
@given(fractions=st.lists(st.floats(0, 1), min_size=8, max_size=8))
def test_every_fraction_becomes_a_plan_of_the_space(proposer: Proposer, fractions: list[float]) -> None:
    values: dict[str, Any] = {}
    for (name, c), f in zip(proposer.choices.items(), fractions, strict=False):
        low = c.widths[0] / c.widths[-1]
        values |= {f"{name}.keep": low + f * (1 - low), f"{name}.method": "l1"}
    assert in_space(proposer, proposer.plan(values))


def test_the_controls_are_dense_and_uniform_in_that_order(proposer: Proposer) -> None:
    controls = proposer.controls()
    assert next(iter(controls)) == DENSE
    assert not proposer.plan(controls[DENSE]).cuts
    assert all(o.startswith("control: ") for o in controls)
    for ratio in (0.75, 0.5, 0.25):
        plan = proposer.plan(controls[f"control: uniform {ratio:g}"])
        for name, c in proposer.choices.items():
            kept = plan.cuts[name].keep if name in plan.cuts else c.widths[-1]
            nearest = min(abs(w - ratio * c.widths[-1]) for w in c.widths)
            assert abs(kept - ratio * c.widths[-1]) == nearest


def test_variations_stay_in_the_space(proposer: Proposer) -> None:
    parent = Candidate(0, "search", proposer.plan(proposer.uniform(0.5, "taylor")))
    seen = set()
    for _ in range(200):
        plan = proposer.plan(proposer.vary(parent))
        assert in_space(proposer, plan)
        seen.add(plan.digest)
        parent = Candidate(0, "search", plan)
    assert len(seen) > 20


def test_variations_of_dense_work(proposer: Proposer) -> None:
    dense = Candidate(0, DENSE, Plan({}, proposer.graph.fingerprint))
    assert all(in_space(proposer, proposer.plan(proposer.vary(dense))) for _ in range(50))


def units(proposer: Proposer, plan: Plan) -> float:
    """A latency that grows with the units that stay."""
    return float(sum(plan.cuts[n].keep if n in plan.cuts else c.widths[-1] for n, c in proposer.choices.items()))


def test_at_budget_meets_the_budget_and_is_the_widest_that_does(proposer: Proposer) -> None:
    whole = units(proposer, Plan())
    for fraction in (0.4, 0.6, 0.8, 1.0):
        found = proposer.at_budget(fraction * whole, lambda p: units(proposer, p))
        plan = proposer.plan(found["control: uniform at budget"])
        assert units(proposer, plan) <= fraction * whole
        step = 4 * len(proposer.choices)
        assert units(proposer, plan) > fraction * whole - 2 * step


def test_starts_are_at_the_budget_by_every_method_and_below_it(proposer: Proposer) -> None:
    whole = units(proposer, Plan())
    found = proposer.starts(0.8 * whole, proposer.uniform_at(lambda p: units(proposer, p)), (0.7,))
    tighter = proposer.plan(found["start: at 0.7 of the budget"])
    assert units(proposer, tighter) <= 0.7 * 0.8 * whole
    assert {c.method for c in proposer.plan(found["start: at budget, taylor"]).cuts.values()} == {"taylor"}
    assert not any("random" in origin for origin in found)


def test_a_budget_below_the_floor_gives_the_narrowest_plan(proposer: Proposer) -> None:
    found = proposer.at_budget(1e-6, lambda p: units(proposer, p))
    plan = proposer.plan(found["control: uniform at budget"])
    assert {n: c.keep for n, c in plan.cuts.items()} == {n: c.widths[0] for n, c in proposer.choices.items()}


def test_untried_finds_the_last_plan_and_then_none(tiny_graph: Graph) -> None:
    choices = Space("x", methods=("l1",), min_keep=0.5).choices(tiny_graph, 8)
    small = Proposer(tiny_graph, choices, seed=0)
    total = 1
    for c in choices.values():
        total *= len(c.widths)
    seen: set[str] = set()
    for _ in range(total):
        values = small.untried(seen)
        assert values is not None
        seen.add(small.plan(values).digest)
    assert len(seen) == total
    assert small.untried(seen) is None


def test_suggest_names_what_a_user_sees_in_the_study(proposer: Proposer) -> None:
    trial = optuna.create_study().ask()
    plan = proposer.suggest(trial)
    assert in_space(proposer, plan)
    names = set(proposer.graph.groups)
    assert set(trial.params) == {f"{n}.{what}" for n in names for what in ("keep", "method")}
    assert proposer.plan(trial.params) == plan


def test_the_same_seed_proposes_the_same(tiny_graph: Graph) -> None:
    choices = Space("x", methods=METHODS).choices(tiny_graph, 4)
    parent = Candidate(0, "search", Plan({}, tiny_graph.fingerprint))
    one, two = (Proposer(tiny_graph, choices, seed=3) for _ in range(2))
    assert [one.vary(parent) for _ in range(5)] == [two.vary(parent) for _ in range(5)]
