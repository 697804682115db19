"""Fronts built by hand: no model, no training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.devices.latency import Latency
from autoprune.front.front import Front
from autoprune.graph.plan import Cut, Plan
from autoprune.search.candidate import Candidate
from autoprune.tasks.score import Score

GROUPS = {"stem": 32, "block1.conv1": 32, "block2.conv1": 64, "block3.conv1": 128, "head": 256}


def latency(ms: float, source: str = "measured", **values: Any) -> Latency:
    spread = 0.04 if source == "measured" else 0.35
    return Latency(**{"ms": ms, "lo_ms": ms * (1 - spread), "hi_ms": ms * (1 + 1.5 * spread), "percentile": "p50",
                      "source": source, "device": "cpu", "runtime": "onnxruntime", "runtime_version": "1.31.1",
                      "threads": 2, "n": 200, **values})


def score(value: float, split: str = "validation", **values: Any) -> Score:
    return Score(**{"metric": "accuracy", "value": value, "split": split, "n": 360, "standard_error": 0.009, **values})


def candidate(number: int, ms: float, value: float, keep: float = 0.5, *, origin: str = "search",
              groups: dict[str, int] | None = None, source: str = "measured", test: float | None = None,
              **values: Any) -> Candidate:
    groups = GROUPS if groups is None else groups
    methods = ("l1", "taylor", "fpgm")
    cuts = {n: Cut(max(1, round(keep * g)), methods[i % 3]) for i, (n, g) in enumerate(groups.items()) if keep < 1}
    return Candidate(number, origin, Plan(cuts), score=score(value), latency=latency(ms, source),
                     test=None if test is None else score(test, "test"), macs=int(4.2e6 * keep**2),
                     params=int(120_000 * keep**2), size_bytes=int(480_000 * keep**2), seconds={"total": 2.5}, **values)


def front_of(candidates: list[Candidate], **values: Any) -> Front:
    """The first candidate is the dense one."""
    return Front(**{"run": Path("runs/a"), "task": "digits", "metric": "accuracy", "higher_is_better": True,
                    "device": "cpu", "budget": "3ms", "budget_ms": 3.0, "max_drop": None, "dense": candidates[0],
                    "candidates": candidates, "groups": GROUPS, **values})


def dense(ms: float = 6.0, value: float = 0.98, **values: Any) -> Candidate:
    return candidate(0, ms, value, 1.0, origin="control: dense", **values)


def usual(count: int = 40, source: str = "measured", groups: dict[str, int] | None = None, **values: Any) -> Front:
    """A search with everything in it: controls, a front with test scores, failures, a recommended point."""
    random = np.random.default_rng(0)
    found = [dense(test=0.972, groups=groups, source=source)]
    found += [candidate(i + 1, 6 * k**1.2, 0.97 - 0.16 * (1 - k) ** 2, k, origin=f"control: uniform {k:g}",
                        groups=groups, source=source) for i, k in enumerate((0.75, 0.5, 0.25))]
    for number in range(4, count):
        keep = float(random.uniform(0.2, 0.95))
        value = 0.98 - 0.12 * (1 - keep) ** 2 - float(random.exponential(0.012))
        found.append(candidate(number, 6 * keep**1.3, value, keep, groups=groups, source=source))
    for number in (count, count + 1):
        found.append(Candidate(number, "search", Plan({}), "failed", "ModelError: the <loss> became NaN"))
    front = front_of(found, recommended=None, groups=GROUPS if groups is None else groups, seconds={
        "measure": 61.2, "train": 143.0, "evaluate": 21.5, "prune": 4.2, "ask": 2.1, "write": 0.03},
        environment={"python": "3.12.1", "cpus": 2, "packages": {"torch": "2.13.0", "optuna": "5.0.0"}},
        settings={"model": None, "device": "cpu", "budget": "3ms", "trials": 42, "seed": 0})
    front = replace(front, **values)
    tested = {p.number: score(p.score.value - 0.008, "test") for p in front.points}
    found = [replace(c, test=tested.get(c.number)) for c in found]
    front = replace(front, candidates=found, dense=found[0])
    return replace(front, recommended=front.pick(budget="3ms").number)
