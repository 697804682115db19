"""After the loop: the test split, read once, for the dense model and the front."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from autoprune.search.candidate import Candidate
from autoprune.search.run import Outcome, Search, pareto
from autoprune.tasks.score import Score

if TYPE_CHECKING:
    from autoprune.front.front import Front, Point

__all__ = ["recommend", "score_on_test"]


def score_on_test(search: Search, outcome: Outcome, on_step: Callable[[int, int], None] | None = None) -> Outcome:
    """The same outcome with test scores on the dense model and on the front.

    Scores are kept with the study, so that a resumed search reads the test split only for points that are new.
    """
    from dataclasses import replace

    known = {int(k): Score.from_json(v) for k, v in search.study.attributes.get("test_scores", {}).items()}
    wanted = {c.number for c in pareto(outcome.candidates)}
    if outcome.dense is not None:
        wanted.add(outcome.dense.number)
    scored: list[Candidate] = []
    for step, candidate in enumerate(outcome.candidates):
        if candidate.number in wanted:
            if candidate.number not in known:
                known[candidate.number] = _score(search, candidate)
                search.study.note("test_scores", {str(k): v.to_json() for k, v in known.items()})
            candidate = candidate.with_test(known[candidate.number])
        scored.append(candidate)
        if on_step is not None:
            on_step(step + 1, len(outcome.candidates))
    dense = outcome.dense and next(c for c in scored if c.number == outcome.dense.number)
    return replace(outcome, candidates=scored, dense=dense)


def recommend(search: Search, front: Front) -> Point:
    """The point that `front.pick()` gives; on a measured device it is measured again, longer, in turns with the dense
    model, and a point that turns out to be over the budget is passed over for the next.

    Raises `BudgetError` when no point is left.
    """
    from dataclasses import replace

    from autoprune.devices.profiler import MeasuredProfiler

    if front.budget_ms is None or not isinstance(search.profiler, MeasuredProfiler):
        return front.pick()
    known: dict[str, dict[str, float]] = dict(search.study.attributes.get("verified", {}))
    # only the front's own points: what they dominated has no weights any more
    remaining = replace(front, candidates=[p.candidate for p in front.points])
    while True:
        point = remaining.pick()
        key = str(point.number)
        if key not in known:
            with search.pipeline.clock.time("measure"):
                ratio = search.profiler.ratio(search.pipeline.onnx(point.load()))
            known[key] = {"ratio": ratio, "ms": ratio * front.dense.ms}
            search.study.note("verified", known)
        if known[key]["ms"] <= front.budget_ms:
            return point
        rest = [c for c in remaining.candidates if c.number != point.number]
        remaining = replace(remaining, candidates=rest)


def _score(search: Search, candidate: Candidate) -> Score:
    from autoprune.graph.module import load_module

    with search.pipeline.clock.time("evaluate"):
        model = load_module(search.folder.candidate(candidate.number)) if candidate.plan.cuts else search.pipeline.dense
        return search.task.evaluate(model, "test")
