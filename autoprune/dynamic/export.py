"""ONNX with an `If` around each gated branch, so that a runtime really skips it. Batch 1: one decision per run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import fx
from torch.fx.graph import _PyTreeCodeGen
from torch.utils import _pytree as pytree

from autoprune.graph.onnx import export_onnx
from autoprune.graph.rewrite import copy_graph

if TYPE_CHECKING:
    from autoprune.dynamic.skippable import Skippable

__all__ = ["export"]


class _Sum(NamedTuple):
    """Names of values: a gate's decision (bool, one element), and the sum with what takes its place."""

    decision: str
    skip: str
    total: str


def export(model: Skippable) -> bytes:
    """Serialised ONNX for one sample; the inputs and outputs are those of the model.

    Exported whole and with decisions, skips and sums as further outputs; then all that only a sum needs moves, with its
    weights, into the `then` of an `If` whose `else` is the skip. `ModelError` with the exporter's reason.
    """
    import onnx

    proto = onnx.load_from_string(export_onnx(_marked(model), model.example_inputs, dynamic_batch=False))
    graph, marks = proto.graph, 3 * len(model.branches)
    names = [o.name for o in graph.output]
    marked, outputs = names[-marks:], names[:-marks]
    del graph.output[len(outputs) :]
    copies = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Identity"}
    reshaped = {n.output[0]: n.input[0] for n in graph.node if n.op_type in ("Identity", "Cast", "Reshape")}
    decisions = [_source(name, reshaped) for name in marked[::3]]
    rectified = {n.output[0] for n in graph.node if n.op_type == "Relu"}
    for decision, skip, total in zip(decisions, marked[1::3], marked[2::3], strict=True):
        _branch(graph, _Sum(decision, _source(skip, copies), _source(total, copies)), [*outputs, *decisions], rectified)
    nodes = list(graph.node)
    _refill(graph.node, [nodes[i] for i in sorted(_needed(nodes, outputs, {}))])
    read = {name for node in graph.node for name in _reads(node)}
    _refill(graph.initializer, [w for w in graph.initializer if w.name in read])
    onnx.checker.check_model(proto)
    return cast(bytes, proto.SerializeToString())


def _marked(model: Skippable) -> fx.GraphModule:
    """The dense net that also returns each gate's decision, skip and sum.

    They are copied where they stand: an operator behind a sum may write into it.
    """
    graph = copy_graph(model.graph)
    aten, marks = torch.ops.aten, list[fx.Node]()
    for opened in [n for n in graph.nodes if n.op == "call_module"]:
        (gated,) = opened.users
        (total,) = gated.users
        with graph.inserting_before(total):
            marks += [opened, graph.call_function(aten.clone.default, (opened.args[0],))]
        total.replace_input_with(gated, cast(fx.Node, gated.args[0]))
        graph.erase_node(gated)
        with graph.inserting_after(total):
            marks.append(graph.call_function(aten.clone.default, (total,)))
        total.replace_all_uses_with(marks[-1], delete_user_cb=lambda user, copy=marks[-1]: user is not copy)
    output = graph.output_node()
    leaves = [x for x in pytree.tree_leaves(list(output.args)) if isinstance(x, fx.Node)]
    output.args = ((*leaves, *marks),)
    info = getattr(graph._codegen, "pytree_info", None)
    if info is not None:
        graph.set_codegen(_PyTreeCodeGen(info._replace(out_spec=pytree.tree_structure(output.args[0]))))
    return fx.GraphModule(model, graph)


def _source(name: str, sources: Mapping[str, str]) -> str:
    while name in sources:
        name = sources[name]
    return name


def _branch(graph: Any, place: _Sum, roots: list[str], rectified: set[str]) -> None:
    """Put an `If` in the place of a sum; `roots`: all values that are needed in the end.

    A ReLU behind the sum moves into the `If`, where the runtime merges it into the convolution. `rectified`: the values
    that a ReLU leaves as they are; the result joins them then.
    """
    from onnx import TensorProto, helper

    nodes, total, skip = list(graph.node), place.total, place.skip
    lost = _needed(nodes, roots, {}) - _needed(nodes, roots, {total: skip})
    readers = [i for i, n in enumerate(nodes) if total in _reads(n)]
    joined = len(readers) == 1 and nodes[readers[0]].op_type == "Relu" and total not in roots
    if joined:
        lost.add(readers[0])
        total = nodes[readers[0]].output[0]
    own = [nodes[i] for i in sorted(lost)]
    at = next(i for i in lost if total in nodes[i].output)
    outside = {name for i, n in enumerate(nodes) if i not in lost for name in _reads(n)}
    inside = {name for n in own for name in _reads(n)} - outside
    kind = next((v.type.tensor_type.elem_type for v in [*graph.value_info, *graph.output] if v.name == total),
                TensorProto.FLOAT)
    run, skipped = f"{total}_run", f"{total}_skipped"
    nodes[at].output[list(nodes[at].output).index(total)] = run
    then = helper.make_graph(own, f"{total}_then", [], [helper.make_tensor_value_info(run, kind, None)],
                             [w for w in graph.initializer if w.name in inside])
    left = helper.make_node("Relu" if joined and skip not in rectified else "Identity", [skip], [skipped])
    other = helper.make_graph([left], f"{total}_else", [], [helper.make_tensor_value_info(skipped, kind, None)])
    if joined:
        rectified.add(total)
    choice = helper.make_node("If", [place.decision], [total], name=f"{total}_if", then_branch=then, else_branch=other)
    _refill(graph.node, [choice if i == at else n for i, n in enumerate(nodes) if i == at or i not in lost])
    _refill(graph.initializer, [w for w in graph.initializer if w.name not in inside])


def _needed(nodes: list[Any], roots: list[str], instead: Mapping[str, str]) -> set[int]:
    """Places of the nodes that `roots` need when the keys of `instead` are replaced by their values."""
    makers = {name: i for i, node in enumerate(nodes) for name in node.output}
    found: set[int] = set()
    stack = list(roots)
    while stack:
        name = stack.pop()
        maker = makers.get(instead.get(name, name))
        if maker is not None and maker not in found:
            found.add(maker)
            stack.extend(_reads(nodes[maker]))
    return found


def _reads(node: Any) -> Iterator[str]:
    """The values that a node reads, those of its nested graphs included."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _reads(inner)


def _refill(field: Any, items: list[Any]) -> None:
    """Protobuf empties what is removed from it: copies go in."""
    copies = [type(item).FromString(item.SerializeToString()) for item in items]
    del field[:]
    field.extend(copies)
