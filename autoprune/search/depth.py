"""Starting points that drop whole residual branches: those first that do least damage for what they save."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from autoprune.graph.plan import Plan
from autoprune.search.damage import damages
from autoprune.search.pipeline import Pipeline
from autoprune.search.propose import Proposer

__all__ = ["depth_starts"]

_LEAST_SAVING = 1e-3  # of the dense latency


def depth_starts(pipeline: Pipeline, proposer: Proposer, aim_ms: float, latency_ms: Callable[[Plan], float]
                 ) -> dict[str, dict[str, Any]]:
    """By origin, the parameters of plans for `aim_ms`: by depth as far as it goes, and half of that by depth; the rest
    by a uniform ratio. Branches go in the order of damage per millisecond, each looked at alone. Empty when there are
    no branches to drop. latency_ms: asked about every branch.
    """
    if not proposer.branches:
        return {}
    order = _by_worth(pipeline, proposer, latency_ms)
    most = next((k for k in range(1, len(order)) if latency_ms(_without(proposer, order[:k])) <= aim_ms),
                len(order) // 2)
    out: dict[str, dict[str, Any]] = {}
    for count in dict.fromkeys((most, max(1, most // 2))):
        if count > 0:
            dropped = order[:count]
            whole = proposer.parameters({}, {}, dropped=dropped)
            fits = latency_ms(proposer.plan(whole)) <= aim_ms
            out[f"start: {count} of {len(order)} branches dropped"] = whole if fits else proposer.widest(
                partial(proposer.uniform, method="", dropped=dropped), aim_ms, latency_ms)
    return out


def _without(proposer: Proposer, dropped: Sequence[str]) -> Plan:
    return proposer.plan(proposer.parameters({}, {}, dropped=dropped))


def _by_worth(pipeline: Pipeline, proposer: Proposer, latency_ms: Callable[[Plan], float]) -> list[str]:
    dense_ms = latency_ms(Plan(model=proposer.graph.fingerprint))
    plans = {name: Plan(model=proposer.graph.fingerprint, dropped=(name,)) for name in proposer.branches}
    damage = damages(pipeline, plans)
    saved = {name: max(dense_ms - latency_ms(plan), _LEAST_SAVING * dense_ms) for name, plan in plans.items()}
    return sorted(plans, key=lambda name: damage[name] / saved[name])
