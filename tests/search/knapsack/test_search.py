"""A whole search by the knapsack sampler: its scan, its starts, and what a resumed search remembers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoprune.errors import ConfigError
from autoprune.graph.plan import Plan
from autoprune.search.damage import damage_of
from autoprune.search.knapsack.past import NOTE
from autoprune.search.propose import DENSE

from ..conftest import Open

pytestmark = pytest.mark.system


def test_a_search_meets_its_budget_and_scans_once(open_search: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_search(trials=6, sampler="knapsack") as search:
        first = search.run()
        curves = search.study.attributes["knapsack"]["curves"]
    origins = [c.origin for c in first.candidates]
    assert origins == [
        DENSE, "start: at budget, l1", "start: at 0.85 of the budget", "start: at 0.7 of the budget",
        "start: at 0.5 of the budget", "control: uniform at budget"]
    assert len(curves) >= 2
    for c in curves.values():
        assert c["damage"][-1] == c["saved"][-1] == 0.0
        assert c["damage"] == sorted(c["damage"], reverse=True)
        assert c["damage"][0] > 0

    def refuse(*_: object) -> None:
        raise AssertionError("scanned again")

    monkeypatch.setattr("autoprune.search.begin.scan", refuse)
    with open_search(trials=14, sampler="knapsack") as search:
        second = search.run()
    assert len(second.candidates) == 14
    [budget_ms] = second.budgets_ms
    starts = [c for c in second.candidates if c.origin.startswith("start: at budget")]
    assert starts
    assert all(c.ms <= budget_ms for c in starts)
    assert any(c.origin == "search" for c in second.candidates)


def test_a_search_for_a_whole_front_is_left_to_the_sampler_after_two_controls(open_search: Open) -> None:
    with open_search(trials=6, sampler="knapsack", budget=None) as search:
        done = search.run()
        asked = [t.system_attrs.get(NOTE, {}).get("arm") for t in search.study._trials()]
    assert [c.origin for c in done.candidates] == [DENSE, "control: uniform at budget", *["search"] * 4]
    assert asked == [None, None, *["start"] * 4]
    shares = sorted(c.ms / done.dense.ms for c in done.candidates[2:])
    assert shares[-1] - shares[0] > 0.2  # over the range


def test_untrained_plans_are_looked_at_before_one_is_proposed(open_search: Open) -> None:
    with open_search(trials=12, sampler="knapsack") as search:
        done = search.run()
        looks = [look for t in search.study._trials() for look in t.system_attrs.get(NOTE, {}).get("looks", [])]
    assert any(c.origin == "search" for c in done.candidates)
    assert looks
    assert all(quality <= 0 and ms > 0 for _, _, _, quality, ms in looks)
    assert done.seconds["look"] > 0


def test_looks_that_fail_end_no_search(open_search: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> float:
        raise RuntimeError("no")

    monkeypatch.setattr("autoprune.search.pipeline.Pipeline.look", fail)
    with open_search(trials=12, sampler="knapsack") as search:
        assert len(search.run().candidates) == 12


def test_damage_is_measured_against_what_the_dense_model_has(open_search: Open) -> None:
    with open_search(trials=1, sampler="knapsack") as search:
        example = search.pipeline.calibration()[0]
        nothing = damage_of(search.pipeline, Plan(), example)
        assert 0 <= nothing < 0.1
        half = Plan.uniform(search.graph, 0.25)
        assert damage_of(search.pipeline, half, example) > nothing


def test_a_study_that_was_begun_with_other_widths_is_refused(open_search: Open) -> None:
    """Its curves would price one width as another."""
    with open_search(trials=3, sampler="knapsack") as search:
        search.run()
        space = replace(search.space, min_keep=0.5)
    with open_search(trials=6, sampler="knapsack", space=space) as search, \
            pytest.raises(ConfigError, match="other widths"):
        search.run()
