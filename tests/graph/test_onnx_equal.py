"""A candidate's ONNX, cut out of the dense export, is what exporting the pruned model again gives."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import transformers as hf
from torch import nn

import autoprune
from autoprune.graph.onnx import export_onnx
from autoprune.graph.onnx_template import OnnxTemplate
from autoprune.graph.plan import Plan

SMALL = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
MODELS: dict[str, tuple[object, torch.Tensor]] = {
    "resnet": (lambda: hf.ResNetForImageClassification(hf.ResNetConfig(
        embedding_size=16, hidden_sizes=[32, 64], depths=[1, 2], layer_type="bottleneck")), SMALL),
    "mobilenet_v1": (lambda: hf.MobileNetV1ForImageClassification(hf.MobileNetV1Config(
        image_size=32, depth_multiplier=0.25)), SMALL),
    "vit": (lambda: hf.ViTForImageClassification(hf.ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, image_size=32, patch_size=8)),
        SMALL),
    "swin": (lambda: hf.SwinForImageClassification(hf.SwinConfig(
        image_size=32, patch_size=2, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4)), SMALL),
    "segformer": (lambda: hf.SegformerForImageClassification(hf.SegformerConfig(
        hidden_sizes=[16, 32, 32, 64], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4])),
        SMALL),
}


def optimised(onnx_bytes: bytes, folder: Path) -> Counter[str]:
    """Operators after onnxruntime's optimisation for a batch of two; reshapes move no data and are not counted."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    for value in onnx.load_from_string(onnx_bytes).graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                options.add_free_dimension_override_by_name(dim.dim_param, 2)
    ort.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(folder / "optimised.onnx").graph.node
    return Counter(n.op_type for n in nodes if n.op_type != "Reshape")


@pytest.mark.parametrize("name", [
    "resnet", *(pytest.param(n, marks=pytest.mark.slow) for n in ("vit", "mobilenet_v1", "swin", "segformer"))])
def test_slicing_gives_what_exporting_gives(name: str, tmp_path: Path) -> None:
    make, x = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()  # type: ignore[operator]
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2.0)
    graph = autoprune.trace(model, (x,))
    small = graph.cut(Plan.uniform(graph, 0.5))
    sliced = OnnxTemplate(graph).slice(small.plan, small.tensors())
    exported = export_onnx(small, (x,))
    assert optimised(sliced, tmp_path) == optimised(exported, tmp_path)
    results = []
    for model_bytes in (sliced, exported):
        session = ort.InferenceSession(model_bytes, providers=["CPUExecutionProvider"])
        results.append(session.run(None, {session.get_inputs()[0].name: SMALL.repeat(2, 1, 1, 1).numpy()})[0])
    assert np.abs(results[0] - results[1]).max() <= 1e-4


class Blocks(nn.Module):
    """Residual blocks whose activation follows the sum: without the branch it would come twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first, self.second = (nn.Sequential(nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 8, 1)) for _ in range(2))
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu(self.stem(x))
        x = nn.functional.relu(x + self.first(x))
        x = nn.functional.relu6(x)
        out: torch.Tensor = self.head(nn.functional.relu6(x + self.second(x)))
        return out


def test_a_model_without_its_branches_has_the_nodes_of_its_own_export(tmp_path: Path) -> None:
    graph = autoprune.trace(Blocks().eval(), (SMALL,))
    assert len(graph.branches) == 2
    small = graph.cut(Plan(dropped=tuple(graph.branches)))
    sliced = OnnxTemplate(graph).slice(small.plan, small.tensors())
    assert optimised(sliced, tmp_path) == optimised(export_onnx(small, (SMALL,)), tmp_path)


class OfADict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.b(torch.relu(self.a(batch["x"]))) + batch["y"]


def test_a_forward_that_takes_one_dict_is_exported() -> None:
    example = ({"x": torch.randn(1, 4), "y": torch.randn(1, 3)},)
    graph = autoprune.trace(OfADict().eval(), example)
    pruned = graph.cut(Plan.uniform(graph, 0.5))
    session = ort.InferenceSession(export_onnx(pruned, example))
    inputs = [i.name for i in session.get_inputs()]
    x, y = torch.randn(5, 4), torch.randn(5, 3)
    [found] = session.run(None, dict(zip(inputs, (x.numpy(), y.numpy()), strict=True)))
    np.testing.assert_allclose(found, pruned({"x": x, "y": y}).detach().numpy(), atol=1e-5)
