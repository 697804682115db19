"""The plans that a search begins with: controls, starting points, and what another search evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autoprune.search.depth import depth_starts
from autoprune.search.latencies import Latencies
from autoprune.search.pipeline import Pipeline
from autoprune.search.propose import DENSE, At, Proposer
from autoprune.search.rankings import ranked_starts
from autoprune.search.reuse import Reused
from autoprune.search.study import Study

__all__ = ["first_plans", "queue", "reused_plans"]

_BELOW = (0.7,)  # parts of the budget
_BELOW_BY_KNAPSACK = (0.85, 0.7, 0.5)


def first_plans(pipeline: Pipeline, proposer: Proposer, latencies: Latencies, reused: Reused,
                aims_ms: Sequence[float], are_budgets: bool, rankings: Sequence[tuple[str, str]],
                knapsack: At | None) -> dict[str, dict[str, Any]]:
    """Parameters by origin, in the order of evaluation.

    aims_ms: what starting points aim at, the budgets or half the dense latency; the second and further ones get one
    uniform and one starting point each, named after their milliseconds; knapsack: decodes a latency, where there is a
    scan.
    """
    aim_ms, *further_ms = aims_ms
    latency_ms = latencies.quick_ms
    if knapsack is None:
        starts = proposer.starts(aim_ms, proposer.uniform_at(latency_ms), _BELOW)
    else:  # the sampler's own starts try other methods, and the whole range where there is no budget
        starts = proposer.starts(aim_ms, knapsack, _BELOW_BY_KNAPSACK, every_method=False) if are_budgets else {}
    for ms in further_ms:
        of_this = {**proposer.at_budget(ms, latency_ms),
                   **(proposer.starts(ms, knapsack, (), every_method=False) if knapsack is not None else {})}
        starts |= {f"{origin} of {ms:.4g} ms": parameters for origin, parameters in of_this.items()}
    ranked = ranked_starts(pipeline, proposer, rankings, aim_ms, latency_ms)
    depth = depth_starts(pipeline, proposer, aim_ms, latency_ms)
    known = reused_plans(proposer, reused, latencies)
    controls, at_aim = proposer.controls(), proposer.at_budget(aim_ms, latency_ms)
    if knapsack is None:
        return {**known, **controls, **at_aim, **depth, **starts, **ranked}
    # a knapsack's plans are better than uniform ones: one of these is enough to show that
    return {**known, DENSE: controls[DENSE], **starts, **at_aim, **depth, **ranked}


def queue(study: Study, proposer: Proposer, plans: dict[str, dict[str, Any]]) -> None:
    """Queue what the study does not hold yet; of those that are the same plan only the first."""
    have = study.queued_or_done()
    seen = {*(c.plan.digest for c in study.candidates()), *(proposer.plan(p).digest for p in study.queued)}
    for origin, parameters in plans.items():
        digest = proposer.plan(parameters, origin).digest
        if origin not in have and digest not in seen:
            study.enqueue(origin, parameters)
        seen.add(digest)


def reused_plans(proposer: Proposer, reused: Reused, latencies: Latencies) -> dict[str, dict[str, Any]]:
    """Parameters of what another search evaluated; the controls of any device keep their names."""
    same = proposer.controls().keys()
    return {c.origin if c.origin in same else f"reused: trial {c.number}": proposer.parameters_of(c.plan)
            for c in reused.in_order(latencies.of) if {*c.plan.dropped} <= {*proposer.branches}}
