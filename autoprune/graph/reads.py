"""Where units are read: the operators that sum over an axis, and the weights that they sum with.

A unit's last use is a contraction: `W·x` of the next layer, `q·kᵀ` within attention. What enters there is the unit's
activation, after norm, activation function, pooling and residual sums; the weight there is its outgoing weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx

from autoprune.graph.dims import Dim, dims_of, resolve, size_of
from autoprune.graph.typing import Call, NodeType, TensorType, Typing, tensor_types

__all__ = ["Read", "batch_axis", "find_reads", "is_rectified"]

_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
                 "convolution", "_convolution")
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
_RECTIFIERS = ("relu", "relu6", "clamp_min", "threshold", "hardswish", "hardsigmoid")
_KEEP_ZEROS = ("pool", "reshape", "flatten", "transpose", "permute", "dropout", "clone", "contiguous", "cat", "mean",
               "getitem", "squeeze", "interpolate", "upsample", "split", "chunk", "shuffle")
_CELLS = ("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")


@dataclass(frozen=True)
class Read:
    """One axis of an activation that one operator sums over.

    source, axis: the activation, and which of its axes (counted from 0); None for a state inside a recurrent operator.
    dims: what is summed over and does not come out.
    weight, weight_axis: the parameter that it is multiplied with, or None when that is computed.
    whole: whether each output sums over all positions of the activation's axis (not so in grouped convolutions).
    """

    node: fx.Node
    source: fx.Node | None
    axis: int
    dims: frozenset[Dim]
    weight: str | None = None
    weight_axis: int = 0
    whole: bool = True


def find_reads(graph: fx.Graph, typing: Typing) -> list[Read]:
    """All reads in graph order."""
    return [read for node in graph.nodes if node.op == "call_function" and typing.types.get(node)
            for read in _reads(node, typing)]


def batch_axis(node: fx.Node, typing: Typing, read_axis: int) -> int:
    """The axis along which samples lie: the dynamic one, or else the first that is not read."""
    axes = typing.of(node)
    dynamic = [i for i, e in enumerate(axes) if i != read_axis and any(d.symbolic for d in dims_of(e))]
    return dynamic[0] if dynamic else 0 if read_axis != 0 else min(1, len(axes) - 1)


def is_rectified(node: fx.Node) -> bool:
    """Whether `node` is what a ReLU or the like gives, pooled, reshaped or concatenated at most."""
    name = _name(node)
    if name.removesuffix("_") in _RECTIFIERS or (name.removesuffix("_") == "hardtanh" and Call(node)["min_val"] == 0):
        return True
    return any(k in name for k in _KEEP_ZEROS) and any(is_rectified(n) for n in node.all_input_nodes)


def _name(node: fx.Node) -> str:
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target._schema.name.split("::")[-1])
    return str(getattr(node.target, "__name__", ""))


def _reads(node: fx.Node, typing: Typing) -> Iterator[Read]:
    """Reads with a parameter as their weight by the operator's family; others by what does not come out."""
    found = list(_with_parameter(node, typing))
    yield from found
    operands = [n for n in node.all_input_nodes if _is_tensor(n, typing)]
    if len(operands) < 2:
        return  # a mean or a norm over the units, not a use of each
    explained = {r.source for r in found}
    remains = _dims(typing.types[node])
    for source in operands:
        if source.op == "get_attr" or source in explained:
            continue
        for axis, e in enumerate(typing.of(source)):
            gone = _removable([e]) - remains
            if gone:
                yield Read(node, source, axis, gone, *_other_parameter(node, typing, gone))


def _with_parameter(node: fx.Node, typing: Typing) -> Iterator[Read]:
    if not isinstance(node.target, torch._ops.OpOverload):
        return
    name, call = _name(node), Call(node)
    if name == "linear":
        yield from _pair(node, typing, call["input"], -1, call["weight"], -1)
    elif name in _CONVOLUTIONS:
        yield from _convolution(node, typing, call)
    elif name in ("matmul", "mm", "bmm", "mv"):
        a, b = call.values["self"], next(v for k, v in call.values.items() if k in ("other", "mat2", "vec"))
        yield from _product(node, typing, a, b)
    elif name == "addmm":
        yield from _product(node, typing, call["mat1"], call["mat2"])
    elif name in _RECURRENT and call.get("data") is None:
        yield from _recurrent(node, typing, call)
    elif name in _CELLS:
        state = call["hx"][0] if isinstance(call["hx"], list | tuple) else call["hx"]
        yield from _pair(node, typing, call["input"], -1, call["w_ih"], -1)
        yield from _pair(node, typing, state, -1, call["w_hh"], -1)


def _convolution(node: fx.Node, typing: Typing, call: Call) -> Iterator[Read]:
    rank = len(typing.of(call["weight"]))
    channel = len(typing.of(call["input"])) - rank + 1
    transposed = "transpose" in str(node.target) or bool(call.get("transposed"))
    if transposed and call["groups"] != 1:
        yield from _grouped_transposed(node, typing, call, channel)
        return
    yield from _pair(node, typing, call["input"], channel, call["weight"], 0 if transposed else 1)


def _grouped_transposed(node: fx.Node, typing: Typing, call: Call, channel: int) -> Iterator[Read]:
    """The weight's first axis holds the groups, too, which come out; of a depthwise one nothing is summed over."""
    weight, source = call["weight"], call["input"]
    if weight.op != "get_attr" or source.op == "get_attr":
        return
    axes = _removable(typing.of(weight)[:1])
    gone = axes - _dims(typing.types[node])
    if gone or not axes:
        yield Read(node, source, channel, gone, str(weight.target), 0, whole=False)


def _product(node: fx.Node, typing: Typing, a: Any, b: Any) -> Iterator[Read]:
    yield from _pair(node, typing, a, -1, b, -2 if len(typing.of(b)) > 1 else -1)
    if len(typing.of(a)) > 1:
        yield from _pair(node, typing, b, -2, a, -1)


def _recurrent(node: fx.Node, typing: Typing, call: Call) -> Iterator[Read]:
    """The first layer reads the input; all other matrices read states that no tensor outside shows."""
    directions = 2 if call["bidirectional"] else 1
    per_cell = len(call["params"]) // (int(call["num_layers"]) * directions)
    for i, weight in enumerate(call["params"]):
        if len(typing.of(weight)) == 2:
            seen = i < directions * per_cell and i % per_cell == 0
            yield from _pair(node, typing, call["input"] if seen else None, -1, weight, -1)


def _pair(node: fx.Node, typing: Typing, source: fx.Node | None, axis: int, weight: fx.Node, weight_axis: int
          ) -> Iterator[Read]:
    if weight.op != "get_attr" or (source is not None and source.op == "get_attr"):
        return
    axes = typing.of(weight)
    e = axes[weight_axis % len(axes)]
    have = 0 if source is None else size_of(typing.of(source)[axis])
    rank = 0 if source is None else len(typing.of(source))
    yield Read(node, source, axis % rank if rank else 0, _removable([e]), str(weight.target), weight_axis % len(axes),
               source is not None and have == size_of(e))


def _other_parameter(node: fx.Node, typing: Typing, gone: frozenset[Dim]) -> tuple[str | None, int]:
    """The parameter among the operands (of an einsum, say) that has what does not come out."""
    for other in node.all_input_nodes:
        if other.op == "get_attr" and _is_tensor(other, typing):
            for axis, e in enumerate(typing.of(other)):
                if gone & set(dims_of(e)):
                    return str(other.target), axis
    return None, 0


def _removable(axes: TensorType) -> frozenset[Dim]:
    return frozenset(d for e in axes for d in dims_of(resolve(e)) if d.frozen is None)


def _dims(t: NodeType) -> frozenset[Dim]:
    return frozenset().union(*(_removable(axes) for axes in tensor_types(t)))


def _is_tensor(node: fx.Node, typing: Typing) -> bool:
    t = cast(Any, typing.types.get(node))
    return bool(t) and not isinstance(t[0], list) and isinstance(node.meta.get("val"), torch.Tensor)
