"""Tensors made inside the model: uniform fills may shrink with what they meet, counters may not."""

from __future__ import annotations

from torch import fx
from torch._ops import OpOverload

from autoprune.graph.dims import Dim
from autoprune.graph.typing import Call, NodeType, Size, TensorType, Typing, is_dynamic, rule


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty", "rand", "randn")
def filled(t: Typing, node: fx.Node, call: Call) -> NodeType:
    out: TensorType = []
    for n, value in zip(t.shape(node), node.meta["val"].shape, strict=True):
        out.append(Dim(n, t.why, symbolic=True) if is_dynamic(value) else Dim(n))
    t.set(node, "size", [Size(e) for e in out])
    return out


@rule("arange", "scalar_tensor", "linspace", "eye", "tril_indices", "triu_indices", "randint", "randperm")
def counted(t: Typing, node: fx.Node, call: Call) -> NodeType:
    return t.fallback(node)


@rule("sym_size", "sym_numel", "sym_stride", "item", "_local_scalar_dense")
def number(t: Typing, node: fx.Node, call: Call) -> NodeType:
    """A number read off a tensor. Arithmetic on the size of a prunable axis would go stale: freeze that axis."""
    if "sym_size" in str(node.target) and any(not isinstance(u.target, OpOverload) for u in node.users):
        t.freeze(t.of(call["self"])[call["dim"]])
    elif "sym_size" not in str(node.target):
        t.fallback(node)
    return None
