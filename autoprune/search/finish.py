"""After the loop: the recommended point is tuned for longer, then the test split is read, once, for the front."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from autoprune.errors import BudgetError, TaskError
from autoprune.search.candidate import Candidate, is_complete, load_weights
from autoprune.search.outcome import Outcome, pareto
from autoprune.search.run import Search
from autoprune.tasks.score import Score

if TYPE_CHECKING:
    from autoprune.front.front import Front, Point

__all__ = ["current", "recommended", "score_on_test", "tune"]

_SURE = 0.99  # of a budget: what measures nearer to it may well be over it the next time


def score_on_test(search: Search, outcome: Outcome, say: Callable[[str], None] = lambda _: None) -> Outcome:
    """The same outcome with test scores on the dense model and on the front.

    Scores are kept with the study, so that a resumed search reads the test split only for points that are new; `say`
    hears of it. A point that cannot be scored there has none, which it hears, too.
    """
    known, shown = dict(search.study.attributes.get("test_scores", {})), _shown(outcome)
    new = [c for c in outcome.candidates if c.number in shown and str(c.number) not in known]
    if new:
        say("reading the test split for the front")
    for candidate in new:
        try:
            known[str(candidate.number)] = _score(search, candidate).to_json()
        except TaskError as error:
            say(f"trial {candidate.number} has no test score: {error.message}")
        search.study.note("test_scores", known)
    return current(search, outcome)


def _shown(outcome: Outcome) -> set[int]:
    """Numbers of the front's candidates and of the dense model."""
    dense = set() if outcome.dense is None else {outcome.dense.number}
    return dense | {c.number for c in pareto(outcome.candidates)}


def current(search: Search, outcome: Outcome) -> Outcome:
    """The outcome with what became of its candidates after they were evaluated, as far as the study knows: scores of
    those that were tuned, test scores of the front, repeated measurements.
    """
    tuned, tests, again_ms = (search.study.attributes.get(key, {}) for key in ("tuned", "test_scores", "verified_ms"))

    def after_tuning(c: Candidate) -> Candidate:
        found = tuned.get(str(c.number))
        if found is not None and found["steps"] > c.steps:
            search.folder.settle_tuned(c.number)
        if found is None or not search.folder.candidate(c.number).is_dir():
            return c
        return replace(c, score=Score.from_json(found["score"]), steps=found["steps"])

    outcome = replace(outcome, candidates=[after_tuning(c) for c in outcome.candidates])
    shown = _shown(outcome)

    def with_rest(c: Candidate) -> Candidate:
        test = tests.get(str(c.number)) if c.number in shown else None
        return replace(c, test=test and Score.from_json(test), again_ms=tuple(again_ms.get(str(c.number), ())))

    candidates = [with_rest(c) for c in outcome.candidates]
    dense = outcome.dense and next(c for c in candidates if c.number == outcome.dense.number)
    return replace(outcome, candidates=candidates, dense=dense)


def tune(search: Search, outcome: Outcome, number: int, say: Callable[[str], None] = lambda _: None) -> Outcome:
    """Fine-tune the recommended point for twice the steps of a candidate, and `say` so; kept when the search split
    agrees.

    Its weights are replaced, and the decision is kept with the study, so that it is made once.
    """
    tuned = dict(search.study.attributes.get("tuned", {}))
    candidate = next(c for c in outcome.candidates if c.number == number)
    untuned = candidate.steps == search.pipeline.settings.steps > 0  # one taken over may be tuned already
    if str(number) in tuned or candidate.plan.is_dense or not untuned:
        return outcome
    say("fine-tuning the recommended model for longer")
    with search.pipeline.clock.time("train"):
        model = load_weights(search.folder.candidate(number))
        search.pipeline.tune(model)
    int8 = search.pipeline.int8(model)
    score = search.pipeline.score(model, int8, "validation")
    better = replace(candidate, score=score, steps=3 * candidate.steps)
    if better.quality < candidate.quality:
        better = candidate
    else:
        search.folder.save_tuned(number, model, int8)
        tests = search.study.attributes.get("test_scores", {})
        search.study.note("test_scores", {k: v for k, v in tests.items() if k != str(number)})
    assert better.score is not None
    tuned[str(number)] = {"score": better.score.to_json(), "steps": better.steps}
    search.study.note("tuned", tuned)  # from here on the tuned weights are the candidate's
    return current(search, outcome)


def damaged(front: Front) -> list[int]:
    """Numbers of the points whose weights are damaged or gone."""
    return [p.number for p in front.points if not is_complete(p.folder, p.candidate.plan.precision)]


def recommended(search: Search, front: Front) -> list[int | None]:
    """Number of the point that is recommended for each budget (for the one `front.pick()` without any), in their order;
    None for a budget that nothing meets. Points that are `damaged` are passed over.
    """
    out: list[int | None] = []
    lost = damaged(front)  # only the front's own points: what they dominated has no weights any more
    front = replace(front, candidates=[p.candidate for p in front.points if p.number not in lost])
    for text, ms in front.budgets_ms.items() or [(front.budget, front.budget_ms)]:
        try:
            out.append(_recommend(search, replace(front, budget=text, budget_ms=ms)).number)
        except BudgetError:
            out.append(None)
    return out


def _recommend(search: Search, front: Front) -> Point:
    """The point that `front.pick()` gives; where the device can be measured (a calibrated one, too) it is measured
    again, longer, and a point that turns out to be over the budget is passed over for the next: each time it was
    measured it has to be under it, or, where no point is, in the middle of these.

    Raises `BudgetError` when no point is left.
    """
    if front.budget_ms is None:
        return front.pick()
    try:
        return _recommend_by(search, front, max)
    except BudgetError:
        return _recommend_by(search, front, median)


def _recommend_by(search: Search, front: Front, of: Callable[[list[float]], float]) -> Point:
    assert front.budget_ms is not None
    known: dict[str, list[float]] = dict(search.study.attributes.get("verified_ms", {}))
    while True:
        point = front.pick()
        key = str(point.number)
        if key not in known:
            with search.pipeline.clock.time("measure"):
                onnx = search.folder.int8(point.number) or search.pipeline.onnx(point.load())
                again_ms = search.profiler.measured_again(onnx, front.dense.ms)
            if not again_ms:  # a prediction stays one
                return point
            known[key] = again_ms
            search.study.note("verified_ms", known)
        if of(known[key]) <= _SURE * front.budget_ms:
            return point
        front = replace(front, candidates=[c for c in front.candidates if c.number != point.number])


def _score(search: Search, candidate: Candidate) -> Score:
    dense = candidate.plan.is_dense
    model = search.pipeline.dense if dense else load_weights(search.folder.candidate(candidate.number))
    return search.pipeline.score(model, search.folder.int8(candidate.number), "test")
