"""Candidates are measured again while the search can still aim lower."""

from __future__ import annotations

from typing import Any

import pytest

from autoprune.devices.latency import Latency
from autoprune.errors import DeviceError
from autoprune.graph.plan import Cut, Plan
from autoprune.search.candidate import Candidate
from autoprune.search.repeats import Repeats
from autoprune.tasks.score import Score


class FakeStudy:
    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}

    def note(self, key: str, value: Any) -> None:
        self.attributes[key] = value

    def candidates(self) -> list[Candidate]:
        return candidates(100)


def candidates(count: int) -> list[Candidate]:
    """All on the front: 10, 11, 12 … ms."""
    return [Candidate(i, "", Plan({"g": Cut(i + 1, "l1")}),
                      score=Score("accuracy", 0.5 + 0.01 * i, "validation", 100, 0.0),
                      latency=Latency(ms, ms, ms, "p50", "measured", "cpu", "onnxruntime", "1", 1, 60))
            for i, ms in enumerate(10.0 + i for i in range(count))]


def repeats(study: FakeStudy, factor: float, asked: list[int]) -> Repeats:
    def again_ms(plan: Plan) -> list[float]:
        ms = 9.0 + plan.cuts["g"].keep
        asked.append(round(ms))
        return [ms, factor * ms, 0.9 * ms]
    fake: Any = study
    return Repeats(fake, again_ms)


def test_of_each_budget_in_turn_what_is_nearest_to_it() -> None:
    asked: list[int] = []
    study = FakeStudy()
    found = repeats(study, 1.2, asked)
    assert found.excess(14.0) == 1.0
    for count in range(1, 100):
        before = len(asked)
        assert found.look(candidates(count), [14.0, 30.0]) == (len(asked) > before)
    assert asked == [14, 30, 13, 29, 12, 28]  # after 12, 24 … candidates, six in all
    assert found.excess(14.0) == pytest.approx(1.2)
    assert repeats(study, 1.0, asked).excess(14.0) == pytest.approx(1.2)  # kept with the study


def test_a_device_that_repeats_itself_is_left_alone() -> None:
    asked: list[int] = []
    found = repeats(FakeStudy(), 1.01, asked)
    for count in range(1, 60):
        found.look(candidates(count), [14.0])
    assert asked == [14, 13]
    assert found.excess(14.0) == pytest.approx(1.01)


def test_each_budget_by_what_was_measured_near_it() -> None:
    study = FakeStudy()
    study.attributes["verified_ms"] = {"3": [13.0, 1.2 * 13], "19": [1.1 * 29, 29.0], "18": [0.95 * 28], "2": [108.0],
                                       "1": [11.0]}
    found = repeats(study, 1.0, [])
    assert found.excess(14.0) == pytest.approx(1.2)
    assert found.excess(30.0) == pytest.approx((1.1 + 0.95) / 2)
    assert found.excess(100.0) == pytest.approx(1.1)  # nothing is near it: all count
    study.attributes["verified_ms"] = {"3": [9.0 * 13]}
    assert found.excess(14.0) == pytest.approx(1.3)  # at most
    study.attributes["verified_ms"] = {"3": [0.8 * 13]}
    assert found.excess(14.0) == 1.0  # at least


@pytest.mark.parametrize("fails", [True, False])
def test_where_nothing_can_be_measured_it_is_asked_once(fails: bool) -> None:
    asked: list[int] = []

    def again_ms(_: Plan) -> list[float]:
        asked.append(1)
        if fails:
            raise DeviceError("gone", fix="look for it")
        return []
    fake: Any = FakeStudy()
    found = Repeats(fake, again_ms)
    assert not any(found.look(candidates(count), [14.0]) for count in range(60))
    assert asked == [1]


def test_nothing_is_under_the_budget() -> None:
    asked: list[int] = []
    assert not repeats(FakeStudy(), 1.2, asked).look(candidates(20), [5.0])
    assert not asked
