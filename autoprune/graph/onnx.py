"""Whole models to ONNX through the exporter, and the check that onnxruntime computes the same."""

from __future__ import annotations

import hashlib
from typing import Any, cast

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import nn
from torch.utils import _pytree as pytree

from autoprune.errors import ModelError, first_line
from autoprune.graph.compare import distance
from autoprune.graph.onnx_ready import exportable
from autoprune.graph.quiet import quiet
from autoprune.graph.trace import split_inputs, with_dynamic_batch

__all__ = ["check_onnx", "export_onnx", "export_program", "share_equal"]


def export_onnx(model: nn.Module, example_inputs: Any, *, dynamic_batch: bool = True, optimize: bool = True) -> bytes:
    """`model` as serialised ONNX, in evaluation mode; the first axis of the inputs is dynamic where possible.

    Raises `ModelError` with the exporter's reason.
    """
    return cast(bytes, export_program(model, example_inputs, dynamic_batch, optimize).model_proto.SerializeToString())


def export_program(model: nn.Module, example_inputs: Any, dynamic_batch: bool, optimize: bool) -> Any:
    """The exporter's `ONNXProgram`; see `export_onnx`. What it notes on every node is cleared: lines of the model's
    source, and where that is on this machine.
    """
    args, kwargs = split_inputs(example_inputs)
    model = exportable(model, example_inputs)
    modes = {m: m.training for m in model.modules()}
    attempts = [True, False] if dynamic_batch else [False]
    try:
        model.eval()
        for dynamic in attempts:
            a, k, shapes = with_dynamic_batch(example_inputs) if dynamic else (args, kwargs, None)
            try:
                with quiet():  # a dict at the end of the arguments would be taken for keywords if there were none
                    a = (*a, {}) if not k and a and isinstance(a[-1], dict) else a
                    program = torch.onnx.export(model, a, kwargs=k, dynamo=True, optimize=optimize, verbose=False,
                                                dynamic_shapes=shapes)
                assert program is not None  # of `dynamo`
                ClearMetadataAndDocStringPass()(program.model)
                if optimize:
                    share_equal(program.model)
                return program
            except Exception as error:  # the exporter raises its own and torch's many types
                if not dynamic:
                    raise ModelError("the model cannot be exported to ONNX", given=first_line(error.__cause__ or error),
                                     fix="the operator named above has no ONNX translation; replace it in the model"
                                     ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    raise AssertionError("unreachable")


def share_equal(model: ir.Model) -> None:
    """One matrix for all that are equal: an optimiser computes a weight's transpose for every layer that shares it.
    (The passes of `onnx_ir` that do this refuse a transposed array.)
    """
    found: dict[tuple[Any, ...], ir.Value] = {}
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or len(tensor.shape) < 2 or value.is_graph_output():
            continue
        digest = hashlib.sha256(tensor.numpy().tobytes()).digest()
        first = found.setdefault((tensor.dtype, tuple(tensor.shape), digest), value)
        if first is not value:
            ir.convenience.replace_all_uses_with(value, first)
            del model.graph.initializers[name]


def check_onnx(onnx_bytes: bytes, model: nn.Module, example_inputs: Any, tolerance: float = 1e-4) -> float:
    """Largest difference between onnxruntime's and torch's outputs, relative to the largest output (at least 1).

    Raises `ModelError` when it exceeds `tolerance` or is not finite.
    """
    import onnxruntime as ort

    args, kwargs = split_inputs(example_inputs)
    if any(x.dtype is torch.bfloat16 for x in [*model.parameters(), *pytree.tree_leaves((args, kwargs))]
           if isinstance(x, torch.Tensor)):
        raise ModelError("onnxruntime's CPU kernels do not compute in bfloat16", given=type(model).__name__,
                         fix="model.float() before tracing it")
    was_training = model.training
    model.eval()
    with torch.no_grad():
        leaves = pytree.tree_leaves(model(*args, **kwargs))
        expected = [x.detach().numpy() for x in leaves if isinstance(x, torch.Tensor)]
    model.train(was_training)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    leaves = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    try:
        session = ort.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
        feed = {i.name: x.numpy() for i, x in zip(session.get_inputs(), leaves, strict=False)}
        got = session.run(None, feed)
    except Exception as error:  # onnxruntime's classes have nothing else in common
        raise ModelError("onnxruntime does not run the exported model", given=first_line(error),
                         fix="model.float() before tracing it, where it computes in float64; else replace the operator "
                             "named above in the model") from error
    worst = 0.0
    for e, g in zip(expected, got, strict=False):
        if e.shape != g.shape:
            raise ModelError("the ONNX model's output has another shape than torch's", given=f"{g.shape} and {e.shape}")
        worst = max(worst, distance(torch.from_numpy(np.asarray(g)), torch.from_numpy(np.asarray(e))))
    if not worst <= tolerance:
        raise ModelError("onnxruntime and torch disagree on the exported model",
                         given=f"relative difference {worst:.2e}", allowed=f"≤ {tolerance:.0e}")
    return worst
