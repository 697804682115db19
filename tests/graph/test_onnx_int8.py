from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import onnx
import pytest
import torch
from tiny import batches, tiny_task
from torch import Tensor, nn

from autoprune.errors import ConfigError, ModelError
from autoprune.graph.graph import trace
from autoprune.graph.module import PrunedModule
from autoprune.graph.onnx import export_onnx
from autoprune.graph.onnx_int8 import quantize, weight_bytes
from autoprune.graph.onnx_module import OnnxModule


class Masked(nn.Module):
    """One attention layer over token ids; a mask of 0 hides a position, with the largest negative number."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(20, 16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 4)

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        x = self.tokens(ids)
        hidden = (1 - mask.float())[:, None, :] * torch.finfo(torch.float32).min
        shares = (self.query(x) @ self.key(x).mT / 4 + hidden).softmax(-1)
        x = self.norm(x + shares @ self.value(x))
        return {"logits": self.head(x[:, 0]), "hidden": x}


def masked_batch(seed: int, labels: bool = False) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(6) < torch.randint(2, 6, (8, 1), generator=generator)).long()
    out = {"mask": mask, "ids": torch.randint(0, 20, (8, 6), generator=generator)}
    return {**out, "labels": mask[:, 0]} if labels else out


@cache
def masked() -> tuple[PrunedModule, dict[str, Tensor], bytes]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Masked().eval()
    example = {k: masked_batch(0)[k][:1] for k in ("ids", "mask")}
    model = trace(net, example).dense()
    return model, example, export_onnx(model, example)


@cache
def tiny() -> tuple[Any, bytes]:
    task = tiny_task()
    return task, export_onnx(task.model, task.example_inputs)


def ops(onnx_bytes: bytes) -> set[str]:
    return {n.op_type for n in onnx.load_from_string(onnx_bytes).graph.node}


def test_a_cnn_in_int8_is_smaller_and_as_good() -> None:
    task, dense = tiny()
    int8 = quantize(dense, task.example_inputs, (x for x, _ in batches(2, 9)))
    deployed = OnnxModule(int8, task.model, task.example_inputs)
    assert task.evaluate(deployed).value == pytest.approx(task.evaluate(task.model).value, abs=0.05)
    inputs, _ = batches(1, 10)[0]
    with torch.no_grad():
        expected, got = task.model(inputs), deployed(inputs)
    assert 0 < (expected - got).abs().max() < 0.05 * expected.abs().max()  # quantised indeed, and close
    assert 2.5 < weight_bytes(dense) / weight_bytes(int8) < 4  # scales and int32 biases take the rest


def test_an_attention_mask_does_not_take_all_the_steps() -> None:
    model, example, dense = masked()
    int8 = quantize(dense, example, (masked_batch(i) for i in range(4)))
    inputs = masked_batch(7)
    with torch.no_grad():
        expected = model(**inputs)["logits"]
        unmasked = model(**{**inputs, "mask": torch.ones_like(inputs["mask"])})["logits"]
    got = OnnxModule(int8, model, example)(**inputs)["logits"]
    assert (expected - got).abs().mean() < 0.1 * (expected - unmasked).abs().mean()
    assert weight_bytes(int8) < 0.5 * weight_bytes(dense)


def test_inputs_and_outputs_keep_their_form() -> None:
    model, example, dense = masked()
    inputs = masked_batch(3, labels=True)  # another order than the example's, and labels that the model does not take
    found = OnnxModule(dense, model, example)(**inputs)
    assert list(found) == ["logits", "hidden"]
    with torch.no_grad():
        torch.testing.assert_close(found, model(ids=inputs["ids"], mask=inputs["mask"]), rtol=1e-4, atol=1e-5)


def without_batches() -> bytes:
    task, dense = tiny()
    return quantize(dense, task.example_inputs, [])


def not_onnx() -> bytes:
    return quantize(b"not a model", torch.zeros(1), [torch.zeros(1)])


def another_shape() -> bytes:
    task, dense = tiny()
    return quantize(dense, task.example_inputs, [torch.zeros(2, 3, 8, 8)])


def missing_input() -> bytes:
    _, example, dense = masked()
    return quantize(dense, example, [{"ids": masked_batch(0)["ids"]}])


def nothing_to_quantise() -> bytes:
    x = torch.zeros(2, 3)
    return quantize(export_onnx(nn.Softmax(-1), x), x, [x])


@pytest.mark.parametrize(("wrong", "kind", "words"), [
    (without_batches, ConfigError, "needs calibration data"), (not_onnx, ModelError, "cannot load the model"),
    (another_shape, ModelError, "cannot quantise the model"), (missing_input, ModelError, "does not fit the inputs"),
    (nothing_to_quantise, ModelError, "nothing in this model"),
])
def test_bad_input_is_one_clear_error(wrong: Callable[[], bytes], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        wrong()


def test_a_model_that_cannot_run_says_so() -> None:
    task, dense = tiny()
    with pytest.raises(ModelError, match="cannot load"):
        OnnxModule(b"not a model", task.model, task.example_inputs)
    with pytest.raises(ModelError, match="on a batch"):
        OnnxModule(dense, task.model, task.example_inputs)(torch.zeros(2, 3, 8, 8))
