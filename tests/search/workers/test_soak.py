"""Three hundred candidates, of which one in twenty crashes and one in fifty hangs: the books balance at the end."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from autoprune.search.candidate import Candidate
from autoprune.search.outcome import pareto
from autoprune.search.pipeline import Pipeline
from autoprune.search.workers import forked
from autoprune.search.workers.forked import Forked

from ..conftest import Open

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not forked.can_fork(), reason="no forks here")]
TRIALS, SESSIONS = 300, 3
METHODS = ("l1", "l2", "random", "taylor", "fisher", "wanda", "outgoing")  # for enough plans of a tiny net


def crashes(number: int) -> bool:
    return number % 20 == 7


def hangs(number: int) -> bool:
    return number % 50 == 33


def children() -> set[int]:
    """Processes of this one that are there, dead or alive."""
    return {int(pid) for task in Path("/proc/self/task").iterdir()
            for pid in (task / "children").read_text().split()}


def test_three_hundred_candidates_with_crashes_and_hangs(open_search: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Pipeline.evaluate

    def evaluate(self: Pipeline, number: int, *arguments: object) -> object:
        if crashes(number):
            os.kill(os.getpid(), signal.SIGSEGV)
        if hangs(number):
            signal.pause()
        return original(self, number, *arguments)  # type: ignore[arg-type]
    monkeypatch.setattr(Pipeline, "evaluate", evaluate)
    before, told, found = children(), list[int](), list[Candidate]()
    for session in range(1, SESSIONS + 1):  # resumed twice
        with open_search(budget=None, trials=TRIALS * session // SESSIONS, methods=METHODS,
                         workers=partial(Forked, count=2, limit_s=8.0)) as search:
            found = search.run(lambda p: told.append(p.last.number) if p.last is not None else None).candidates
            states = [t.state.name for t in search.study._trials()]
            kept = {int(f.name) for f in search.folder.candidates.iterdir()}
            assert "RUNNING" not in states
            assert search.workers.running == 0
            assert not list(search.folder.work.iterdir())
            assert kept == {c.number for c in pareto(found)}
    assert len(found) == len({c.number for c in found}) == TRIALS
    assert sorted(told) == [c.number for c in found]  # each was reported once
    for c in found:
        assert c.status == ("failed" if crashes(c.number) or hangs(c.number) else "ok")
        if crashes(c.number):
            assert "SIGSEGV" in str(c.reason)
        elif hangs(c.number):
            assert "longer than 8 s" in str(c.reason)
    assert sum(crashes(c.number) for c in found) >= 0.04 * TRIALS
    assert sum(hangs(c.number) for c in found) >= 0.01 * TRIALS
    assert len({c.plan.digest for c in found}) == TRIALS  # nothing twice
    assert children() <= before
