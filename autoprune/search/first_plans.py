"""The plans that a search begins with: controls, starting points, and what another search evaluated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

from autoprune.graph.plan import Plan
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
_ABOUT_HALF = (0.5, 1.5, 0.25)  # of half the dense latency, where there is no budget: over the whole range, coarsely


def first_plans(pipeline: Pipeline, proposer: Proposer, latencies: Latencies, reused: Reused,
                aims_ms: Sequence[float], are_budgets: bool, rankings: Sequence[tuple[str, str]],
                price_ms: Callable[[Plan], float], knapsack: At | None) -> dict[str, dict[str, Any]]:
    """Parameters by origin, in the order of evaluation.

    aims_ms: what starting points aim at, the budgets or half the dense latency; the second and further ones get one
    uniform and one starting point each, named after their milliseconds; price_ms: of a plan, in any scale, asked about
    every branch; knapsack: decodes a latency, where there is a scan.
    """
    aim_ms, *further_ms = aims_ms
    if knapsack is not None:
        parts = _BELOW_BY_KNAPSACK if are_budgets else _ABOUT_HALF
        starts = proposer.starts(aim_ms, knapsack, parts, every_method=False)  # the sampler's own starts try others
    else:
        starts = proposer.starts(aim_ms, proposer.uniform_at(latencies.ms), _BELOW)
    for ms in further_ms:
        of_this = {**proposer.at_budget(ms, latencies.ms),
                   **(proposer.starts(ms, knapsack, (), every_method=False) if knapsack is not None else {})}
        starts |= {f"{origin} of {ms:.4g} ms": parameters for origin, parameters in of_this.items()}
    ranked = ranked_starts(pipeline, proposer, rankings, aim_ms, latencies.ms)
    depth = depth_starts(pipeline, proposer, aim_ms, latencies.ms, price_ms)
    known = reused_plans(proposer, reused, latencies)
    uniform = {**proposer.controls(), **proposer.at_budget(aim_ms, latencies.ms)}
    if knapsack is None:
        return {**known, **uniform, **depth, **starts, **ranked}
    dense = {DENSE: uniform.pop(DENSE)}  # a knapsack's plans are better than uniform ones: they do not wait for these
    return {**known, **dense, **_in_turns(starts, uniform), **depth, **ranked}


def _in_turns(*parts: dict[str, Any]) -> dict[str, Any]:
    """The first item of each, then the second of each, and so on."""
    rows = zip_longest(*(part.items() for part in parts))
    return dict(item for row in rows for item in row if item is not None)


def queue(study: Study, proposer: Proposer, plans: dict[str, dict[str, Any]]) -> None:
    """Queue what the study does not hold yet; of those that are the same plan only the first."""
    have, seen = study.queued_or_done(), set()
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
