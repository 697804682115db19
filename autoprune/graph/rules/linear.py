"""Contractions: linear layers, matrix products, einsum, convolutions."""

from __future__ import annotations

import string
from typing import Any

from torch import fx

from autoprune.graph.dims import Dim, Expr, Product, dims_of, resolve, size_of
from autoprune.graph.typing import Call, NodeType, Quotient, TensorType, Typing, broadcast, is_dynamic, rule


@rule("linear")
def linear(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x, weight = t.of(call["input"]), t.of(call["weight"])
    t.unify(x[-1], weight[-1])
    if len(weight) == 1:
        return x[:-1]
    if call["bias"] is not None:
        t.unify(t.of(call["bias"])[-1], weight[0])
    return [*x[:-1], weight[0]]


@rule("matmul", "bmm", "mm", "mv", "dot", "vdot")
def matmul(t: Typing, node: fx.Node, call: Call) -> NodeType:
    return _matmul(t, t.of(node.args[0]), t.of(node.args[1]), t.shape(node))


def _matmul(t: Typing, a: TensorType, b: TensorType, shape: list[int]) -> TensorType:
    t.unify(a[-1], b[-2] if len(b) > 1 else b[-1])
    rows = a[-2:-1]
    columns = b[-1:] if len(b) > 1 else []
    batch_rank = len(shape) - len(rows) - len(columns)
    batch = broadcast(t, [a[:-2], b[:-2]], shape[:batch_rank])
    return [*batch, *rows, *columns]


@rule("addmm", "baddbmm", "addbmm", "addmv")
def addmm(t: Typing, node: fx.Node, call: Call) -> NodeType:
    product = _matmul(t, t.of(node.args[1]), t.of(node.args[2]), t.shape(node))
    return broadcast(t, [t.of(node.args[0]), product], t.shape(node))


@rule("cdist", "_cdist_forward")
def cdist(t: Typing, node: fx.Node, call: Call) -> NodeType:
    """`[…, P, M]`, `[…, R, M]` → `[…, P, R]`: distances over the features that stay."""
    a, b = t.of(call["x1"]), t.of(call["x2"])
    t.unify(a[-1], b[-1])
    return [*broadcast(t, [a[:-2], b[:-2]], t.shape(node)[:-2]), a[-2], b[-2]]


@rule("grouped_mm_fallback", "_grouped_mm")
def grouped_matmul(t: Typing, node: fx.Node, call: Call) -> NodeType:
    """Mixture of experts: rows `[S, in]` sorted by expert, weights `[experts, in, out]`, offsets `[experts]`."""
    operands = [t.of(n) for n in node.args if isinstance(n, fx.Node)]
    if [len(x) for x in operands] != [2, 3, 1]:
        return t.fallback(node)
    x, weight, offsets = operands
    t.freeze(weight[0], x[0], *offsets)
    t.unify(x[1], weight[1])
    return [x[0], weight[2]]


@rule("bilinear")
def bilinear(t: Typing, node: fx.Node, call: Call) -> NodeType:
    """`y_o = Σ_ij a_i w_oij b_j`."""
    a, b, weight = t.of(call["input1"]), t.of(call["input2"]), t.of(call["weight"])
    t.unify(a[-1], weight[1])
    t.unify(b[-1], weight[2])
    if call.get("bias") is not None:
        t.unify(t.of(call["bias"])[0], weight[0])
    return [*broadcast(t, [a[:-1], b[:-1]], t.shape(node)[:-1]), weight[0]]


@rule("tensordot")
def tensordot(t: Typing, node: fx.Node, call: Call) -> NodeType:
    a, b = t.of(call["self"]), t.of(call["other"])
    left, right = ([d % len(x) for d in call[name]] for x, name in ((a, "dims_self"), (b, "dims_other")))
    for i, j in zip(left, right, strict=True):
        t.unify(a[i], b[j])
    return [*(e for i, e in enumerate(a) if i not in left), *(e for j, e in enumerate(b) if j not in right)]


@rule("kron")
def kron(t: Typing, node: fx.Node, call: Call) -> NodeType:
    a, b = t.of(call["self"]), t.of(call["other"])
    return [resolve(Product(pair)) for pair in zip(a, b, strict=True)] if len(a) == len(b) else t.fallback(node)


@rule("outer", "ger")
def outer(t: Typing, node: fx.Node, call: Call) -> NodeType:
    return [t.of(node.args[0])[0], t.of(node.args[1])[0]]


def _without_ellipsis(equation: str, ranks: list[int]) -> str:
    """`...` as letters that the equation does not use, counted from the right; implicit outputs are left alone."""
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    hidden = [rank - len(term) + 3 if "..." in term else 0 for term, rank in zip(terms, ranks, strict=True)]
    letters = [c for c in string.ascii_letters if c not in equation][: max(hidden)]
    if not arrow or len(letters) < max(hidden):
        return equation
    terms = [term.replace("...", "".join(letters[len(letters) - n :])) for term, n in zip(terms, hidden, strict=True)]
    return f"{','.join(terms)}->{right.replace('...', ''.join(letters))}"


@rule("einsum")
def einsum(t: Typing, node: fx.Node, call: Call) -> NodeType:
    operands = [t.of(n) for n in call["tensors"]]
    equation = _without_ellipsis(call["equation"].replace(" ", ""), [len(x) for x in operands])
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if "." in equation or any(len(term) != len(x) for term, x in zip(terms, operands, strict=True)):
        return t.fallback(node)
    if not arrow:
        right = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    letters: dict[str, Expr] = {}
    for term, x in zip(terms, operands, strict=True):
        if len(set(term)) != len(term):  # a diagonal
            t.freeze(*x)
        for letter, axis in zip(term, x, strict=True):
            seen = letters.get(letter)
            if seen is None or size_of(seen) == 1:
                letters[letter] = axis
            elif size_of(axis) != 1:
                t.unify(seen, axis)
    return [letters[c] for c in right]


@rule("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution",
      "_convolution")
def convolution(t: Typing, node: fx.Node, call: Call) -> NodeType:
    """`groups` = G: channels in = G × in/G and channels out = G × out/G; depthwise is the case in/G = 1."""
    x, weight = t.of(call["input"]), t.of(call["weight"])
    transposed = "transpose" in str(node.target) or bool(call.get("transposed"))
    channel = len(x) - (len(weight) - 1)  # 1, or 0 without a batch axis
    groups = call["groups"]
    if not isinstance(groups, int):  # one group per sample: a kernel made for each
        return t.fallback(node)
    lead, second = weight[0], weight[1]
    if groups == 1:
        into, out = (lead, second) if transposed else (second, lead)
        t.unify(x[channel], into)
    else:
        per_group = Dim(size_of(lead) // groups)
        group = Dim(groups)
        group.tag, per_group.tag = "groups", "group width"
        t.unify(lead, Product([group, per_group]))
        if transposed:
            t.unify(x[channel], lead)
            out = Product([group, second])
            t.set(node, "groups", Quotient(lead, per_group))
        else:
            t.unify(x[channel], Product([group, second]))
            out = lead
            t.set(node, "groups", Quotient(x[channel], second))
    if call["bias"] is not None:
        t.unify(t.of(call["bias"])[0], out)
    return [*x[:channel], out, *_spatial(t, node, call, x[channel + 1 :])]


def _spatial(t: Typing, node: fx.Node, call: Call, axes: TensorType) -> TensorType:
    """An axis with a kernel of one position, unpadded and not strided, passes; one that the kernel covers is summed
    over; any other keeps its positions.
    """
    kernel = t.of(call["weight"])[2:]
    stride, padding = call.get("stride"), call.get("padding")
    sizes = t.shape(node)[-len(axes) :]
    out: TensorType = []
    for i, e in enumerate(axes):
        unpadded = padding == "valid" or _each(padding, i) == 0
        if unpadded and sizes[i] == size_of(e) and size_of(kernel[i]) == 1 == _each(stride, i):
            out.append(e)
        elif unpadded and sizes[i] == 1 and size_of(kernel[i]) == size_of(e) and any(
                d.frozen is None for d in dims_of(e)):
            t.unify(kernel[i], e)
            out.append(t.frozen(1))
        else:
            t.freeze(kernel[i], why="kernel size")
            t.freeze(e)
            out.append(Dim(sizes[i], t.why, symbolic=is_dynamic(node.meta["val"].shape[i - len(axes)])))
    return out


def _each(value: Any, i: int) -> Any:
    return value if not isinstance(value, list | tuple) else value[i if len(value) > 1 else 0]
