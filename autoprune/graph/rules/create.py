"""Tensors made inside the model: uniform fills may shrink with what they meet, counters may not."""

from __future__ import annotations

from torch import fx

from autoprune.graph.dims import Dim
from autoprune.graph.typing import Call, NodeType, Size, Typing, rule


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty", "rand", "randn")
def filled(t: Typing, node: fx.Node, call: Call) -> NodeType:
    out = []
    for n, value in zip(t.shape(node), node.meta["val"].shape, strict=True):
        out.append(Dim(n) if isinstance(value, int) else Dim(n, t.why, symbolic=True))
    t.set(node, "size", [Size(e) for e in out])
    return list(out)


@rule("arange", "scalar_tensor", "linspace", "eye", "tril_indices", "triu_indices", "randint", "randperm")
def counted(t: Typing, node: fx.Node, call: Call) -> NodeType:
    return t.fallback(node)
