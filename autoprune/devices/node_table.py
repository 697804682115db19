"""Which nodes take a model's time: a `NodeLatency` each, and their sums `by_operator`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autoprune.devices.node import Node

__all__ = ["NodeLatency", "OperatorLatency", "by_operator", "ms_by_operator", "side_by_side", "slowest"]


@dataclass(frozen=True)
class NodeLatency:
    """One node of the graph that the runtime runs (fused ones are one): its name and operator there, multiply-adds
    (None where they are not known), and milliseconds of one inference.
    """

    name: str
    op: str
    macs: int | None
    ms: float


@dataclass(frozen=True)
class OperatorLatency:
    """All nodes of one operator: how many, their multiply-adds (None if those of any are not known), the sum of their
    milliseconds, and its share of all nodes' (0 to 1).
    """

    op: str
    count: int
    macs: int | None
    ms: float
    share: float


def by_operator(nodes: Iterable[NodeLatency]) -> list[OperatorLatency]:
    """Sums by operator, the largest first; none for no nodes."""
    groups: dict[str, list[NodeLatency]] = {}
    for node in nodes:
        groups.setdefault(node.op, []).append(node)
    sums = {op: sum(n.ms for n in group) for op, group in groups.items()}
    total = sum(sums.values())
    return [OperatorLatency(op, len(groups[op]), _sum([n.macs for n in groups[op]]), ms, ms / total if total else 0.0)
            for op, ms in sorted(sums.items(), key=lambda item: -item[1])]


def ms_by_operator(table: Iterable[tuple[Node, float]]) -> dict[str, float]:
    """Sums of `(node, milliseconds)` by operator."""
    sums: dict[str, float] = {}
    for node, ms in table:
        sums[node.op] = sums.get(node.op, 0.0) + ms
    return sums


def side_by_side(first: Iterable[NodeLatency], second: Iterable[NodeLatency]
                 ) -> list[tuple[OperatorLatency, OperatorLatency]]:
    """The sums of two models by operator, in pairs, those that take longest in either first; an operator that one of
    them lacks has count 0 there.
    """
    left, right = ({o.op: o for o in by_operator(nodes)} for nodes in (first, second))
    pairs = [(left.get(op, _none(op)), right.get(op, _none(op))) for op in dict.fromkeys([*left, *right])]
    return sorted(pairs, key=lambda pair: -max(pair[0].ms, pair[1].ms))


def slowest(nodes: Sequence[NodeLatency], top: int) -> list[NodeLatency]:
    """The `top` nodes that take longest, the longest first."""
    return sorted(nodes, key=lambda n: -n.ms)[:top]


def _none(op: str) -> OperatorLatency:
    return OperatorLatency(op, 0, 0, 0.0, 0.0)


def _sum(macs: Sequence[int | None]) -> int | None:
    known = [m for m in macs if m is not None]
    return sum(known) if len(known) == len(macs) else None
