"""ONNX of pruned models: cut out of one export, or exported one by one."""

from __future__ import annotations

import math
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from autoprune.errors import ModelError
from autoprune.graph import onnx_maker
from autoprune.graph.graph import Graph
from autoprune.graph.module import PrunedModule
from autoprune.graph.onnx import check_onnx, export_onnx
from autoprune.graph.onnx_maker import OnnxMaker
from autoprune.graph.onnx_template import CannotSlice, OnnxTemplate
from autoprune.graph.plan import Plan


@pytest.fixture(scope="module")
def half(tiny_graph: Graph) -> PrunedModule:
    return tiny_graph.cut(Plan.uniform(tiny_graph, 0.5, method="l1"))


def operators(onnx_bytes: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(onnx_bytes).graph.node]


def test_the_optimised_model_computes_the_same_in_fewer_nodes(tiny_graph: Graph, tiny_template: OnnxTemplate,
                                                              half: PrunedModule,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxMaker, "_template", tiny_template)
    maker = OnnxMaker(tiny_graph)
    plain, optimised = maker.onnx(half), maker.optimized(half)
    assert check_onnx(optimised, half, tiny_graph.example_inputs) <= 1e-4
    assert "BatchNormalization" in operators(plain)
    assert "BatchNormalization" not in operators(optimised)
    assert len(optimised) < len(plain)


@pytest.mark.parametrize("stage", ["template", "check"])
def test_what_cannot_be_cut_is_exported(tiny_graph: Graph, tiny_template: OnnxTemplate, half: PrunedModule, stage: str,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    def no_template(graph: Graph) -> OnnxTemplate:
        if stage == "template":
            raise CannotSlice("no such axis")
        return tiny_template

    def wrong(*_: object) -> float:
        raise ModelError("no such axis")
    exported: list[PrunedModule] = []
    monkeypatch.setattr(onnx_maker, "OnnxTemplate", no_template)
    monkeypatch.setattr(onnx_maker, "check_onnx", wrong)
    monkeypatch.setattr(onnx_maker, "export_onnx", lambda model, inputs: exported.append(model) or b"exported")
    maker = OnnxMaker(tiny_graph)
    assert maker.onnx(half) == maker.optimized(half) == b"exported"
    assert exported == [half, half]
    assert maker.why == "no such axis"


def test_a_plan_says_the_widths_whichever_units_stay(tiny_graph: Graph, tiny_template: OnnxTemplate,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxMaker, "_template", tiny_template)
    plan = Plan.uniform(tiny_graph, 0.5, method="wanda")  # needs data that nobody has gathered
    smaller = OnnxMaker(tiny_graph).of(plan)
    assert len(smaller) < len(OnnxMaker(tiny_graph).of(Plan()))


def test_nothing_of_this_machine_is_in_a_file(tiny_graph: Graph, tiny_template: OnnxTemplate, half: PrunedModule,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxMaker, "_template", tiny_template)
    for content in (export_onnx(half, tiny_graph.example_inputs), OnnxMaker(tiny_graph).onnx(half)):
        assert b".py" not in content
        assert b"stack_trace" not in content


class Constant(nn.Module):
    """Gives one number, whatever comes in."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.layer, self.value = nn.Linear(4, 3), value

    def forward(self, x: torch.Tensor) -> Any:
        return self.layer(x) * 0 + self.value


@pytest.mark.parametrize(("exported", "model"), [(math.nan, 1.0), (1.0, math.nan), (-math.inf, math.inf), (1.0, 2.0)])
def test_outputs_that_differ_in_what_is_no_number_are_refused(exported: float, model: float) -> None:
    x = torch.randn(2, 4)
    with pytest.raises(ModelError, match="disagree"):
        check_onnx(export_onnx(Constant(exported).eval(), x), Constant(model).eval(), x)
    assert check_onnx(export_onnx(Constant(-math.inf).eval(), x), Constant(-math.inf).eval(), x) == 0.0


def test_what_onnxruntime_cannot_run_is_a_models_error() -> None:
    with pytest.raises(ModelError, match="does not run"):
        check_onnx(b"no model", Constant(1.0), torch.randn(2, 4))
