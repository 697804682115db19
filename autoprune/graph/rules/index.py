"""Look-ups."""

from __future__ import annotations

from torch import fx

from autoprune.graph.dims import Dim, Expr, size_of
from autoprune.graph.typing import Call, NodeType, Typing, broadcast, is_dynamic, rule, shape_of


@rule("embedding")
def embedding(t: Typing, node: fx.Node, call: Call) -> NodeType:
    weight = t.of(call["weight"])
    t.freeze(weight[0], why="rows looked up by embedding")
    return [*t.of(call["indices"]), weight[1]]


@rule("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(t: Typing, node: fx.Node, call: Call) -> NodeType:
    """Sums or means of looked-up rows; a maximum also returns which rows these were, for each feature."""
    if call["mode"] == 2:
        return t.fallback(node)
    weight = t.of(call["weight"])
    for source in node.all_input_nodes:
        if source is not call["weight"]:
            t.freeze_node(source)
    t.freeze(weight[0], why="rows looked up by embedding_bag")
    bags = node.meta["val"][0]
    rows = Dim(shape_of(bags)[0], t.why, symbolic=is_dynamic(bags.shape[0]))
    return [[rows, weight[1]], *t.fresh_rest(node)]


def _around_indices(t: Typing, x: list[Expr], indices: list[fx.Node | None]) -> tuple[list[Expr], list[Expr]] | None:
    """The axes of `x` that are not indexed, in front of and behind the indexed ones, which are frozen. None for a
    boolean mask, which selects a data-dependent number of positions.
    """
    given = {i: index for i, index in enumerate(indices) if index is not None}
    if not given or any(index.meta["val"].dtype.itemsize == 1 for index in given.values()):
        return None
    for i, index in given.items():
        t.freeze(x[i])
        t.freeze_node(index)
    used = list(given)
    if used == list(range(used[0], used[-1] + 1)):
        return x[: used[0]], x[used[-1] + 1 :]
    return [], [e for i, e in enumerate(x) if i not in used]


@rule("index_put")
def index_put(t: Typing, node: fx.Node, call: Call) -> NodeType:
    """`self[indices] = values`: what is not indexed has the same positions in both."""
    x, values = t.of(call["self"]), t.of(call["values"])
    around = _around_indices(t, x, call["indices"])
    if around is None or not around[1] or len(values) < len(around[1]):
        return t.fallback(node)
    after = around[1]
    t.freeze(*values[: len(values) - len(after)], *around[0])
    for a, b in zip(after, values[len(values) - len(after) :], strict=True):
        if size_of(a) == size_of(b):
            t.unify(a, b)
    return x


@rule("index", "_unsafe_index")
def index(t: Typing, node: fx.Node, call: Call) -> NodeType:
    """Indexed axes are frozen; the others pass, in front of and behind the (adjacent) indexed ones."""
    x = t.of(call["self"])
    around = _around_indices(t, x, call["indices"])
    if around is None:
        return t.fallback(node)
    before, after = around
    value = node.meta["val"].shape
    sizes = t.shape(node)
    stop = len(sizes) - len(after)
    middle = [Dim(n, t.why, symbolic=is_dynamic(v))
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
    picked_by = call.get("index") or call.get("indices")
    x, picked = t.of(call["self"]), t.of(picked_by)
    if call.get("dim") is None:
        return t.fallback(node)
    axis = call["dim"] % len(x)
    t.freeze(x[axis], picked[axis])
    if str(node.target).startswith("aten.take_along_dim"):
        return [*broadcast(t, [x[:axis], picked[:axis]], t.shape(node)[:axis]), picked[axis],
                *broadcast(t, [x[axis + 1 :], picked[axis + 1 :]], t.shape(node)[axis + 1 :])]
    _along(t, x, picked, axis)
    return list(picked)


def _along(t: Typing, x: list[Expr], other: list[Expr], axis: int) -> None:
    """Unify the axes other than `axis`; where the sizes differ only the first positions are meant: freeze."""
    for i, (a, b) in enumerate(zip(x, other, strict=True)):
        if i != axis and size_of(a) == size_of(b):
            t.unify(a, b)
        elif i != axis:
            t.freeze(a, b)


@rule("scatter", "scatter_add", "scatter_reduce")
def scatter(t: Typing, node: fx.Node, call: Call) -> NodeType:
    """`self[index[i, j], j] = src[i, j]`: positions of the scattered axis have a meaning, those of the others pass."""
    x, picked = t.of(call["self"]), t.of(call["index"])
    if len(x) != len(picked) or not x:
        return t.fallback(node)
    axis = call["dim"] % len(x)
    t.freeze(x[axis], picked[axis])
    _along(t, x, picked, axis)
    if isinstance(call.get("src"), fx.Node):
        source = t.of(call["src"])
        _along(t, picked, source, axis)
        t.freeze(source[axis])
    return x


@rule("index_fill")
def index_fill(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x = t.of(call["self"])
    t.freeze(x[call["dim"]])
    t.freeze_node(call["index"])
    return x


@rule("slice_scatter", "select_scatter")
def written(t: Typing, node: fx.Node, call: Call) -> NodeType:
    """A slice of `self` replaced by `src`: positions of the sliced axis have a meaning, those of the others pass."""
    x, source = t.of(call["self"]), list(t.of(call["src"]))
    axis = call["dim"] % len(x)
    if len(source) < len(x):
        source.insert(axis, t.frozen(1))
    if size_of(x[axis]) == size_of(source[axis]):
        t.unify(x[axis], source[axis])
    else:
        t.freeze(x[axis], source[axis])
    _along(t, x, source, axis)
    return x


@rule("index_add", "index_copy")
def index_add(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x, source = t.of(call["self"]), t.of(call["source"])
    if len(x) != len(source) or not x:
        return t.fallback(node)
    axis = call["dim"] % len(x)
    t.freeze(x[axis], source[axis])
    t.freeze_node(call["index"])
    _along(t, x, source, axis)
    return x


@rule("one_hot", "masked_select", "nonzero", "masked_scatter", "bincount", "searchsorted", "bucketize")
def scattered(t: Typing, node: fx.Node, call: Call) -> NodeType:
    return t.fallback(node)
