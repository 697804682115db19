"""Writing sizes into a copy of the graph and cutting the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from torch import fx

from autoprune.graph.branches import needed_nodes
from autoprune.graph.dims import Expr, size_of
from autoprune.graph.kept import Kept
from autoprune.graph.literal import Literal, Offset, Quotient, Size
from autoprune.graph.typing import Call, TensorType, Typing

__all__ = ["Values", "copy_graph", "cut_tensor", "has_devices", "rewrite", "rewrite_modules", "set_devices",
           "spread_tensor"]

_LITERALS = (Size, Offset, Quotient)


class Values(Protocol):
    """What is written in the place of literals: numbers (`Kept`), or where to find them (`program._Slots`)."""

    def touches(self, e: Expr) -> bool:
        """Whether the literals that `e` decides are to be written."""

    def value(self, literal: Literal) -> int:
        """What to write."""


def rewrite(graph: fx.Graph, typing: Typing, values: Values,
            replaced: Mapping[fx.Node, fx.Node] | None = None) -> fx.Graph:
    """A copy of `graph` with `values` for its literals; nodes that nothing touches are copied as they are.

    `replaced`: sums of residual branches that are removed → the skips that take their place.
    """
    replaced = replaced or {}
    alive = needed_nodes(graph, replaced) if replaced else None
    out = fx.Graph()
    out._codegen = graph._codegen
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node in replaced:
            if replaced[node] in copies:  # else: all that needs the sum is removed too
                copies[node] = copies[replaced[node]]
            continue
        if alive is not None and node not in alive and node.op != "placeholder":
            continue
        copy = out.node_copy(node, copies.__getitem__)
        copy.meta = {k: v for k, v in node.meta.items() if k != "val"}
        copies[node] = copy
        for name, literal in typing.literals.get(node, {}).items():
            if any(values.touches(e) for e in _axes(literal)):
                _write(node, copy, name, literal, values)
    return out


def copy_graph(graph: fx.Graph) -> fx.Graph:
    """A copy that shares the input and output structure (deep-copying that makes torch 2.13 warn)."""
    out = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        copies[node] = out.node_copy(node, copies.__getitem__)
    out._codegen = graph._codegen
    return out


def rewrite_modules(modules: Mapping[str, fx.GraphModule], typing: Typing, kept: Kept) -> dict[str, fx.GraphModule]:
    """The nested graphs (branches, regions with another precision) rewritten like the graph that calls them."""
    out: dict[str, fx.GraphModule] = {}
    for name, module in modules.items():
        inner = {n: m for n, m in module.named_children() if isinstance(m, fx.GraphModule)}
        root: dict[str, Any] = {**dict(module.named_buffers()), **rewrite_modules(inner, typing, kept)}
        out[name] = fx.GraphModule(root, rewrite(module.graph, typing, kept))
    return out


def has_devices(graph: fx.Graph) -> bool:
    """Whether a device is written in `graph`, as in `arange(…, device="cpu")`."""
    return any(isinstance(a, torch.device) for n in graph.nodes if n.op == "call_function"
               for a in (*n.args, *n.kwargs.values()))


def set_devices(graph: fx.Graph, device: torch.device) -> None:
    """Write `device` in the place of every device in `graph`."""
    def other(value: Any) -> Any:
        return device if isinstance(value, torch.device) else value

    for node in graph.nodes:
        if node.op == "call_function":
            node.args = tuple(other(a) for a in node.args)
            node.kwargs = {name: other(a) for name, a in node.kwargs.items()}


def cut_tensor(tensor: torch.Tensor, axes: TensorType, kept: Kept) -> torch.Tensor:
    """A copy of `tensor` with only the positions of `axes` that stay."""
    out = tensor.detach()
    cut = False
    for i, e in enumerate(axes):
        if kept.touches(e):
            out = out.index_select(i, kept.positions(e).to(tensor.device))
            cut = True
    return out if cut else out.clone()


def spread_tensor(tensor: torch.Tensor, axes: TensorType, kept: Kept) -> torch.Tensor:
    """The reverse of `cut_tensor`: a copy in the dense shape, with zeros at the positions that are gone."""
    if not any(kept.touches(e) for e in axes):
        return tensor.clone()
    out = tensor.new_zeros([size_of(e) for e in axes])
    rank = len(axes)
    places = tuple(kept.positions(e).to(tensor.device).view([-1 if i == k else 1 for k in range(rank)])
                   for i, e in enumerate(axes))
    out[places] = tensor
    return out


def _axes(literal: Any) -> list[Expr]:
    if isinstance(literal, list):
        return [e for item in literal for e in _axes(item)]
    if isinstance(literal, Quotient):
        return [literal.axis, literal.by]
    return [literal.axis] if isinstance(literal, _LITERALS) else []


def _write(node: fx.Node, copy: fx.Node, name: str, literal: Any, values: Values) -> None:
    call = Call(node)
    if name == "split":
        copy.target = torch.ops.aten.split_with_sizes.default
        copy.args = (copy.args[0], [values.value(item) for item in literal], call["dim"])
        copy.kwargs = {}
        return
    position = call.position[name]
    positional = position < len(copy.args)
    old = copy.args[position] if positional else copy.kwargs.get(name)
    new = _sizes(cast(list[Any], old), literal, values) if isinstance(literal, list) else values.value(literal)
    if positional:
        copy.update_arg(position, new)
    else:
        copy.update_kwarg(name, new)


def _sizes(old: list[Any], literals: list[Any], values: Values) -> list[Any]:
    """Integers follow the literals; a dynamic entry stays what it was, or becomes the one that is inferred (-1)."""
    dynamic = [isinstance(o, fx.Node) and values.touches(item.axis) for o, item in zip(old, literals, strict=True)]
    infer = any(dynamic)
    out: list[Any] = []
    for o, item, is_dynamic in zip(old, literals, dynamic, strict=True):
        if is_dynamic:
            out.append(-1)
        elif isinstance(o, fx.Node) or (o == -1 and not infer):
            out.append(o)
        else:
            out.append(values.value(item))
    return out
