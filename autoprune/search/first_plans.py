"""The plans that a search begins with: controls, starting points, and what another search evaluated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from autoprune.graph.plan import Plan
from autoprune.search.depth import depth_starts
from autoprune.search.latencies import Latencies
from autoprune.search.pipeline import Pipeline
from autoprune.search.propose import At, Proposer
from autoprune.search.rankings import ranked_starts
from autoprune.search.reuse import Reused
from autoprune.search.study import Study

__all__ = ["first_plans", "queue"]

_BELOW = (0.7,)  # parts of the budget
_BELOW_BY_KNAPSACK = (0.85, 0.7, 0.5)
_ABOUT_HALF = (1.5, 0.7, 0.5)  # of half the dense latency, where there is no budget


def first_plans(pipeline: Pipeline, proposer: Proposer, latencies: Latencies, reused: Reused, aim_ms: float,
                is_budget: bool, rankings: Sequence[tuple[str, str]], price_ms: Callable[[Plan], float],
                knapsack: At | None) -> dict[str, dict[str, Any]]:
    """Parameters by origin, in the order of evaluation.

    aim_ms: what starting points aim at, a budget or half the dense latency; price_ms: of a plan, in any scale, asked
    about every branch; knapsack: decodes a latency, where there is a scan.
    """
    if knapsack is not None:
        parts = _BELOW_BY_KNAPSACK if is_budget else _ABOUT_HALF
        starts = proposer.starts(aim_ms, knapsack, parts, every_method=False)  # the sampler's own starts try others
    else:
        starts = proposer.starts(aim_ms, proposer.uniform_at(latencies.ms), _BELOW)
    ranked = ranked_starts(pipeline, proposer, rankings, aim_ms, latencies.ms)
    depth = depth_starts(pipeline, proposer, aim_ms, latencies.ms, price_ms)
    return {**_reused(proposer, reused, latencies), **proposer.controls(), **proposer.at_budget(aim_ms, latencies.ms),
            **depth, **starts, **ranked}


def queue(study: Study, proposer: Proposer, plans: dict[str, dict[str, Any]]) -> None:
    """Queue what the study does not hold yet; of those that are the same plan only the first."""
    have, seen = study.queued_or_done(), set()
    for origin, parameters in plans.items():
        digest = proposer.plan(parameters, origin).digest
        if origin not in have and digest not in seen:
            study.enqueue(origin, parameters)
        seen.add(digest)
    study.note("queued", True)


def _reused(proposer: Proposer, reused: Reused, latencies: Latencies) -> dict[str, dict[str, Any]]:
    """Parameters of what another search evaluated; the controls of any device keep their names."""
    same = proposer.controls().keys()
    return {c.origin if c.origin in same else f"reused: trial {c.number}": proposer.parameters_of(c.plan)
            for c in reused.in_order(latencies.of) if {*c.plan.dropped} <= {*proposer.branches}}
