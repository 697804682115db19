"""ONNX of many pruned models of one graph."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from autoprune.errors import ModelError
from autoprune.graph.graph import Graph
from autoprune.graph.module import PrunedModule
from autoprune.graph.onnx import check_onnx, export_onnx, share_equal
from autoprune.graph.onnx_template import CannotSlice, OnnxTemplate
from autoprune.graph.plan import Plan

__all__ = ["OnnxMaker"]


class OnnxMaker:
    """Cuts models out of one dense export, which is made when it is first needed and checked once, on a random plan.
    Models are exported one by one where that does not work; then `why` says what stands in the way.
    """

    def __init__(self, graph: Graph):
        self.graph, self.why = graph, ""

    def onnx(self, model: PrunedModule) -> bytes:
        """ONNX bytes of a pruned model of the graph. Raises `ModelError` where there is no export."""
        return self._sliced(model) or export_onnx(model, self.graph.example_inputs)

    def optimized(self, model: PrunedModule) -> bytes:
        """The same with norms folded into convolutions and constants computed, as `export_onnx` does it."""
        from onnx import load_from_string
        from onnxscript import ir, optimizer

        sliced = self._sliced(model)
        if sliced is None:
            return export_onnx(model, self.graph.example_inputs)
        optimal = optimizer.optimize(ir.from_proto(load_from_string(sliced)))
        share_equal(optimal)
        return bytes(ir.to_proto(optimal).SerializeToString())

    def of(self, plan: Plan) -> bytes:
        """The same of a model of the plan's widths, with whichever units."""
        any_units = {n: replace(c, method="random", kept=None) for n, c in plan.cuts.items()}
        return self.onnx(self.graph.cut(Plan(any_units, dropped=plan.dropped)))

    def _sliced(self, model: PrunedModule) -> bytes | None:
        if self._template is None:
            return None
        try:
            return self._template.slice(model.plan, model.tensors())
        except CannotSlice:  # a residual branch that the exporter's graph does not show
            return None

    @cached_property
    def _template(self) -> OnnxTemplate | None:
        try:
            template = OnnxTemplate(self.graph)
            probe = self.graph.cut(Plan.uniform(self.graph, 0.5, method="random"))
            try:
                check_onnx(template.slice(probe.plan, probe.tensors()), probe, self.graph.example_inputs)
            except (ModelError, RuntimeError, ValueError, KeyError) as error:
                raise CannotSlice(str(error)) from error
            return template
        except CannotSlice as error:
            self.why = str(error)
            return None
