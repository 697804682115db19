"""Residual branches that can be removed whole: `x + f(x)` becomes `x`.

The two operands of an addition have the same type by then (the typing has unified them), so putting the skip in the
place of the sum is always well-formed; it is the coarsest unit there is, and the only one that shortens the chain of
operators a device has to run one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import fx

from autoprune.graph.dims import Dim, Expr, dims_of, resolve
from autoprune.graph.typing import Typing

__all__ = ["Branch", "find_branches", "needed_nodes"]

_ADD = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)
_LARGEST = 0.5  # of all parameters: a branch around (nearly) the whole net is the net


@dataclass(frozen=True)
class Branch:
    """One removable branch.

    tensors: parameters and buffers that go with it; params: their number of parameter elements; total, skip: the nodes
    of the sum and of what takes its place.
    """

    name: str
    tensors: tuple[str, ...]
    params: int
    total: fx.Node
    skip: fx.Node


def find_branches(graph: fx.Graph, typing: Typing, parameters: dict[str, int],
                  names: dict[str, str] | None = None) -> dict[str, Branch]:
    """Branches by name, in the order of the graph. `parameters`: name → number of elements.

    `names` maps placeholders to tensor names where the graph takes its parameters as inputs.
    """
    bits, ancestors = _ancestors(graph)
    out: dict[str, Branch] = {}
    whole = sum(parameters.values())
    for node in graph.nodes:
        operands = [a for a in node.args[:2] if isinstance(a, fx.Node)] if node.target in _ADD else []
        if len(operands) != 2 or node.kwargs.get("alpha", 1) != 1:
            continue
        for skip, branch in (operands, operands[::-1]):
            if not ancestors[branch] & bits[skip] or not _same_type(typing, skip, node):
                continue
            tensors = _tensors_lost(graph, node, skip, names or {})
            params = sum(parameters.get(t, 0) for t in tensors)
            if 0 < params <= _LARGEST * whole:
                name = _name(tensors, parameters, out)
                out[name] = Branch(name, tuple(tensors), params, node, skip)
            break
    return out


def needed_nodes(graph: fx.Graph, replaced: Mapping[fx.Node, fx.Node]) -> set[fx.Node]:
    """The nodes that are still computed when each key of `replaced` is taken from its value instead.

    Nodes without users (in-place writes, the output) count as needed, unless only a removed branch leads to them.
    """
    roots = [n for n in graph.nodes if not n.users and n.op != "get_attr"]
    seen: set[fx.Node] = set()
    stack = roots
    while stack:
        node = stack.pop()
        node = _follow(node, replaced)
        if node in seen:
            continue
        seen.add(node)
        stack.extend(_follow(n, replaced) for n in node.all_input_nodes)
    return seen


def _follow(node: fx.Node, replaced: Mapping[fx.Node, fx.Node]) -> fx.Node:
    while node in replaced:
        node = replaced[node]
    return node


def _ancestors(graph: fx.Graph) -> tuple[dict[fx.Node, int], dict[fx.Node, int]]:
    """A bit for every computed node, and for every node the bits of those that it depends on (attributes and inputs are
    left out): sets of nodes would take a gigabyte for the thousands of a loop that was unrolled.
    """
    bits, ancestors = dict[fx.Node, int](), dict[fx.Node, int]()
    for node in graph.nodes:
        bits[node] = 1 << len(bits) if node.op == "call_function" else 0
        ancestors[node] = 0
        for source in node.all_input_nodes:
            if bits[source]:
                ancestors[node] |= bits[source] | ancestors[source]
    return bits, ancestors


def _same_type(typing: Typing, a: fx.Node, b: fx.Node) -> bool:
    left, right = typing.types.get(a), typing.types.get(b)
    if not left or not right or len(left) != len(right) or isinstance(left[0], list) or isinstance(right[0], list):
        return False
    if typing.shape(a) != typing.shape(b):
        return False
    pairs = zip(left, right, strict=True)
    return all(repr(resolve(x)) == repr(resolve(y)) and set(dims_of(x)) ^ set(dims_of(y)) <= _frozen(x, y)
               for x, y in pairs)


def _frozen(*axes: Expr) -> set[Dim]:
    return {d for e in axes for d in dims_of(e) if d.frozen is not None}


def _tensors_lost(graph: fx.Graph, node: fx.Node, skip: fx.Node, names: dict[str, str]) -> list[str]:
    alive = needed_nodes(graph, {node: skip})
    return [names.get(n.name) or str(n.target) for n in graph.nodes
            if (n.op == "get_attr" or n.name in names) and n.users and n not in alive and n.target != "training"]


def _name(tensors: Iterable[str], parameters: dict[str, int], taken: dict[str, Branch]) -> str:
    """The deepest module that holds all of the branch's parameters, and the first part below it when that is taken
    or too vague (`layers.0:attention`).
    """
    paths = [t.split(".")[:-1] for t in tensors if t in parameters]
    weights = [t.split(".")[:-1] for t in tensors if t in parameters and "norm" not in t.lower()] or paths
    common: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    name = ".".join(common) or "model"
    below = {p[len(common)] for p in weights if len(p) > len(common)}
    if len(below) == 1:
        name = f"{name}:{below.pop()}"
    base, n = name, 2
    while name in taken:
        name, n = f"{base}#{n}", n + 1
    return name
