"""Pruned variants of one model, to learn from what they take: `variants(graph, count, align)`."""

from __future__ import annotations

import random
from collections.abc import Iterator

from autoprune.graph.graph import Graph
from autoprune.graph.onnx import export_onnx
from autoprune.graph.onnx_template import CannotSlice, OnnxTemplate
from autoprune.graph.plan import Cut, Plan, aligned

__all__ = ["OnnxMaker", "variants", "variety"]

_LEVELS = (0.8, 0.65, 0.5, 0.35)
_LEAST = 0.25  # of a group's units in a random plan


class OnnxMaker:
    """ONNX of plans of one graph: cut out of the dense export where that works, else exported one by one."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self._template: OnnxTemplate | None = None
        try:
            self._template = OnnxTemplate(graph)
        except CannotSlice:
            pass

    def onnx(self, plan: Plan) -> bytes:
        """ONNX bytes of the pruned model."""
        model = self.graph.cut(self.graph.resolve(plan))
        if self._template is None:
            return export_onnx(model, self.graph.example_inputs)
        return self._template.slice(model.plan, model.tensors())


def variety(graph: Graph, count: int, align: int) -> list[Plan]:
    """`count` plans: none, uniform ones, and random ones; widths are multiples of `align` channels, as a search
    proposes them.
    """
    found = [Plan(), *(Plan.uniform(graph, level, "random", align) for level in _LEVELS)]
    for seed in range(count - len(found)):
        rng = random.Random(seed)
        found.append(Plan({name: Cut(aligned(rng.uniform(_LEAST, 1.0) * g.size, g.size, g.step(align)), "random")
                           for name, g in graph.groups.items()}))
    return found[:count]


def variants(graph: Graph, count: int, align: int) -> Iterator[bytes]:
    """ONNX bytes of the plans of `variety`."""
    maker = OnnxMaker(graph)
    return (maker.onnx(plan) for plan in variety(graph, count, align))
