"""What a search tells while it runs, and what it leaves behind."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.search.candidate import Candidate

__all__ = ["Outcome", "Progress", "pareto"]


@dataclass(frozen=True)
class Progress:
    """What a progress line shows. left_s is None until it can be told."""

    done: int
    total: int
    feasible: int
    best: Candidate | None
    front: int
    elapsed_s: float
    left_s: float | None
    last: Candidate | None


@dataclass(frozen=True)
class Outcome:
    """What a search leaves behind: candidates in order, the budgets in milliseconds, the dense model, seconds by
    activity of this process, and whether it was interrupted."""

    candidates: list[Candidate]
    budgets_ms: tuple[float, ...]
    dense: Candidate | None
    seconds: dict[str, float]
    interrupted: bool = False


def pareto(candidates: list[Candidate]) -> list[Candidate]:
    """The candidates that no other dominates, by latency; of equal ones the first."""
    alive = [c for c in candidates if c.status == "ok" and c.score is not None and c.latency is not None]
    out: list[Candidate] = []
    for c in sorted(alive, key=lambda c: (c.ms, -c.quality, c.number)):
        if not out or c.quality > out[-1].quality:
            out.append(c)
    return out
