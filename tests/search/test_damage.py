"""Damage of untrained plans: what is no number, and what fails."""

from __future__ import annotations

import math

import pytest
from tiny import CountingTask

from autoprune.errors import ConfigError, ModelError
from autoprune.graph.graph import Graph
from autoprune.graph.plan import Cut, Plan
from autoprune.search import damage as module
from autoprune.search.damage import damages
from autoprune.search.pipeline import Pipeline
from autoprune.search.space import load_space


@pytest.fixture
def pipeline(task: CountingTask, tiny_graph: Graph) -> Pipeline:
    return Pipeline(task, tiny_graph, load_space("default"))


@pytest.fixture
def plans(tiny_graph: Graph) -> dict[str, Plan]:
    return {name: Plan({name: Cut(1, "l1")}) for name in tiny_graph.groups}


def broken(monkeypatch: pytest.MonkeyPatch, what: dict[str, float | Exception]) -> None:
    """What plans are found to do instead, by the group that they cut."""
    original = module.damage_of

    def damage_of(pipeline: Pipeline, plan: Plan, example: object) -> float:
        found = what.get(next(iter(plan.cuts), ""))
        if found is None:
            return original(pipeline, plan, example)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(module, "damage_of", damage_of)


def test_keeping_everything_does_none_and_one_unit_of_a_group_some(pipeline: Pipeline, plans: dict[str, Plan]) -> None:
    found = damages(pipeline, {"nothing": Plan(), **plans})
    assert found.pop("nothing") == 0
    assert all(damage > 0 for damage in found.values())


@pytest.mark.parametrize("wrong", [math.nan, math.inf, ModelError("no"), RuntimeError("no")])
def test_what_gives_no_number_is_as_bad_as_the_worst(pipeline: Pipeline, plans: dict[str, Plan],
                                                     monkeypatch: pytest.MonkeyPatch, wrong: float | Exception) -> None:
    whole = damages(pipeline, plans)
    least = min(whole, key=lambda name: whole[name])
    broken(monkeypatch, {least: wrong})
    found = damages(pipeline, plans)
    assert found.pop(least) == max(found.values())
    assert found == {name: damage for name, damage in whole.items() if name != least}


def test_if_all_fail_that_is_said(pipeline: Pipeline, plans: dict[str, Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, {name: ModelError(f"no {name}") for name in plans})
    with pytest.raises(ModelError, match=list(plans)[-1]):
        damages(pipeline, plans)
    broken(monkeypatch, dict.fromkeys(plans, math.nan))
    assert set(damages(pipeline, plans).values()) == {1.0}


def test_a_wrong_setting_is_raised_at_once(pipeline: Pipeline, plans: dict[str, Plan], monkeypatch: pytest.MonkeyPatch
                                           ) -> None:
    broken(monkeypatch, {next(iter(plans)): ConfigError("no such method")})
    with pytest.raises(ConfigError, match="no such method"):
        damages(pipeline, plans)
