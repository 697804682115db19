"""Graphs inside the graph: regions with another precision, checkpoints, branches."""

from __future__ import annotations

from torch import fx
from torch.utils import _pytree as pytree

from autoprune.graph.typing import Call, NodeType, TensorType, Typing, rule

_REGIONS = ("wrap_with_autocast", "wrap_with_set_grad_enabled", "cond", "tag_activation_checkpoint",
            "wrap_activation_checkpoint")


@rule("higher_order")
def higher_order(t: Typing, node: fx.Node, call: Call) -> NodeType:
    """The operands become the placeholders of each nested graph; all of these graphs must give the same types.

    Loops are not among them: what goes in there also comes out of the round before.
    """
    inner = [_nested(n) for n in node.args if isinstance(n, fx.Node)]
    graphs = [g for g in inner if g is not None]
    if str(node.target) not in _REGIONS or not graphs:
        return t.fallback(node)
    last = max(i for i, n in enumerate(node.args) if isinstance(n, fx.Node) and _nested(n) is not None)
    operands = pytree.tree_leaves(list(node.args[last + 1 :]))
    outputs = [_walk(t, g, operands) for g in graphs]
    if any(o is None for o in outputs):
        return t.fallback(node)
    first = outputs[0] or []
    t.visit_reason(node)
    for other in outputs[1:]:
        for x, y in zip(first, other or [], strict=True):
            for a, b in zip(x, y, strict=True):
                t.unify(a, b)
    return first


def _nested(node: fx.Node) -> fx.Graph | None:
    owner = node.graph.owning_module
    found = getattr(owner, str(node.target), None) if node.op == "get_attr" and owner is not None else None
    return found.graph if isinstance(found, fx.GraphModule) else None


def _walk(t: Typing, graph: fx.Graph, operands: list[object]) -> list[TensorType] | None:
    """Types of the outputs of `graph`, or None when it cannot be matched with its operands."""
    places = [n for n in graph.nodes if n.op == "placeholder"]
    constants = any(n.op == "get_attr" and _nested(n) is None for n in graph.nodes)
    if len(places) != len(operands) or constants:
        return None
    for place, operand in zip(places, operands, strict=True):
        t.types[place] = t.types.get(operand) if isinstance(operand, fx.Node) else None
    for node in graph.nodes:
        if node.op not in ("placeholder", "output"):
            t.visit(node)
    values = pytree.tree_leaves(list(graph.output_node().args))
    if not all(isinstance(v, fx.Node) and t.types.get(v) is not None for v in values):
        return None
    return [t.of(v) for v in values]
