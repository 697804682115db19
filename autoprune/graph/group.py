"""Groups: the free dimensions of a model that occur in its parameters; the unit of search."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import fx

from autoprune.graph.dims import Dim, Expr, dims_of, resolve
from autoprune.graph.kept import coordinates
from autoprune.graph.typing import NodeType, Typing, tensor_types

__all__ = ["Frozen", "Group", "find_groups", "list_frozen"]

_FIXED = {"model input": "an axis of the model's input", "model output": "an axis of the model's output"}


class Frozen(NamedTuple):
    """Something that cannot be pruned: which axis of which parameter, the operator that decided it, and why."""

    what: str
    operator: str
    reason: str


@dataclass(frozen=True)
class Group:
    """Units that can only be removed together.

    size: number of units.
    kind: "channels", "features", "heads", "head_dim", "groups", "group width", "embedding" (the width of a table that
        rows are looked up in, and with it of the residual stream that they go into).
    tensors: (parameter or buffer, axis) pairs that lose positions with every unit.
    width: positions on the first of these axes that go with one unit (`head_dim` for heads; 1 for channels).
    params: number of parameter elements on these axes, i.e. in the tensors that the group touches.
    """

    name: str
    size: int
    kind: str
    tensors: tuple[tuple[str, int], ...]
    width: int
    params: int
    dim: Dim

    def step(self, align: int) -> int:
        """How many units go at a time so that the pruned axis stays a multiple of `align` positions; 1 for a group
        that has no more units than that.
        """
        step = align // math.gcd(align, self.width)
        return step if step < self.size else 1

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "size": self.size, "kind": self.kind, "width": self.width, "params": self.params,
                "tensors": [list(t) for t in self.tensors]}


def find_groups(typing: Typing, graph: fx.Graph, parameters: dict[str, int]) -> dict[str, Group]:
    """Name the free `Dim`s that occur in a parameter and reach an operator. `parameters`: name → number of elements."""
    reached = _reached(typing)
    where: dict[Dim, list[tuple[str, int, Expr]]] = {}
    for name in _by_first_use(graph, typing):
        for axis, e in enumerate(typing.tensors[name]):
            for d in dict.fromkeys(dims_of(e)):
                if d.frozen is None and d.size > 1 and d in reached:
                    where.setdefault(d, []).append((name, axis, resolve(e)))
    where = {d: uses for d, uses in where.items() if any(name in parameters for name, _, _ in uses)}
    owners = {d: _owner(uses, parameters, typing) for d, uses in where.items()}
    embedded = _embedded(graph, typing)
    bases: dict[str, list[Dim]] = {}
    for d, (name, _, _) in owners.items():
        bases.setdefault(_module(name), []).append(d)
    groups: dict[str, Group] = {}
    for base, dims in bases.items():
        for label, d in _labels(base, dims, owners).items():
            uses = where[d]
            name, axis, e = owners[d]
            groups[label] = Group(
                label, d.size, _kind(d, name, typing, embedded), tuple((n, a) for n, a, _ in uses),
                int((coordinates(e, d) >= 0).sum()) // d.size,
                sum(parameters[n] for n in {n for n, _, _ in uses} if n in parameters), d)
    return groups


def list_frozen(typing: Typing, parameters: dict[str, int]) -> list[Frozen]:
    """Every frozen `Dim` of more than one position in a parameter, once; kernel sizes are not worth a line."""
    out: list[Frozen] = []
    seen: set[Dim] = set()
    for name, axes in typing.tensors.items():
        if name not in parameters:
            continue
        for axis, e in enumerate(axes):
            for d in dims_of(e):
                if d.frozen is None or d.size == 1 or d in seen or d.frozen in ("kernel size", "one position"):
                    continue
                seen.add(d)
                operator = d.frozen.split(" in ")[0]
                reason = _FIXED.get(d.frozen, f"{d.frozen} needs exactly these positions")
                out.append(Frozen(f"{name}[{axis}] ({d.size})", operator, reason))
    return out


def _reached(typing: Typing) -> set[Dim]:
    return {d for node, t in typing.types.items() if node.op == "call_function" for d in _all_dims(t)}


def _all_dims(t: NodeType) -> set[Dim]:
    return {d for axes in tensor_types(t) for e in axes for d in dims_of(e)}


def _by_first_use(graph: fx.Graph, typing: Typing) -> list[str]:
    order: dict[str, None] = {}
    for node in graph.nodes:
        for source in node.all_input_nodes:
            if source.op == "get_attr" and source.target in typing.tensors:
                order.setdefault(str(source.target))
    return list(order)


def _owner(uses: list[tuple[str, int, Expr]], parameters: dict[str, int], typing: Typing) -> tuple[str, int, Expr]:
    """The tensor a group is named after: the first weight that produces it, or else the first that has it."""
    produces = [u for u in uses if u[0] in parameters and u[1] == 0 and len(typing.tensors[u[0]]) > 1]
    return (produces or [u for u in uses if u[0] in parameters])[0]


def _module(tensor: str) -> str:
    return tensor.rpartition(".")[0] or tensor


def _labels(base: str, dims: list[Dim], owners: dict[Dim, tuple[str, int, Expr]]) -> dict[str, Dim]:
    if len(dims) == 1 and owners[dims[0]][2] is dims[0]:
        return {base: dims[0]}
    labels: dict[str, Dim] = {}
    for d in dims:
        tag = d.tag or _module_free_name(owners[d][0]) if owners[d][2] is d else d.tag or "part"
        label, n = f"{base}:{tag}".replace(" ", "_"), 2
        while label in labels:
            label, n = f"{base}:{tag}{n}".replace(" ", "_"), n + 1
        labels[label] = d
    return labels


def _module_free_name(tensor: str) -> str:
    return tensor.rpartition(".")[2]


def _share(e: Expr, d: Dim) -> int:
    """How many positions of `e` carry each... the number of units times repetitions of `d` in `e`."""
    return d.size * sum(x is d for x in dims_of(e))


def _embedded(graph: fx.Graph, typing: Typing) -> set[Dim]:
    """The widths of the tables that embeddings look rows up in."""
    tables = [str(n.args[0].target) for n in graph.nodes
              if "embedding" in str(n.target) and n.args and isinstance(n.args[0], fx.Node)]
    widths = [resolve(typing.tensors[name][1]) for name in tables if name in typing.tensors]
    return {e for e in widths if isinstance(e, Dim)}


def _kind(d: Dim, owner: str, typing: Typing, embedded: set[Dim]) -> str:
    if d.tag:
        return d.tag
    if d in embedded:
        return "embedding"
    return "channels" if len(typing.tensors[owner]) > 2 else "features"
