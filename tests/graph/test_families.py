"""Never broken: whatever `torch.export` accepts is traced, pruned, run, trained, saved, loaded, pruned again, exported.

The quick set takes one model of each kind; `pytest -m slow` takes all of them, with ONNX, each in a process of its own.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.errors import ModelError
from autoprune.graph.graph import trace
from autoprune.graph.plan import Plan

from . import zoo, zoo_transformers
from .apart import apart
from .never_broken import check, quiet

pytestmark = pytest.mark.system

QUICK = ["densenet", "shufflenet", "unet", "fpn_ssd", "resnext", "csp_yolo", "ghostnet", "norms", "parametrised_norms",
         "autoencoder", "gmlp", "mha_weights_out", "fused_head_last", "grouped_query_flag", "rotary_pairs",
         "window_attention", "linear_attention", "lstm_deep_bidirectional", "lstm_projection", "cells", "no_batch_axis",
         "several_inputs_dict_out", "gather_last_token", "constants_in_forward", "no_grad_region", "autocast_region",
         "condition", "scalar_and_integer_inputs", "one_channel"]
QUICK_ONNX = ["ghostnet", "fused_einsum", "gru"]
QUICK_TRANSFORMERS = ["vit", "bert", "llama"]

# Checked without ONNX.
NO_ONNX = {
    "half_precision": "onnxruntime's CPU kernels do not compute in bfloat16",
}
# What torch.export refuses, by its reason.
NOT_EXPORTED = {
    "longformer": "it branches on whether any token has global attention",
}


def _own(name: str) -> float:
    return _checked(*zoo.build(name), onnx=name not in NO_ONNX)


def _family(name: str) -> float:
    if name not in NOT_EXPORTED:
        return _checked(*zoo_transformers.build(name), onnx=name not in NO_ONNX)
    model, inputs = zoo_transformers.build(name)
    with quiet(), pytest.raises(ModelError):
        trace(model, inputs)
    return 1.0


def _checked(model: nn.Module, inputs: Any, **options: Any) -> float:
    with quiet():
        return check(model, inputs, **options).free


@pytest.mark.parametrize("name", QUICK)
def test_quick(name: str) -> None:
    assert _checked(*zoo.build(name), keeps=(0.4,)) > 0


@pytest.mark.parametrize("name", QUICK_ONNX)
def test_quick_onnx(name: str) -> None:
    assert _checked(*zoo.build(name), keeps=(0.7,), onnx=True) > 0


@pytest.mark.parametrize("name", QUICK_TRANSFORMERS)
def test_quick_transformers(name: str) -> None:
    pytest.importorskip("transformers")
    assert _checked(*zoo_transformers.build(name), keeps=(0.4,)) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", list(zoo.MODELS))
def test_every_model(name: str) -> None:
    assert apart(_own, name) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo_transformers.MODELS)
def test_every_family(name: str) -> None:
    pytest.importorskip("transformers")
    assert apart(_family, name) > 0


def _abort() -> None:
    os.abort()


@pytest.mark.slow
def test_an_abort_fails_one_test() -> None:
    with pytest.raises(AssertionError, match="exit code -6"):
        apart(_abort)


def test_nothing_to_prune_is_said_clearly() -> None:
    with quiet():
        graph = trace(nn.Linear(4, 3), torch.randn(2, 4))
    assert not graph.groups
    assert {f.operator for f in graph.frozen} == {"model input", "model output"}
    with pytest.raises(ModelError, match="nothing in this model can be pruned"):
        graph.prune(Plan())
