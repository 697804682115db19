"""Reductions, and operators that look along an axis."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from autoprune.graph.dims import size_of
from autoprune.graph.typing import Call, NodeType, TensorType, Typing, broadcast, rule, shape_of


def _reduced(t: Typing, x: TensorType, dims: Any, keepdim: bool) -> TensorType:
    if isinstance(dims, int):
        dims = [dims]
    gone = {d % len(x) for d in dims} if dims else set(range(len(x)))
    if keepdim:
        return [t.frozen(1) if i in gone else e for i, e in enumerate(x)]
    return [e for i, e in enumerate(x) if i not in gone]


@rule("sum", "mean", "amax", "amin", "prod", "any", "all", "norm", "linalg_vector_norm", "logsumexp", "std", "var",
      "var_mean", "std_mean", "max", "min", "median", "nansum", "nanmean", "count_nonzero", "frobenius_norm",
      "nanmedian", "mode", "quantile", "nanquantile")
def reduction(t: Typing, node: fx.Node, call: Call) -> NodeType:
    """The axis goes. A mean or variance over a pruned axis is the one of the units that stay."""
    if call.get("other") is not None:  # max.other is element-wise
        from autoprune.graph.rules.elementwise import pointwise

        return pointwise(t, node, call)
    if isinstance(call.get("q"), fx.Node):  # several quantiles are an axis of their own
        return t.fallback(node)
    x = t.of(node.args[0])
    dims = call.get("dim") if call.get("dim") is not None else call.get("dims")  # prims say dims
    out = _reduced(t, x, dims, bool(call.get("keepdim")))
    value = node.meta["val"]
    if not isinstance(value, tuple | list):
        return out
    looked_at = any(u.target is not operator.getitem or u.args[1] == 1 for u in node.users)
    if len(value) == 2 and looked_at and not value[1].dtype.is_floating_point:  # an index means a position
        t.freeze(*[e for i, e in enumerate(x) if i == call["dim"] % max(len(x), 1)])
    return [list(out) for _ in value]


@rule("softmax", "log_softmax", "_softmax", "_log_softmax", "softmin", "normalize", "_safe_softmax")
def softmax(t: Typing, node: fx.Node, call: Call) -> NodeType:
    return t.of(node.args[0])


@rule("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits",
      "kl_div", "soft_margin_loss")
def loss(t: Typing, node: fx.Node, call: Call) -> NodeType:
    """Position by position, and then nothing (`reduction` = 0), a mean or a sum over the positions that stay."""
    operands = [t.of(n) for n in node.all_input_nodes]
    rank = max(len(x) for x in operands)
    shape = [max(size_of(x[i - rank]) for x in operands if i - rank + len(x) >= 0) for i in range(rank)]
    both = broadcast(t, operands, shape)
    return both if call["reduction"] == 0 else []


@rule("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin", "flip", "sort", "argsort")
def ordered(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x = t.of(node.args[0])
    dims = call.get("dim") if call.get("dim") is not None else call.get("dims")
    dims = [dims] if isinstance(dims, int) else dims or range(len(x))
    t.freeze(*[x[d] for d in dims])
    value = node.meta["val"]
    return [list(x) for _ in value] if isinstance(value, tuple | list) else x


@rule("topk", "kthvalue")
def topk(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x = t.of(call["self"])
    axis = call["dim"] % len(x)
    t.freeze(x[axis])
    shape = shape_of(node.meta["val"][0])
    out = [t.frozen(shape[i]) if i == axis else e for i, e in enumerate(x)] if len(shape) == len(x) else [
        e for i, e in enumerate(x) if i != axis]
    return [list(out), list(out)]


@rule("argmax", "argmin")
def argmax(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x = t.of(call["self"])
    dim = call["dim"]
    t.freeze(*([x[dim]] if dim is not None else x))
    return _reduced(t, x, dim, bool(call["keepdim"]))


@rule("cosine_similarity", "pairwise_distance")
def similarity(t: Typing, node: fx.Node, call: Call) -> NodeType:
    a, b = t.of(node.args[0]), t.of(node.args[1])
    rank = max(len(a), len(b))
    shape = [max(size_of(x[i - rank + len(x)]) for x in (a, b) if i - rank + len(x) >= 0) for i in range(rank)]
    both = broadcast(t, [a, b], shape)
    dim = call.get("dim")
    return _reduced(t, both, -1 if dim is None else dim, bool(call.get("keepdim")))
