"""Normalisation layers."""

from __future__ import annotations

from torch import fx

from autoprune.graph.dims import Expr, Product, size_of
from autoprune.graph.typing import Call, NodeType, Size, Typing, rule


def _per_channel(t: Typing, channel: Expr, call: Call, names: tuple[str, ...]) -> None:
    for name in names:
        if call.get(name) is not None:
            t.unify(channel, t.of(call[name])[0])


@rule("batch_norm", "instance_norm")
def batch_norm(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x = t.of(call["input"])
    _per_channel(t, x[1], call, ("weight", "bias", "running_mean", "running_var"))
    return x


@rule("_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "native_batch_norm",
      "_native_batch_norm_legit_functional", "_batch_norm_with_update")
def native_batch_norm(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x = t.of(call["input"])
    _per_channel(t, x[1], call, ("weight", "bias", "running_mean", "running_var"))
    outputs = node.meta["val"]
    return [x] + [[x[1]] if v.dim() == 1 and v.shape[0] == size_of(x[1]) else [] for v in outputs[1:]]


@rule("layer_norm", "rms_norm", "native_layer_norm", "_fused_rms_norm")
def layer_norm(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x = t.of(call["input"])
    shape = call["normalized_shape"]
    axes = x[len(x) - len(shape) :]
    for name in ("weight", "bias"):
        if call.get(name) is not None:
            for a, b in zip(axes, t.of(call[name]), strict=True):
                t.unify(a, b)
    t.set(node, "normalized_shape", [Size(e) for e in axes])
    if isinstance(node.meta["val"], tuple | list):
        rest = [[*x[: -len(shape)], *[t.frozen(1) for _ in shape]] for _ in node.meta["val"][1:]]
        return [x, *rest]
    return x


@rule("group_norm", "native_group_norm")
def group_norm(t: Typing, node: fx.Node, call: Call) -> NodeType:
    """Channels = groups × width; the number of groups stays, the width may shrink (equally in every group).

    Where every channel is a group, it is the groups that may go.
    """
    x = t.of(call["input"])
    groups = call.get("num_groups") or call.get("group")
    weight = call.get("weight")
    if groups == size_of(x[1]) and call.get("C") is None and weight is not None and weight.op != "call_function":
        _per_channel(t, x[1], call, ("weight", "bias"))
        t.set(node, "num_groups", Size(x[1]))
        return x
    width = t.frozen(size_of(x[1]) // groups)
    width.frozen = None
    t.unify(x[1], Product([t.frozen(groups), width]))
    _per_channel(t, x[1], call, ("weight", "bias"))
    if call.get("C") is not None:
        t.set(node, "C", Size(x[1]))
    if isinstance(node.meta["val"], tuple | list):
        return [x, *t.fresh_rest(node)]
    return x


@rule("_weight_norm", "_weight_norm_interface")
def weight_norm(t: Typing, node: fx.Node, call: Call) -> NodeType:
    """`w = g·v/‖v‖`, one norm for each position of axis `dim`, or one in all (`dim` = -1)."""
    v, g = t.of(call["v"]), t.of(call["g"])
    if len(g) == len(v) and g:
        axis = call["dim"] % len(v)
        t.unify(v[axis], g[axis])
    return [v, g] if isinstance(node.meta["val"], tuple | list) else v
