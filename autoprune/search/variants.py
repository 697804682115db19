"""Pruned variants of one model whose latency is of interest, and not what they compute."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import replace

from autoprune.graph.graph import Graph
from autoprune.graph.onnx import export_onnx
from autoprune.graph.onnx_template import CannotSlice, OnnxTemplate
from autoprune.graph.plan import Cut, Plan, aligned

__all__ = ["OnnxMaker", "random_plan", "variants", "variety"]

_LEVELS = (0.8, 0.65, 0.5, 0.35)
_LEAST = 0.25  # of a group's units in a random plan


class OnnxMaker:
    """ONNX of plans of one graph, with whichever units: cut out of the dense export where that works, else exported one
    by one; then `why` says what stood in the way.
    """

    def __init__(self, graph: Graph):
        self.graph, self.why = graph, ""
        self._template: OnnxTemplate | None = None
        try:
            self._template = OnnxTemplate(graph)
        except CannotSlice as error:
            self.why = str(error)

    def onnx(self, plan: Plan) -> bytes:
        """ONNX bytes of a model of the plan's widths."""
        any_units = {n: replace(c, method="random", kept=None) for n, c in plan.cuts.items()}
        model = self.graph.cut(Plan(any_units, dropped=plan.dropped))
        if self._template is not None:
            with contextlib.suppress(CannotSlice):
                return self._template.slice(model.plan, model.tensors())
        return export_onnx(model, self.graph.example_inputs)


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
    return (maker.onnx(plan) for plan in variety(graph, count, align))
