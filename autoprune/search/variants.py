"""Pruned variants of one model whose latency is of interest, and not what they compute."""

from __future__ import annotations

import random
from collections.abc import Iterator

from autoprune.graph.graph import Graph
from autoprune.graph.onnx_maker import OnnxMaker
from autoprune.graph.plan import Cut, Plan, aligned

__all__ = ["random_plan", "variants", "variety"]

_LEVELS = (0.8, 0.65, 0.5, 0.35)
_LEAST = 0.25  # of a group's units in a random plan


def random_plan(graph: Graph, seed: int, align: int) -> Plan:
    """Each group at a width of its own, a multiple of `align` channels."""
    rng = random.Random(seed)
    return Plan({name: Cut(aligned(rng.uniform(_LEAST, 1.0) * g.size, g.size, g.step(align)), "random")
                 for name, g in graph.groups.items()})


def variety(graph: Graph, count: int, align: int) -> list[Plan]:
    """`count` plans: the one that removes nothing, uniform ones, and random ones."""
    uniform = [Plan.uniform(graph, level, "random", align) for level in _LEVELS]
    found = [Plan(), *uniform, *(random_plan(graph, seed, align) for seed in range(count))]
    return found[:count]


def variants(graph: Graph, count: int, align: int) -> Iterator[bytes]:
    """ONNX bytes of the plans of `variety`."""
    maker = OnnxMaker(graph)
    return (maker.of(plan) for plan in variety(graph, count, align))
