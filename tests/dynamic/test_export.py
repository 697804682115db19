"""ONNX with `If`: equal to torch on every path, and a branch that is skipped is not computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from autoprune.dynamic.export import export
from autoprune.dynamic.skippable import Skippable
from autoprune.graph.onnx import check_onnx
from tests.dynamic.nets import conv, gated, logits, set_gate, tokens, undecided


def run(onnx_bytes: bytes, x: Tensor) -> np.ndarray[Any, Any]:
    session = ort.InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"])
    (feed,) = session.get_inputs()
    found: np.ndarray[Any, Any] = session.run(None, {feed.name: x.numpy()})[0]
    return found


def inner_weights(onnx_bytes: bytes) -> list[set[str]]:
    """For each `If`, the names of the weights in its `then`."""
    graph = onnx.load_from_string(onnx_bytes).graph
    return [{w.name for a in node.attribute if a.name == "then_branch" for w in a.g.initializer}
            for node in graph.node if node.op_type == "If"]


@pytest.mark.parametrize("make", [conv, tokens])
def test_equal_to_torch_on_every_path(make: Callable[[], tuple[nn.Module, Tensor]]) -> None:
    net, x = make()
    model = undecided(gated(net, x))
    mixed = export(model)
    assert len(onnx.load_from_string(mixed).graph.output) == 1
    model(x)
    assert len({tuple(row) for row in model.opened().tolist()}) > 1
    for i in range(len(x)):
        check_onnx(mixed, model, (x[i : i + 1],), tolerance=1e-5)


def test_a_skipped_branch_is_not_computed() -> None:
    net, x = conv()
    model = gated(net, x)
    set_gate(model, "b", opened=False)
    expected = logits(model(x[:1])).detach().numpy()
    _poison(model, "b")
    assert torch.isnan(model(x[:1])).all()  # torch multiplies it by 0
    onnx_bytes = export(model)
    assert np.allclose(run(onnx_bytes, x[:1]), expected, atol=1e-6)
    first, second = inner_weights(onnx_bytes)
    assert "a.weight" in first
    assert second == {"b.weight", "b.bias"}
    outside = {w.name for w in onnx.load_from_string(onnx_bytes).graph.initializer}
    assert not outside & (first | second)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin", "gpt2"])
def test_transformers_that_nobody_thought_of(name: str) -> None:
    torch.manual_seed(0)
    if name == "swin":
        config = hf.SwinConfig(image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 2],
                               window_size=4, num_labels=3)
        net, x = hf.SwinForImageClassification(config).eval(), torch.randn(3, 3, 32, 32)
    else:
        config = hf.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=40, use_cache=False, bos_token_id=0,
                               eos_token_id=0)
        net, x = hf.GPT2LMHeadModel(config).eval(), torch.randint(0, 40, (3, 6))
    model = undecided(gated(net, x))
    onnx_bytes = export(model)
    assert len(inner_weights(onnx_bytes)) == len(model.branches) == {"swin": 8, "gpt2": 4}[name]
    for i in range(len(x)):
        check_onnx(onnx_bytes, model, (x[i : i + 1],))


def _poison(model: Skippable, branch: str) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(branch + "."):
                parameter.fill_(torch.nan)
