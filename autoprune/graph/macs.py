"""Multiply-adds, parameters and bytes, counted by fvcore.

One multiply-add is one MAC (what fvcore calls a flop). Only contractions count: convolutions, matrix products, einsum,
attention. MACs do not tell latency: on a device, a depthwise MAC may cost 25 dense ones. They are printed because
people compare by them; the search never looks at them.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from autoprune.graph.trace import split_inputs
from autoprune.graph.typing import shape_of

if TYPE_CHECKING:
    from autoprune.graph.graph import Graph

__all__ = ["Counts", "count", "saved_macs"]

_CONTRACTIONS = ("conv", "linear", "matmul", "bmm", "einsum", "scaled_dot_product_attention", "lstm", "gru", "rnn",
                 "addmm", "mm")
_CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu")


@dataclass(frozen=True)
class Counts:
    """macs: for one example input as given; params: elements; size_bytes: of parameters and buffers."""

    macs: int
    params: int
    size_bytes: int


def count(model: nn.Module, example_inputs: Any) -> Counts:
    """Count `model` in evaluation mode on `example_inputs` (keyword inputs are passed in the order given).

    The model is left as it was, its modes included.
    """
    with warnings.catch_warnings():  # fvcore scripts functions when it is imported; torch 2.13 deprecates that
        warnings.simplefilter("ignore", DeprecationWarning)
        from fvcore.nn import FlopCountAnalysis

    args, kwargs = split_inputs(example_inputs)
    modes = {m: m.training for m in model.modules()}
    wrapped = _Positional(model, list(kwargs)).eval()
    tensors = {id(t): t for t in [*model.parameters(), *model.buffers()]}.values()
    logger = logging.getLogger("fvcore.nn.jit_analysis")
    level = logger.level
    logger.setLevel(logging.ERROR)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a transformer layer as one operator, which nobody can count
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            analysis = FlopCountAnalysis(wrapped, (*args, *kwargs.values()))
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_macs,
                                   "aten::_convolution_mode", _convolution_macs,
                                   **{f"aten::{cell}": _recurrent_macs for cell in _CELLS})
            by_operator = analysis.by_operator()
    finally:
        logger.setLevel(level)
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for module, mode in modes.items():
            module.training = mode
    macs = sum(n for name, n in by_operator.items() if any(c in name for c in _CONTRACTIONS))
    return Counts(int(macs), sum(p.numel() for p in {id(p): p for p in model.parameters()}.values()),
                  sum(t.numel() * t.element_size() for t in tensors))


def saved_macs(graph: Graph) -> dict[str, float]:
    """By group, the multiply-adds that removing one unit saves in the operators that multiply with parameters, 1 where
    there are none. A weight counts once for each position of the traced output (of the input, in a transposed
    convolution), a unit for its share of the weight.
    """
    positions: dict[str, float] = {}
    for read in graph.reads:
        if read.weight is not None:
            per_input = "transpose" in str(read.node.target)
            node = read.source if per_input and read.source is not None else read.node
            shape = shape_of(_first(node.meta["val"]))
            last = len(graph.captured.tensors[read.weight].shape) == 2 or len(shape) == 1
            positions[read.weight] = positions.get(read.weight, 0.0) + float(np.prod(shape)) / shape[-1 if last else 1]
    return {name: sum(positions.get(s.tensor, 0.0) * s.values.shape[1] for s in graph.slices(name)) or 1.0
            for name in graph.groups}


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple | list) else value


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> float:
    """`q·kᵀ` and `p·v`: batch × heads × length × key length × (head_dim of q + of v)."""
    q, k, v = (i.type().sizes() for i in inputs[:3])
    return float(np.prod(q[:-1]) * k[-2] * (q[-1] + v[-1]))


def _convolution_macs(inputs: list[Any], outputs: list[Any]) -> float:
    """A convolution with `padding="same"` or `"valid"`: per output position one filter of `in/groups × kernel`."""
    return float(np.prod(outputs[0].type().sizes()) * np.prod(inputs[1].type().sizes()[1:]))


def _recurrent_macs(inputs: list[Any], outputs: list[Any]) -> float:
    """Every matrix of every layer and direction, once per position of the input (`[T, N, …]` or packed `[rows, …]`)."""
    parameters = [i for i in inputs if i.node().kind() == "prim::ListConstruct"][-1]
    sizes = [p.type().sizes() for p in parameters.node().inputs()]
    return float(np.prod(inputs[0].type().sizes()[:-1]) * sum(np.prod(n) for n in sizes if len(n) == 2))


class _Positional(nn.Module):
    """Keyword inputs as positional ones, and the outputs as a flat tuple, for the tracer that fvcore uses."""

    def __init__(self, model: nn.Module, names: list[str]):
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: Any) -> Any:
        split = len(inputs) - len(self.names)
        out = self.model(*inputs[:split], **dict(zip(self.names, inputs[split:], strict=True)))
        return tuple(t for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor))
