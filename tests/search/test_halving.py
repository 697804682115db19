from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest

from autoprune.search.halving import Halving
from autoprune.search.pipeline import Pipeline
from autoprune.search.space import load_space
from autoprune.search.study import Study
from autoprune.search.workers.forked import Forked, can_fork
from autoprune.search.workers.workers import Inline

from .conftest import Open

pytestmark = pytest.mark.system


def test_without_halving_nobody_looks() -> None:
    assert Halving(1, [(10.0, 0.5)] * 20).bar(10.0) is None


def test_the_bar_is_that_of_the_best_third_of_its_latency() -> None:
    looks = [(10.0, q / 10) for q in range(10)] + [(20.0, 0.95)] * 10
    halving = Halving(3, looks)
    bar = halving.bar(10.5)
    assert bar == pytest.approx(0.6)  # 0.7, 0.8 and 0.9 are above it
    assert halving.bar(20.0) == pytest.approx(0.95)
    assert halving.bar(5.0) == -math.inf  # nothing to compare with


def test_after_many_that_were_stopped_one_goes_on() -> None:
    halving = Halving(2, [(10.0, 0.9)] * 10)
    for _ in range(6):
        assert halving.bar(10.0) == 0.9
        halving.add(10.0, 0.1, stopped=True)
    assert halving.bar(10.0) == -math.inf
    halving.add(10.0, 0.1, stopped=False)
    assert (halving.bar(10.0) or 0) > -math.inf


@pytest.mark.parametrize("workers", [Inline, pytest.param(partial(Forked, count=2), marks=pytest.mark.skipif(
    not can_fork(), reason="no forks here"))])
def test_a_search_trains_what_looks_best_and_resumes(open_search: Open, workers: object,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    space = replace(load_space("default"), methods=("l1", "l2", "random"), halving=3,
                    recover={"steps": 1, "calibration_batches": 1})
    looks = iter([0.9, 0.1, 0.2, 0.8, 0.3, 0.95, 0.1] * 40)
    monkeypatch.setattr(Halving, "bar", lambda self, ms: 0.5)
    monkeypatch.setattr(Pipeline, "look", lambda self, plan: 0.9 if int(plan.digest, 16) % 3 == 0 else next(looks) / 2)
    with open_search(trials=14, space=space, workers=workers) as search:
        outcome = search.run()
        trials = search.study._trials()
        stopped = [t for t in trials if "look" in t.user_attrs and "candidate" not in t.user_attrs]
        trained = [t for t in trials if "look" in t.user_attrs and "candidate" in t.user_attrs]
        assert len(outcome.candidates) == 14
        assert stopped
        assert all(t.user_attrs["look"][1] < 0.5 and t.state.name == "FAIL" for t in stopped)
        assert all("untrained" in t.user_attrs["skipped"] for t in stopped)
        assert trained
        assert all(t.user_attrs["look"][1] >= 0.5 for t in trained)
        first = [c for c in outcome.candidates if c.origin.startswith(("control", "start"))]
        assert all(t.number not in {c.number for c in first} for t in (*stopped, *trained))  # those are always trained
        assert not list(search.folder.work.iterdir())
        looked = search.study.looks()
        assert len({digest for _, _, digest in looked}) == len(looked)  # none was looked at twice
    with open_search(trials=15, space=space) as search:
        assert isinstance(search.study, Study)
        assert search.study.looks() == looked
        assert len(search.run().candidates) == 15


def test_looks_that_are_no_number_set_no_bar() -> None:
    halving = Halving(2, [(10.0, -math.inf)] * 10)
    assert halving.bar(10.0) == -math.inf
    for quality in (0.2, 0.4, 0.6):
        halving.add(10.0, quality, stopped=False)
    assert halving.bar(10.0) == pytest.approx(0.4)
