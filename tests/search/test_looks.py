"""Looks through the workers: what they tell, what ends meanwhile, what fails, and how many there is time for."""

from __future__ import annotations

import math
import os
from functools import partial
from typing import Any

import pytest

from autoprune.errors import ConfigError
from autoprune.graph.plan import Plan
from autoprune.search.begin import begin
from autoprune.search.candidate import Candidate
from autoprune.search.knapsack.past import NOTE
from autoprune.search.looks import Looks
from autoprune.search.pipeline import Pipeline
from autoprune.search.propose import DENSE
from autoprune.search.workers import forked
from autoprune.search.workers.forked import Forked
from autoprune.search.workers.job import Done, Job
from autoprune.search.workers.workers import Inline, Workers

from .conftest import Open

forks = pytest.mark.skipif(not forked.can_fork(), reason="forks are for Linux without an accelerator")


class Some(Workers):
    """So many slots, of which some are taken; `ends`: what `wait` returns before the looks, which see `quality`."""

    def __init__(self, slots: int = 1, taken: int = 0, quality: float | None = 0.5, ends: tuple[Done, ...] = ()):
        self._slots, self._taken, self._quality, self._ends = slots, taken, quality, list(ends)
        self.jobs: list[Job] = []
        self.most = 0

    room = property(lambda self: self._slots - self.running)
    running = property(lambda self: self._taken + len(self.jobs))

    def start(self, job: Job) -> None:
        assert self.room > 0
        self.jobs.append(job)
        self.most = max(self.most, len(self.jobs))

    def wait(self, until_s: float = math.inf) -> list[Done]:
        if self._ends:
            self._taken -= 1
            return [self._ends.pop()]
        return [Done(self.jobs.pop().number, None, look=self._quality)] if self.jobs else []

    def cancel(self) -> None:
        self.jobs.clear()


def looks_with(search: Any, workers: Workers) -> Looks:
    return Looks(search.pipeline, workers, search.folder.work)


def plans_of(search: Any, *ratios: float) -> list[Plan]:
    return [search.proposer.plan(search.proposer.uniform(r, "l1")) for r in ratios]


def at(search: Any, workers: Workers, *ratios: float, until_s: float = math.inf) -> list[float]:
    plans = plans_of(search, *ratios)
    return looks_with(search, workers).at(plans, search.latencies.dense(None), lambda: until_s)


@pytest.mark.parametrize("make", [Inline, pytest.param(partial(Forked, count=2), marks=forks)])
def test_any_worker_says_what_the_pipeline_says(open_search: Open, make: Any) -> None:
    with open_search(workers=make) as search:
        seen = at(search, search.workers, 0.75, 0.5, 0.25)
        assert seen == [search.pipeline.look(plan) for plan in plans_of(search, 0.75, 0.5, 0.25)]
        assert not list(search.folder.work.iterdir())
        assert search.workers.running == 0


@forks
def test_a_look_that_kills_its_process_is_no_number_and_the_others_are(open_search: Open,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    original = Pipeline.look

    def look(self: Pipeline, plan: Plan, *samples: int) -> float:
        if plan == bad:
            os.abort()
        return original(self, plan, *samples)

    with open_search(workers=partial(Forked, count=2)) as search:
        bad = plans_of(search, 0.5)[0]
        monkeypatch.setattr(Pipeline, "look", look)
        first, second, third = at(search, search.workers, 0.75, 0.5, 0.25)
    assert math.isnan(second)
    assert math.isfinite(first + third)


def test_a_wrong_setting_ends_the_search(open_search: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(*_: object) -> float:
        raise ConfigError("no such metric")

    monkeypatch.setattr(Pipeline, "look", look)
    with open_search(trials=12, sampler="knapsack") as search, pytest.raises(ConfigError, match="no such metric"):
        search.run()


def test_candidates_that_end_while_one_looks_survive_an_interrupt(open_search: Open,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    with open_search(trials=12, sampler="knapsack") as search:
        wait = search.workers.wait

        def interrupted(until_s: float = math.inf) -> list[Done]:
            done = wait(until_s)
            if not any(d.number < 0 for d in done):
                return done
            search.looks.ended.append(last)
            raise KeyboardInterrupt

        monkeypatch.setattr(search.workers, "wait", interrupted)
        last = Done(-1, None)
        record, seen = search._record, []
        monkeypatch.setattr(search, "_record", lambda done: seen.append(done) or record(done))
        assert search.run().interrupted
    assert seen[-1] is last


def test_no_job_starts_without_room(open_search: Open) -> None:
    """Looks that ran out of memory have left less of it."""
    with open_search(trials=3) as search:
        begin(search)
        search.workers = workers = Some(slots=1, taken=1, ends=(Done(-7, None),))
        search._next()
        assert [job.origin for job in workers.jobs] == [DENSE]
        assert [done.number for done in search.looks.ended] == [-7]


def test_candidates_that_end_meanwhile_are_kept_for_the_search(open_search: Open) -> None:
    done = Done(3, Candidate(3, "search", Plan(), "failed", "x"))
    with open_search() as search:
        looks = looks_with(search, Some(slots=2, taken=1, ends=(done,)))
        assert looks.at(plans_of(search, 0.5, 0.25), search.latencies.dense(None), lambda: math.inf) == [0.5, 0.5]
    assert looks.ended == [done]


def test_all_workers_that_have_room_look(open_search: Open) -> None:
    with open_search() as search:
        workers = Some(slots=5, taken=2)
        assert at(search, workers, *(0.1 * i for i in range(1, 8))) == [0.5] * 7
    assert workers.most == 3


def test_nothing_is_waited_for_when_the_time_is_up(open_search: Open) -> None:
    with open_search() as search:
        assert all(map(math.isnan, at(search, Some(), 0.5, 0.25, until_s=0.0)))


def test_there_are_as_many_as_are_over_before_another_worker_is_done(open_search: Open) -> None:
    with open_search() as search:
        alone, pair, many = (looks_with(search, Some(slots)) for slots in (1, 2, 40))
        assert (alone.count, pair.count) == (6, 2)  # nothing is known yet
        for looks in (pair, many):
            looks._look_s = 0.5 / 0.97
            looks.heard(Candidate(1, "", Plan(), seconds={"total": 900.0}))  # dense: it was not trained
            looks.heard(Candidate(1, "", plans_of(search, 0.5)[0]))  # another search's: nor was it
            assert looks.count == 2
            looks.heard(Candidate(1, "", plans_of(search, 0.5)[0], seconds={"total": 5.1}))
        assert (pair.count, many.count) == (5, 0)
        for _ in range(200):
            many.heard(Candidate(1, "", plans_of(search, 0.5)[0], seconds={"total": 5.1}))
        assert many.count > 0  # perhaps it takes less by now


@forks
def test_a_search_by_several_processes_looks_and_accounts_for_every_candidate(open_search: Open) -> None:
    with open_search(trials=14, sampler="knapsack", workers=partial(Forked, count=2)) as search:
        done = search.run()
        looks = [look for t in search.study._trials() for look in t.system_attrs.get(NOTE, {}).get("looks", [])]
        assert "RUNNING" not in {t.state.name for t in search.study._trials()}
        assert not list(search.folder.work.iterdir())
    assert looks
    assert len(done.candidates) == 14
    assert all(c.status == "ok" for c in done.candidates)
