"""One pass over an exported graph that gives every axis of every tensor its dimension expression.

`Typing` walks the nodes in order and calls the rule registered for each operator (`autoprune/graph/rules/`). A rule
unifies the axes that must agree, returns the types of its outputs, and names the literals of the node that depend on
sizes, so that rewriting the graph later needs no knowledge of operators at all.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import fx

from autoprune.graph.dims import Concat, Dim, Expr, dims_of, freeze, resolve, size_of, unify
from autoprune.graph.literal import Literal, Offset, Quotient, Size

__all__ = ["Call", "Literal", "NodeType", "Offset", "Quotient", "Size", "TensorType", "Typing", "is_dynamic", "rule",
           "tensor_types"]

TensorType = list[Expr]
NodeType = TensorType | list[TensorType] | None


class Call:
    """The arguments of a node under the names of its operator's schema: `call.x`, or `call["self"]`."""

    _names: dict[Any, list[tuple[str, Any]]] = {}  # noqa: RUF012  (a cache of schemas, the same for every instance)

    def __init__(self, node: fx.Node):
        names = self._names.get(node.target)
        if names is None:
            schema = cast(torch._ops.OpOverload, node.target)._schema
            names = [(a.name, a.default_value if a.has_default_value() else None) for a in schema.arguments]
            self._names[node.target] = names
        self.values: dict[str, Any] = dict(names)
        self.values.update(zip((n for n, _ in names), node.args, strict=False))
        self.values.update(node.kwargs)
        self.position = {n: i for i, (n, _) in enumerate(names)}

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def get(self, name: str) -> Any:
        return self.values.get(name)


Rule = Callable[["Typing", fx.Node, Call], NodeType]
_RULES: dict[str, Rule] = {}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Register a typing rule for ATen operators by their name without overload: `@rule("linear")`.

    The rule is called once per node, in graph order, in the process that traces. It gets the typing (to ask for the
    types of the arguments, to unify, to freeze), the node and its arguments by schema name; it returns one expression
    per output axis, a list of such for several outputs, or None for outputs that are no tensors. It must not touch the
    graph. In-place variants (`add_`) share the rule of the plain name.
    """

    def register(f: Rule) -> Rule:
        for name in operators:
            _RULES[name] = f
        return f

    return register


def shape_of(value: Any) -> list[int]:
    """Sizes of a fake tensor as integers; a symbolic size counts as the one it was traced with."""
    return [_hint(n) for n in value.shape]


def is_dynamic(n: Any) -> bool:
    """Whether a size is a symbol. The exporter keeps a `SymInt` for a size it has found to be a constant."""
    return not isinstance(n, int) and not n.node.expr.is_number


def _hint(n: Any) -> int:
    if isinstance(n, int):
        return n
    hint = n.node.hint
    return 7919 if hint is None else int(hint)  # data-dependent: any size will do, the axis is frozen


class Typing:
    """The types of one graph.

    `attributes` maps placeholders to tensor names where the graph takes its parameters as inputs.

    Attributes
    ----------
    types: for each node its axes' expressions.
    tensors: for each parameter, buffer and constant (by attribute name) its axes' expressions.
    literals: for each node, argument name → the literal or list of literals that depends on sizes.
    """

    def __init__(self, graph: fx.Graph, attributes: Mapping[str, str] | None = None):
        self._names = dict(attributes or {})
        self.types: dict[fx.Node, NodeType] = {}
        self.tensors: dict[str, TensorType] = {}
        self.literals: dict[fx.Node, dict[str, Any]] = {}
        self.unknown: dict[str, int] = {}
        self._why = ""
        self._graph = graph

    def run(self) -> Typing:
        import autoprune.graph.rules.all  # noqa: F401  (importing registers the rules)

        for node in self._graph.nodes:
            if node.op == "placeholder":
                known = node.name in self._names
                self.types[node] = self._attribute(node) if known else self._fresh(node, "model input")
            elif node.op == "output":
                for source in node.all_input_nodes:
                    self.freeze_node(source, "model output")
            else:
                self.visit(node)
        self._freeze_ambiguous_shapes()
        return self

    def visit(self, node: fx.Node) -> None:
        """Type one constant or operator."""
        self._why = _describe(node)
        self.types[node] = self._attribute(node) if node.op == "get_attr" else self._call(node)

    # -- what rules use -------------------------------------------------------------------------------------------

    def of(self, node: Any) -> TensorType:
        """Expressions of a tensor-valued node, one per axis."""
        found = self.types[node]
        if found is None or (found and isinstance(found[0], list)):
            raise TypeError(f"{node} is not one tensor")
        return cast(TensorType, found)

    def shape(self, node: fx.Node) -> list[int]:
        """Sizes of the node's output as it was traced."""
        return shape_of(node.meta["val"])

    def unify(self, a: Expr, b: Expr) -> None:
        unify(a, b, self._why)

    def freeze(self, *axes: Expr, why: str | None = None) -> None:
        for e in axes:
            freeze(e, why or self._why)

    def frozen(self, size: int) -> Dim:
        return Dim(size, self._why)

    @property
    def why(self) -> str:
        return self._why

    def set(self, node: fx.Node, argument: str, literal: Any) -> None:
        """Note that an argument of `node` (by schema name) depends on sizes; integers and nodes in it stay."""
        self.literals.setdefault(node, {})[argument] = literal

    def visit_reason(self, node: fx.Node) -> None:
        """Make `node` the operator that reasons name, after its nested graphs were typed."""
        self._why = _describe(node)

    def freeze_node(self, node: fx.Node, why: str | None = None) -> None:
        for axes in tensor_types(self.types.get(node)):
            self.freeze(*axes, why=why)

    def fallback(self, node: fx.Node) -> NodeType:
        """Sound for any operator: nothing that goes in may be pruned, and what comes out is frozen."""
        for source in node.all_input_nodes:
            self.freeze_node(source)
        return self._fresh(node, self._why)

    def fresh_rest(self, node: fx.Node) -> list[TensorType]:
        """Frozen types for the outputs after the first."""
        return [_frozen_axes(v, self._why) for v in node.meta["val"][1:]]

    # -- the walk -------------------------------------------------------------------------------------------------

    def _attribute(self, node: fx.Node) -> NodeType:
        name = self._names.get(node.name) or cast(str, node.target)
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            return None
        if name not in self.tensors:
            self.tensors[name] = [Dim(n) for n in shape_of(value)]
        return self.tensors[name]

    def _fresh(self, node: fx.Node, why: str) -> NodeType:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            return _frozen_axes(value, why)
        if isinstance(value, list | tuple):
            return [_frozen_axes(v, why) if isinstance(v, torch.Tensor) else [] for v in value]
        return None

    def _call(self, node: fx.Node) -> NodeType:
        if node.target is operator.getitem:
            source = self.types[cast(fx.Node, node.args[0])]
            return cast(list[TensorType], source)[cast(int, node.args[1])] if source is not None else None
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            return _RULES["higher_order"](self, node, cast(Call, None))
        if not isinstance(node.target, torch._ops.OpOverload):
            return self.fallback(node) if _has_tensor(node) else None
        name = node.target._schema.name.split("::")[-1]
        found = _RULES.get(name) or _RULES.get(name.removesuffix("_"))
        if found is None and torch.Tag.pointwise in node.target.tags:
            found = _RULES["pointwise"]
        if found is None:
            if _has_tensor(node) or node.all_input_nodes:
                self.unknown[name] = self.unknown.get(name, 0) + 1
            return self.fallback(node)
        return found(self, node, Call(node))

    def _freeze_ambiguous_shapes(self) -> None:
        """A size list can leave at most one entry to be inferred (-1). More than one entry that is both dynamic and
        prunable cannot be written down: freeze them.
        """
        for literals in self.literals.values():
            for value in literals.values():
                if not isinstance(value, list):
                    continue
                dynamic = [s.axis for s in value if isinstance(s, Size) and _dynamic(s.axis)]
                free = [e for e in dynamic if any(d.frozen is None for d in dims_of(e))]
                for e in free[1:]:
                    freeze(e, "two dynamic sizes in one reshape")


def _dynamic(e: Expr) -> bool:
    return any(d.symbolic for d in dims_of(e))


def _frozen_axes(value: torch.Tensor, why: str) -> TensorType:
    return [Dim(_hint(n), why, symbolic=is_dynamic(n)) for n in value.shape]


def tensor_types(t: NodeType) -> Sequence[TensorType]:
    if not t:
        return []
    return t if isinstance(t[0], list) else [t]


def _has_tensor(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor | list | tuple)


def _describe(node: fx.Node) -> str:
    """The operator and where in the user's model it is, for reasons: `matmul in blocks.0.attn`."""
    if isinstance(node.target, torch._ops.OpOverload):
        name = node.target._schema.name.split("::")[-1]
    else:
        name = getattr(node.target, "__name__", str(node.target))
    path = module_path(node)
    return f"{name} in {path}" if path else name


def module_path(node: fx.Node) -> str:
    """Dotted path of the user's module that called the operator, or an empty string."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = str(next(reversed(stack.values()))[0])
    return "" if path.startswith("_empty") else path.removeprefix("L['self'].")


def broadcast(typing: Typing, operands: Sequence[TensorType], shape: Sequence[int]) -> TensorType:
    """Unify the right-aligned axes that are not broadcast, and return the types of the result."""
    rank = len(shape)
    out: TensorType = []
    for i in range(rank):
        aligned = [t[i - rank + len(t)] for t in operands if i - rank + len(t) >= 0]
        wide = [e for e in aligned if size_of(e) == shape[i] and shape[i] != 1]
        for e in wide[1:]:
            typing.unify(wide[0], e)
        out.append(resolve(wide[0]) if wide else typing.frozen(shape[i]))
    return out


def concat(parts: Sequence[Expr]) -> Expr:
    return resolve(Concat(parts))
