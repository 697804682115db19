"""Starting points whose widths follow from one ranking over several groups (`[search] rankings` of a space)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from autoprune.graph.plan import Cut, Plan
from autoprune.methods.choose import Ranking
from autoprune.methods.ranked import RankedGroups
from autoprune.methods.registry import criterion
from autoprune.search.pipeline import Pipeline
from autoprune.search.propose import Proposer

__all__ = ["ranked_starts"]

_LEAST_SAVING = 1e-4  # of the dense latency, by all units of a group: one that saves nothing has no use for being cut


def ranked_starts(pipeline: Pipeline, proposer: Proposer, rankings: Sequence[tuple[str, str]], aim_ms: float,
                  latency_ms: Callable[[Plan], float]) -> dict[str, dict[str, Any]]:
    """By origin, the parameters of the widest plan within `aim_ms` of each (scope, method)."""
    out: dict[str, dict[str, Any]] = {}
    for scope, method in rankings:
        saves = _saved_per_unit(proposer, latency_ms) if criterion(method).per_saving else None
        ranking = Ranking(pipeline.source, pipeline.statistics([method]), pipeline.seed, saves)
        groups = RankedGroups(ranking, method, scope, proposer.choices)

        def at(keep: float, groups: RankedGroups = groups, method: str = method) -> dict[str, Any]:
            return proposer.parameters(groups.widths(max(keep, 1e-9)), dict.fromkeys(proposer.choices, method))

        out[f"start: {scope} ranking by {method}"] = proposer.widest(at, aim_ms, latency_ms)
    return out


def _saved_per_unit(proposer: Proposer, latency_ms: Callable[[Plan], float]) -> dict[str, float]:
    """Milliseconds that one unit of each group saves, on average over those that may go."""
    dense_ms = latency_ms(Plan(model=proposer.graph.fingerprint))
    out: dict[str, float] = {}
    for name, c in proposer.choices.items():
        least, size = c.widths[0], c.widths[-1]
        saved_ms = dense_ms - latency_ms(Plan({name: Cut(least, "random")}, proposer.graph.fingerprint))
        out[name] = max(saved_ms, _LEAST_SAVING * dense_ms) / (size - least)
    return out
