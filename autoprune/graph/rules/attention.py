"""Attention as one operator."""

from __future__ import annotations

from torch import fx

from autoprune.graph.dims import Dim, Product, dims_of, size_of
from autoprune.graph.typing import Call, NodeType, TensorType, Typing, broadcast, rule


@rule("scaled_dot_product_attention")
def scaled_dot_product_attention(t: Typing, node: fx.Node, call: Call) -> NodeType:
    """`[…, heads, length, head_dim]`; the scale was written out when the graph was traced, so head_dim may shrink."""
    q, k, v = t.of(call["query"]), t.of(call["key"]), t.of(call["value"])
    shape = t.shape(node)
    if call.get("enable_gqa") and len(q) > 2 and size_of(q[-3]) != size_of(k[-3]):
        t.unify(k[-3], v[-3])
        repeats = Dim(size_of(q[-3]) // size_of(k[-3]))
        t.unify(q[-3], Product([k[-3], repeats]))
        for a, b in ((q, k), (k, v)):
            for x, y in zip(a[:-3], b[:-3], strict=True):
                t.unify(x, y)
        lead = q[:-2]
    else:
        lead = broadcast(t, [q[:-2], k[:-2], v[:-2]], shape[:-2])
    t.unify(q[-1], k[-1])
    t.unify(k[-2], v[-2])
    if call["attn_mask"] is not None:
        mask = t.of(call["attn_mask"])
        full = [*lead, q[-2], k[-2]]
        broadcast(t, [full, mask], [*shape[:-1], size_of(k[-2])])
    tag(lead[-1:], "heads")
    tag(q[-1:], "head_dim")
    tag(v[-1:], "head_dim")
    return [*lead, q[-2], v[-1]]


def tag(axes: TensorType, name: str) -> None:
    """Give unnamed dimensions a name for people."""
    for e in axes:
        for d in dims_of(e):
            d.tag = d.tag or name
