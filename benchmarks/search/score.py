"""Fronts, their area on the test split, and what several seeds say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

Point = dict[str, float]
"""ms (as a run was told), seen and test (scores), s (seconds into the run); measured, where it was timed: its share of
the dense latency."""

BUDGETS = {"digits": (0.75, 0.5, 0.35), "glyphs": (0.8, 0.65, 0.5), "characters": (0.75, 0.5, 0.35)}
"""Of the dense latency, by task: the smallest plans of glyphs take 0.3 of it."""


def front_of(points: Iterable[Point]) -> list[Point]:
    """What the search split says is the best within each latency, fastest first."""
    out: list[Point] = []
    for p in sorted(points, key=lambda p: (p["ms"], -p["seen"])):
        if not out or p["seen"] > out[-1]["seen"]:
            out.append(p)
    return out


def volume(points: Iterable[Point], ms: float, metric: float) -> float:
    """What is chosen on the search split for each budget up to `ms`, by its test score over `metric`: the area. As
    hypervolume, but it does not take the better one of two test scores, so luck on the test split does not pay.
    """
    chosen = front_of(p for p in points if p["ms"] <= ms)
    return sum((q["ms"] - p["ms"]) * max(0.0, p["test"] - metric) for p, q in pairwise([*chosen, {"ms": ms}]))


def in_shares(row: dict[str, Any], front: Iterable[Point], measured: bool) -> list[Point]:
    """The same points with shares of the dense latency as ms: measured, or as the run was told."""
    return [{**p, "ms": p["measured"] if measured else p["ms"] / row["dense_ms"]} for p in front]


def summary(rows: list[dict[str, Any]], early: float) -> dict[str, Any]:
    """By task and way, one value per seed: nHV at the end and after `early` of the time, the test score at each budget
    (of the best seen front member that is within it; None where there is none), candidates and errors. Latencies are
    the measured ones where all runs of a task were timed, those that the ways were told otherwise.
    """
    out: dict[str, Any] = {}
    for task in dict.fromkeys(r["task"] for r in rows):
        mine = [r for r in rows if r["task"] == task]
        measured, metric = all(is_timed(r, early) for r in mine), 0.5 * mine[0]["dense"]
        ends = [in_shares(r, front_of(r["points"]), measured) for r in mine]
        union = volume([p for front in ends for p in front], 1.0, metric)
        for r, end in zip(mine, ends, strict=True):
            cell = out.setdefault(task, {"measured": measured, "ways": {}})["ways"].setdefault(r["way"], {
                "end": [], "early": [], "at_budgets": [], "candidates": [], "errors": []})
            first = in_shares(r, front_of(p for p in r["points"] if p["s"] <= early * r["seconds"]), measured)
            for key, front in (("end", end), ("early", first)):
                cell[key].append(round(volume(front, 1.0, metric) / max(union, 1e-12), 4))
            cell["at_budgets"].append([_at(end, share) for share in BUDGETS[task]])
            cell["candidates"].append(len(r["points"]))
            cell["errors"] += [r["error"]] if r["error"] else []
    return out


def is_timed(row: dict[str, Any], early: float) -> bool:
    """Whether every member of the fronts, at the end and early, was measured."""
    first = [p for p in row["points"] if p["s"] <= early * row["seconds"]]
    return all("measured" in p for points in (row["points"], first) for p in front_of(points))


def _at(front: Sequence[Point], ms: float) -> float | None:
    within = [p for p in front if p["ms"] <= ms]
    return max(within, key=lambda p: p["seen"])["test"] if within else None


def iqm(values: Iterable[float]) -> float:
    """Interquartile mean."""
    data = np.sort(np.fromiter(values, float))
    cut = len(data) // 4
    return float(data[cut:len(data) - cut].mean())


def interval(values: Sequence[float], draws: int = 1000) -> list[float]:
    """Interquartile mean and its bootstrap interval (2.5 to 97.5 %) over seeds."""
    random = np.random.default_rng(0)
    means = [iqm(random.choice(values, len(values))) for _ in range(draws)]
    return [round(v, 4) for v in (iqm(values), *np.quantile(means, (0.025, 0.975)).tolist())]


def better(ours: Sequence[float], theirs: Sequence[float], draws: int = 1000) -> list[float]:
    """Probability that a run of ours ends above one of theirs (Agarwal et al. 2021), and its bootstrap interval over
    the seeds of both; a tie counts as half.
    """
    random = np.random.default_rng(0)

    def probability(a: np.ndarray, b: np.ndarray) -> float:
        return float((np.sign(a[:, None] - b[None]) / 2 + 0.5).mean())
    a, b = np.array(ours), np.array(theirs)
    found = [probability(random.choice(a, len(a)), random.choice(b, len(b))) for _ in range(draws)]
    return [round(v, 3) for v in (probability(a, b), *np.quantile(found, (0.025, 0.975)).tolist())]
