"""`Front`: the points that are worth choosing from, and choosing one."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.devices.latency import Latency
from autoprune.errors import BudgetError, ConfigError
from autoprune.search.candidate import INT8_FILE, Candidate, load_weights
from autoprune.search.outcome import pareto
from autoprune.tasks.score import Score
from autoprune.units import parse_budget, parse_drop

if TYPE_CHECKING:
    from autoprune.graph.module import PrunedModule

__all__ = ["Front", "Point", "load_front"]

SCHEMA = 1


@dataclass(frozen=True)
class Point:
    """One point of a front: the candidate, and where its weights are."""

    candidate: Candidate
    run: Path

    @property
    def number(self) -> int:
        return self.candidate.number

    @property
    def latency(self) -> Latency:
        assert self.candidate.latency is not None  # points are successful candidates
        return self.candidate.latency

    @property
    def score(self) -> Score:
        """On the test split when it was read, otherwise on the search split."""
        score = self.candidate.test or self.candidate.score
        assert score is not None
        return score

    @property
    def folder(self) -> Path:
        return self.run / "candidates" / f"{self.number:04d}"

    @property
    def int8(self) -> Path | None:
        """The ONNX model in int8 that was scored; None for a point in fp32."""
        return self.folder / INT8_FILE if self.candidate.plan.precision == "int8" else None

    def load(self) -> PrunedModule:
        """The torch model, in evaluation mode and in fp32 (also of a point in int8)."""
        return load_weights(self.folder)


@dataclass(frozen=True)
class Front:
    """The result of a search.

    candidates: all of them, in order; points: the ones that no other dominates on the search split, by latency;
    dense: the model that came in; budget_ms: the budget in milliseconds, if there was one; recommended: number of the
    point that the search recommends, None when nothing meets the budget; further: the same for every budget after the
    first, by its text; notes: what has to be known of the data before the scores are trusted.
    """

    run: Path
    task: str
    metric: str
    higher_is_better: bool
    device: str
    budget: str | None
    budget_ms: float | None
    max_drop: str | None
    dense: Candidate
    candidates: list[Candidate]
    recommended: int | None = None
    further: Mapping[str, int | None] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def points(self) -> list[Point]:
        return [Point(c, self.run) for c in pareto(self.candidates)]

    @property
    def budgets_ms(self) -> dict[str, float]:
        """All budgets of the search in milliseconds, by their text."""
        first = {} if self.budget is None or self.budget_ms is None else {self.budget: self.budget_ms}
        return first | {text: parse_budget(text).resolve_ms(self.dense.ms) for text in self.further}

    @property
    def met(self) -> bool:
        """Whether there is a recommended point for every budget."""
        return None not in (self.recommended, *self.further.values())

    def drop(self, candidate: Candidate) -> float:
        """How much worse than the dense model, in the metric's own units, on the search split; negative: better."""
        return self.dense.quality - candidate.quality

    def test_drop(self, candidate: Candidate) -> float:
        """The same on the test split, where both were scored there."""
        if candidate.test is None or self.dense.test is None:
            return self.drop(candidate)
        return replace(self.dense, score=self.dense.test).quality - replace(candidate, score=candidate.test).quality

    @property
    def selection_gap(self) -> float | None:
        """How much better the front looks on the split that it was chosen on than on the test split, in the metric's
        own units: the mean over its cut points of search score − test score, less the dense model's own difference
        (the splits may not be equally hard). What is chosen as the best of many was partly lucky ("winner's curse");
        None as long as the test split was not read.
        """
        def shrinks(c: Candidate) -> float | None:
            if c.score is None or c.test is None:
                return None
            return c.quality - replace(c, score=c.test).quality

        dense = shrinks(self.dense)
        gaps = [gap for p in self.points if not p.candidate.plan.is_dense and (gap := shrinks(p.candidate)) is not None]
        return None if dense is None or not gaps else statistics.fmean(gaps) - dense

    def faster_as_good(self, than: Candidate) -> Candidate | None:
        """The fastest point whose score on the search split is within one standard error of this one's, where that is
        at least a twentieth faster (the one-standard-error rule of Breiman et al. 1984, of latency instead of size).
        """
        assert than.score is not None
        least, ms = than.quality - than.score.standard_error, 0.95 * than.ms
        return next((c for c in pareto(self.candidates) if c.ms <= ms and c.quality >= least), None)

    def pick(self, budget: str | None = None, max_drop: str | None = None, *, knee: bool = False,
             trial: int | None = None) -> Point:
        """Choose one point.

        budget: the best metric within it (`20ms`, `0.5x`); max_drop: the fastest that loses no more than this against
        the dense model (`1pp`); both: the fastest within both; knee: the point furthest from the line between the two
        ends of the front; trial: that candidate. With nothing given, the (first) budget of the search, or the knee.
        knee and trial go with nothing else.

        Raises `BudgetError` with the closest point and the floor when no point fits, `ConfigError` for a bad trial.
        """
        ways = [n for n, given in (("budget or max_drop", budget is not None or max_drop is not None), ("knee", knee),
                                   ("trial", trial is not None)) if given]
        if len(ways) > 1:
            raise ConfigError("a point is picked in one way at a time", given=" and ".join(ways),
                              allowed="budget and max_drop (also both), or knee, or trial", fix="leave all but one out")
        points = self.points
        if trial is not None:
            return self._trial(trial)
        if budget is None and max_drop is None and not knee:
            budget, max_drop = self.budget, self.max_drop
        if not points:
            raise BudgetError("no candidate succeeded, there is nothing to pick", given=str(self.run),
                              fix="autoprune report RUN shows the reasons")
        if budget is None and max_drop is None:
            return _knee(points)
        fitting = points
        limit = None
        if budget is not None:
            asked = parse_budget(budget)
            known = {p.latency.percentile for p in points} if "@" in budget else set()
            if known - {asked.percentile}:
                raise ConfigError("the latencies of this search are of another percentile", given=budget,
                                  allowed=", ".join(sorted(known)), fix=f"autoprune search --budget {budget}")
            limit = asked.resolve_ms(self.dense.ms)
            fitting = [p for p in fitting if p.candidate.ms <= limit]
        allowed = parse_drop(max_drop) if max_drop is not None else None
        if allowed is not None:
            fitting = [p for p in fitting if self.drop(p.candidate) <= allowed + 1e-12]
        if not fitting:
            raise self._nothing_fits(points, budget, limit, max_drop)
        if max_drop is not None:
            return min(fitting, key=lambda p: p.candidate.ms)
        return max(fitting, key=lambda p: (p.candidate.quality, -p.candidate.ms))

    def _trial(self, trial: int) -> Point:
        found = next((c for c in self.candidates if c.number == trial), None)
        numbers = ", ".join(str(p.number) for p in self.points)
        if found is None or found.status != "ok":
            why = "there is no such trial" if found is None else f"it failed: {found.reason}"
            raise ConfigError(f"trial {trial} cannot be picked: {why}", given=trial, allowed=f"on the front: {numbers}",
                              fix=f"autoprune front {self.run}")
        point = Point(found, self.run)
        if not point.folder.is_dir():
            raise ConfigError(f"the weights of trial {trial} were not kept: other candidates are better and faster",
                              given=trial, allowed=f"on the front: {numbers}", fix=f"autoprune pick {self.run} --knee")
        return point

    def _nothing_fits(self, points: list[Point], budget: str | None, limit: float | None,
                      max_drop: str | None) -> BudgetError:
        floor = min(points, key=lambda p: p.candidate.ms)
        failed = [c for c in self.candidates if c.status == "failed"]
        if failed and all(c.plan.is_dense for c in self.candidates if c.status == "ok"):
            return BudgetError("no candidate meets the budget: all pruned ones failed",
                               given=f"{len(failed)} failed; the last: {failed[-1].reason}",
                               fix=f"autoprune report {self.run} shows the reasons")
        over = [p for p in points if limit is None or p.candidate.ms > limit]
        closest = min(over or points, key=lambda p: p.candidate.ms)
        asked = " and ".join(x for x in (f"budget {budget}" if budget else "",
                                         f"at most {max_drop} below dense" if max_drop else "") if x)
        if all(c.plan.is_dense for c in self.candidates):
            return BudgetError("no pruned model was evaluated, so nothing is known of " + asked,
                               given=f"{len(self.candidates)} candidate, the dense model: {floor.latency}",
                               fix="a longer --timeout, or more --trials; the same command goes on")
        return BudgetError(
            "no candidate meets " + asked, given=f"closest: trial {closest.number}, {closest.latency}, {closest.score}",
            allowed=f"the floor found for this model on {self.device} is {floor.latency} (trial {floor.number})",
            fix=", ".join([*(["a larger budget"] if budget else []), *(["a larger --max-drop"] if max_drop else []),
                           "more --trials", "a space with a smaller min_keep, or a smaller model"]))

    def hypervolume(self, reference: tuple[float, float]) -> float:
        """Area between the front and `reference` = (worst metric, longest latency in ms), in metric × ms; points
        beyond the reference count nothing (Zitzler & Thiele 1999).
        """
        worst, longest = reference
        floor = worst if self.higher_is_better else -worst
        area, best = 0.0, floor
        for p in self.points:
            if p.candidate.ms < longest and p.candidate.quality > best:
                area += (longest - p.candidate.ms) * (p.candidate.quality - best)
                best = p.candidate.quality
        return area

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA, "task": self.task, "metric": self.metric, "higher_is_better": self.higher_is_better,
            "device": self.device, "budget": self.budget, "budget_ms": self.budget_ms, "max_drop": self.max_drop,
            "recommended": self.recommended, "further": dict(self.further), "dense": self.dense.to_json(),
            "points": [p.number for p in self.points], "candidates": [c.to_json() for c in self.candidates],
            "selection_gap": self.selection_gap, "seconds": dict(self.seconds), "environment": dict(self.environment),
            "settings": dict(self.settings), "groups": dict(self.groups), "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], run: str | os.PathLike[str]) -> Front:
        if data.get("schema") != SCHEMA:
            raise ConfigError("front.json was written by another version of autoprune", given=data.get("schema"),
                              allowed=f"schema {SCHEMA}", fix="use the version that wrote it")
        try:
            return cls._from_json(data, run)
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError("front.json is not complete", given=f"{type(error).__name__}: {error}",
                              fix="run the search again, it resumes and writes it anew") from error

    @classmethod
    def _from_json(cls, data: Mapping[str, Any], run: str | os.PathLike[str]) -> Front:
        return cls(Path(run), data["task"], data["metric"], data["higher_is_better"], data["device"], data["budget"],
                   data["budget_ms"], data["max_drop"], Candidate.from_json(data["dense"]),
                   [Candidate.from_json(c) for c in data["candidates"]], data["recommended"], data.get("further", {}),
                   data["seconds"], data["environment"], data["settings"], data["groups"], tuple(data.get("notes", ())))


def load_front(run: str | os.PathLike[str]) -> Front:
    """Read the front of a finished (or interrupted) search from its run folder."""
    path = Path(run) / "front.json"
    if not path.is_file():
        raise ConfigError("this folder has no front", given=run, allowed="the run folder of a search that has ended",
                          fix="run the search again, it resumes; `autoprune search … --run DIR`")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError("front.json cannot be read", given=f"{path}: {error}",
                          fix="run the search again, it resumes and writes it anew") from error
    if not isinstance(data, dict):
        raise ConfigError("front.json is not a front", given=path, fix="run the search again, it writes it anew")
    return Front.from_json(data, run)


def _knee(points: list[Point]) -> Point:
    """The point with the largest distance to the line between the fastest and the best (both axes scaled to 0 … 1)."""
    fast, best = points[0].candidate, points[-1].candidate
    width, height = best.ms - fast.ms, best.quality - fast.quality
    if width <= 0 or height <= 0:
        return points[-1]
    return max(points, key=lambda p: (p.candidate.quality - fast.quality) / height - (p.candidate.ms - fast.ms) / width)
