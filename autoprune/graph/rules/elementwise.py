"""Operators that act position by position, with broadcasting."""

from __future__ import annotations

from torch import fx

from autoprune.graph.dims import Concat, Dim
from autoprune.graph.typing import Call, NodeType, Typing, broadcast, rule


@rule("pointwise", "copy", "masked_fill", "lerp", "addcmul", "addcdiv", "where", "rsub", "bitwise_not",
      "__and__", "__or__", "__xor__", "logical_and", "logical_or", "maximum", "minimum",
      "hardswish", "log_sigmoid", "multiply", "divide", "subtract", "negative", "absolute", "floor_divide", "fix",
      "greater", "greater_equal", "less", "less_equal", "not_equal", "arccos", "arcsin", "arctan", "arctan2", "complex",
      "polar")
def pointwise(t: Typing, node: fx.Node, call: Call) -> NodeType:
    if isinstance(node.meta["val"], list | tuple):  # `where` of a condition alone gives places
        return t.fallback(node)
    operands = [t.of(n) for n in node.all_input_nodes if t.types[n] is not None]
    return broadcast(t, operands, t.shape(node))


@rule("clone", "contiguous", "alias", "detach", "dropout", "to", "_to_copy", "type_as", "lift_fresh_copy", "lift_fresh",
      "feature_dropout", "alpha_dropout", "zeros_like", "ones_like", "full_like", "empty_like", "rand_like",
      "randn_like", "bernoulli", "zero", "fill", "requires_grad", "detach_copy", "fake_quantize_per_tensor_affine",
      "real", "imag", "conj", "resolve_conj", "resolve_neg", "normal", "uniform", "exponential", "lift", "alias_copy")
def like_input(t: Typing, node: fx.Node, call: Call) -> NodeType:
    return t.of(node.args[0])


@rule("view_as_complex")
def view_as_complex(t: Typing, node: fx.Node, call: Call) -> NodeType:
    *x, parts = t.of(call["self"])
    t.freeze(parts)
    return x


@rule("view_as_real")
def view_as_real(t: Typing, node: fx.Node, call: Call) -> NodeType:
    return [*t.of(call["self"]), t.frozen(2)]


@rule("fake_quantize_per_channel_affine", "fake_quantize_per_channel_affine_cachemask")
def fake_quantize_per_channel(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x = t.of(call["self"])
    for name in ("scale", "zero_point"):
        t.unify(x[call["axis"]], t.of(call[name])[0])
    return [x, x] if isinstance(node.meta["val"], tuple | list) else x


@rule("native_dropout")
def native_dropout(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x = t.of(call["input"])
    return [x, x]


@rule("prelu", "_prelu_kernel")
def prelu(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x, weight = t.of(call["self"]), t.of(call["weight"])
    if len(weight) == 1 and len(x) > 1:
        if weight[0] is not x[1] and t.shape(call["weight"])[0] != 1:
            t.unify(x[1], weight[0])
        return x
    return broadcast(t, [x, weight], t.shape(node))


@rule("glu")
def glu(t: Typing, node: fx.Node, call: Call) -> NodeType:
    """`glu(x) = a·σ(b)` of the two halves of an axis: both halves keep the same positions."""
    x = list(t.of(call["self"]))
    axis = call["dim"] % len(x)
    half = Dim(t.shape(node)[axis])
    t.unify(x[axis], Concat([half, half]))
    x[axis] = half
    return x
