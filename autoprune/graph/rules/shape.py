"""Operators that move, cut, join or rename positions."""

from __future__ import annotations

import math
from typing import Any

from torch import fx

from autoprune.graph.dims import Dim, Expr, Product, reshape, resolve, size_of, split
from autoprune.graph.typing import Call, NodeType, Offset, Size, TensorType, Typing, concat, is_dynamic, rule


@rule("view", "reshape", "_unsafe_view", "unflatten", "flatten", "squeeze", "view_as", "reshape_as", "ravel")
def view(t: Typing, node: fx.Node, call: Call) -> NodeType:
    if call.get("dtype") is not None:  # view.dtype reinterprets bits
        return t.fallback(node)
    source = node.args[0]
    out = reshape(t.of(source), t.shape(node), t.why)
    for name in ("size", "shape"):
        if call.get(name) is not None:
            t.set(node, name, [Size(e) for e in out])
    if call.get("sizes") is not None:
        start = call["dim"] % len(t.of(source))
        t.set(node, "sizes", [Size(e) for e in out[start : start + len(call["sizes"])]])
    return out


@rule("unsqueeze")
def unsqueeze(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x = list(t.of(call["self"]))
    x.insert(call["dim"] % (len(x) + 1), t.frozen(1))
    return x


@rule("permute")
def permute(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x = t.of(call["self"])
    return [x[i] for i in call["dims"]]


@rule("transpose", "swapaxes", "swapdims")
def transpose(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x = list(t.of(node.args[0]))
    a, b = int(node.args[1]), int(node.args[2])  # type: ignore[arg-type]
    x[a], x[b] = x[b], x[a]
    return x


@rule("t", "numpy_T", "mT", "adjoint", "matrix_H")
def reversed_axes(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x = t.of(node.args[0])
    return [*x[:-2], *x[-2:][::-1]] if "numpy" not in str(node.target) else x[::-1]


@rule("movedim", "moveaxis")
def movedim(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x = t.of(node.args[0])
    source, target = node.args[1], node.args[2]
    sources = [source] if isinstance(source, int) else list(source)  # type: ignore[arg-type]
    targets = [target] if isinstance(target, int) else list(target)  # type: ignore[arg-type]
    moved = {d % len(x): x[s % len(x)] for s, d in zip(sources, targets, strict=True)}
    rest = iter([e for i, e in enumerate(x) if i not in {s % len(x) for s in sources}])
    return [moved[i] if i in moved else next(rest) for i in range(len(x))]


@rule("expand", "expand_as", "broadcast_to")
def expand(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x, shape = t.of(call["self"]), t.shape(node)
    new = len(shape) - len(x)
    other = t.of(call["other"]) if call.get("other") is not None else None
    out: TensorType = []
    for i, n in enumerate(shape):
        if i >= new and (size_of(x[i - new]) == n):
            out.append(x[i - new])
        elif other is not None:
            out.append(other[i])
        else:
            value = node.meta["val"].shape[i]
            out.append(Dim(n, t.why, symbolic=True) if is_dynamic(value) else Dim(n))
    if call.get("size") is not None:
        t.set(node, "size", [Size(e) for e in out])
    return out


@rule("broadcast_in_dim")
def broadcast_in_dim(t: Typing, node: fx.Node, call: Call) -> NodeType:
    """Axis i of the input is axis `broadcast_dimensions[i]` of the output."""
    x, shape = t.of(call["a"]), node.meta["val"].shape
    out: TensorType = [Dim(n, t.why, symbolic=True) if is_dynamic(s) else Dim(n)
                       for n, s in zip(t.shape(node), shape, strict=True)]
    for e, d in zip(x, call["broadcast_dimensions"], strict=True):
        if size_of(e) == size_of(out[d]):
            out[d] = e
    t.set(node, "shape", [Size(e) for e in out])
    return out


@rule("repeat", "tile")
def repeat(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x = t.of(call["self"])
    counts = list(call.get("repeats") or call.get("dims") or [])
    if not all(isinstance(k, int) for k in counts):
        return _keep_unrepeated(t, node, x, counts)
    counts = [1] * (len(x) - len(counts)) + counts
    x = [t.frozen(1)] * (len(counts) - len(x)) + x
    return [resolve(Product([t.frozen(k), e])) if k != 1 else e for k, e in zip(counts, x, strict=True)]


def _keep_unrepeated(t: Typing, node: fx.Node, x: TensorType, counts: list[Any]) -> NodeType:
    """Some count is dynamic (a batch): axes repeated once stay as they are, the others are frozen."""
    shape, out = node.meta["val"].shape, []
    new = len(counts) - len(x)
    for i, k in enumerate(counts):
        if k == 1 and i >= new:
            out.append(x[i - new])
        else:
            if i >= new:
                t.freeze(x[i - new])
            out.append(Dim(t.shape(node)[i], t.why, symbolic=is_dynamic(shape[i])))
    return out


@rule("repeat_interleave")
def repeat_interleave(t: Typing, node: fx.Node, call: Call) -> NodeType:
    repeats = call.get("repeats")
    if call.get("self") is None or not isinstance(repeats, int):
        return t.fallback(node)
    x = list(t.of(call["self"]))
    if call.get("dim") is None:  # flattened first
        x = [resolve(Product(x))]
    axis = (call.get("dim") or 0) % len(x)
    x[axis] = resolve(Product([x[axis], t.frozen(repeats)]))
    if call.get("output_size") is not None:
        t.set(node, "output_size", Size(x[axis]))
    return x


@rule("cat", "concat", "concatenate")
def cat(t: Typing, node: fx.Node, call: Call) -> NodeType:
    tensors = [t.of(n) for n in node.args[0]]  # type: ignore[union-attr]
    tensors = [x for x in tensors if not (len(x) == 1 and size_of(x[0]) == 0)] or tensors[:1]
    axis = call["dim"] % len(tensors[0])
    for x in tensors[1:]:
        for i, (a, b) in enumerate(zip(tensors[0], x, strict=True)):
            if i != axis:
                t.unify(a, b)
    out = list(tensors[0])
    out[axis] = concat([x[axis] for x in tensors])
    return out


@rule("stack")
def stack(t: Typing, node: fx.Node, call: Call) -> NodeType:
    tensors = [t.of(n) for n in call["tensors"]]
    for x in tensors[1:]:
        for a, b in zip(tensors[0], x, strict=True):
            t.unify(a, b)
    out = list(tensors[0])
    out.insert(call["dim"] % (len(out) + 1), t.frozen(len(tensors)))
    return out


@rule("split_with_sizes", "split", "chunk", "tensor_split", "split_with_sizes_copy", "unsafe_split", "unsafe_chunk",
      "unsafe_split_with_sizes")
def split_axis(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x = t.of(call["self"])
    axis = call["dim"] % len(x)
    shapes = [[-1 if is_dynamic(n) else int(n) for n in v.shape] for v in node.meta["val"]]
    if any(s[axis] < 0 for s in shapes):
        t.freeze(x[axis])
        return [[*x[:axis], Dim(1, t.why, symbolic=True), *x[axis + 1 :]] for _ in shapes]
    parts = split(x[axis], [s[axis] for s in shapes], t.why)
    t.set(node, "split", [Size(p) for p in parts])
    return [[*x[:axis], p, *x[axis + 1 :]] for p in parts]


@rule("slice", "narrow", "slice_copy")
def slice_axis(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x = list(t.of(call["self"]))
    axis = call["dim"] % len(x)
    length, taken = size_of(x[axis]), t.shape(node)[axis]
    start, step = call["start"] or 0, call.get("step") or 1
    if taken == length and step == 1 and isinstance(start, int):
        if "narrow" in str(node.target):
            t.set(node, "length", Size(x[axis]))
        elif isinstance(call["end"], int) and 0 <= call["end"] < 2**31:
            t.set(node, "end", Size(x[axis]))
        return x
    dynamic = is_dynamic(node.meta["val"].shape[axis])
    if not isinstance(start, int) or dynamic:
        t.freeze(x[axis])
        x[axis] = Dim(taken, t.why, symbolic=dynamic)
        return x
    start = max(start + length, 0) if start < 0 else min(start, length)
    if step != 1:
        x[axis] = _strided(t, node, x[axis], start, step, taken)
        return x
    pieces = [n for n in (start, taken, length - start - taken) if n > 0]
    whole = x[axis]
    x[axis] = split(whole, pieces, t.why)[1 if start else 0] if taken else t.frozen(0)
    t.set(node, "start", Offset(whole, start))
    if "narrow" in str(node.target):
        t.set(node, "length", Size(x[axis]))
    else:
        t.set(node, "end", Offset(whole, start + taken))
    return x


def _strided(t: Typing, node: fx.Node, e: Expr, start: int, step: int, taken: int) -> Expr:
    """Every `step`-th position of `n × step`: the strides stay whole, so `n` may still shrink."""
    length = size_of(e)
    if length % step or start >= step or taken != length // step:
        t.freeze(e)
        return t.frozen(taken)
    kept = Dim(taken)
    t.unify(e, Product([kept, t.frozen(step)]))
    t.set(node, "end", Size(e))
    return resolve(kept)


@rule("select", "select_copy")
def select(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x = list(t.of(call["self"]))
    t.freeze(x.pop(call["dim"] % len(x)))
    return x


@rule("unbind", "unbind_copy")
def unbind(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x = list(t.of(call["self"]))
    t.freeze(x.pop(call["dim"] % len(x)))
    return [list(x) for _ in node.meta["val"]]


@rule("roll", "flip", "fliplr", "flipud", "rot90")
def reorder(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x = t.of(call["self"])
    dims = call.get("dims")
    t.freeze(*([x[d] for d in dims] if dims else x))
    return x


@rule("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d")
def pad(t: Typing, node: fx.Node, call: Call) -> NodeType:
    """Zeros round an axis are positions of their own: they stay, what they enclose may shrink."""
    x, shape, amounts = list(t.of(call["self"])), t.shape(node), call.get("pad") or call.get("padding")
    constant = (call.get("mode") or "constant") == "constant" and "reflection" not in str(node.target)
    for i in range(len(amounts) // 2):
        low, high, axis = amounts[2 * i], amounts[2 * i + 1], len(x) - 1 - i
        if low == 0 == high:
            continue
        if constant and isinstance(low, int) and isinstance(high, int) and low >= 0 and high >= 0:
            whole = [t.frozen(low)] * (low > 0) + [x[axis]] + [t.frozen(high)] * (high > 0)
            x[axis] = concat(whole)
        else:
            t.freeze(x[axis])
            x[axis] = t.frozen(shape[axis])
    return x


@rule("pixel_shuffle", "pixel_unshuffle")
def pixel_shuffle(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x, shape = t.of(call["self"]), t.shape(node)
    r = call.get("upscale_factor") or call.get("downscale_factor")
    t.freeze(*x[-2:])
    spatial = [t.frozen(shape[-2]), t.frozen(shape[-1])]
    if call.get("downscale_factor"):
        return [*x[:-3], resolve(Product([x[-3], t.frozen(r * r)])), *spatial]
    channels = Dim(shape[-3])
    t.unify(x[-3], Product([channels, t.frozen(r * r)]))
    return [*x[:-3], channels, *spatial]


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x = list(t.of(call["self"]))
    groups = t.frozen(call["groups"])
    width = Dim(size_of(x[1]) // call["groups"])
    t.unify(x[1], Product([groups, width]))
    x[1] = Product([width, groups])
    return x


@rule("im2col")
def im2col(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x, shape = t.of(call["self"]), t.shape(node)
    t.freeze(*x[-2:])
    taps = t.frozen(math.prod(call["kernel_size"]))
    return [*x[:-3], resolve(Product([x[-3], taps])), t.frozen(shape[-1])]


@rule("col2im")
def col2im(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x, shape = t.of(call["self"]), t.shape(node)
    t.freeze(x[-1])
    channels = Dim(shape[-3])
    t.unify(x[-2], Product([channels, t.frozen(math.prod(call["kernel_size"]))]))
    return [*x[:-2], channels, t.frozen(shape[-2]), t.frozen(shape[-1])]


@rule("unfold")
def unfold(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x, shape = list(t.of(call["self"])), t.shape(node)
    axis = call["dimension"] % len(x)
    t.freeze(x[axis])
    x[axis] = t.frozen(shape[axis])
    return [*x, t.frozen(shape[-1])]


@rule("meshgrid", "broadcast_tensors", "atleast_1d", "atleast_2d", "diagonal", "as_strided", "tril", "triu", "diag",
      "diff", "trace")
def positional(t: Typing, node: fx.Node, call: Call) -> NodeType:
    return t.fallback(node)
