"""Look-ups."""

from __future__ import annotations

from torch import fx

from autoprune.graph.dims import Dim, Expr
from autoprune.graph.typing import Call, NodeType, Typing, rule, shape_of


@rule("embedding")
def embedding(t: Typing, node: fx.Node, call: Call) -> NodeType:
    weight = t.of(call["weight"])
    t.freeze(weight[0], why="rows looked up by embedding")
    return [*t.of(call["indices"]), weight[1]]


@rule("index", "_unsafe_index")
def index(t: Typing, node: fx.Node, call: Call) -> NodeType:
    """Indexed axes are frozen; the others pass, in front of and behind the (adjacent) indexed ones."""
    x, indices = t.of(call["self"]), call["indices"]
    used = [i for i, v in enumerate(indices) if v is not None]
    if not used or any(n.meta["val"].dtype.itemsize == 1 for n in indices if n is not None):
        return t.fallback(node)  # a boolean mask selects a data-dependent number of positions
    for i in used:
        t.freeze(x[i])
        t.freeze_node(indices[i])
    adjacent = used == list(range(used[0], used[-1] + 1))
    before: list[Expr] = x[: used[0]] if adjacent else []
    after = x[used[-1] + 1 :] if adjacent else [e for i, e in enumerate(x) if i not in used]
    value = node.meta["val"].shape
    sizes = t.shape(node)
    stop = len(sizes) - len(after)
    middle = [Dim(n, t.why, symbolic=not isinstance(v, int))
              for n, v in zip(sizes[len(before) : stop], value[len(before) : stop], strict=True)]
    return [*before, *middle, *after]


@rule("index_select")
def index_select(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x = list(t.of(call["self"]))
    axis = call["dim"] % len(x)
    t.freeze(x[axis])
    t.freeze_node(call["index"])
    x[axis] = t.frozen(t.shape(node)[axis])
    return x


@rule("gather", "take_along_dim")
def gather(t: Typing, node: fx.Node, call: Call) -> NodeType:
    """Axes other than the gathered one keep their positions when index and source have the same size there."""
    x, picked = t.of(call["self"]), t.of(call["index"])
    axis = call["dim"] % len(x)
    t.freeze(x[axis], picked[axis])
    full = shape_of(call["self"].meta["val"])
    for i, n in enumerate(t.shape(node)):
        if i != axis and n == full[i]:
            t.unify(x[i], picked[i])
        elif i != axis:
            t.freeze(x[i], picked[i])
    return list(picked)


@rule("embedding_bag", "one_hot", "scatter", "scatter_add", "index_put", "index_add", "index_copy", "masked_select",
      "nonzero", "masked_scatter", "slice_scatter", "select_scatter", "bincount", "searchsorted", "bucketize")
def scattered(t: Typing, node: fx.Node, call: Call) -> NodeType:
    return t.fallback(node)


