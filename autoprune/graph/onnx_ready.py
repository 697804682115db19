"""The same computation in operators that torch's ONNX exporter translates rightly.

Each function of `_REWRITES` changes one node of a graph that is about to be exported, in place; its docstring says what
the exporter (of torch 2.13) makes of the node otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.fx.graph import _PyTreeCodeGen
from torch.utils import _pytree as pytree

from autoprune.graph.module import PrunedModule, build
from autoprune.graph.plan import Plan
from autoprune.graph.rewrite import copy_graph
from autoprune.graph.trace import capture
from autoprune.graph.typing import Call

__all__ = ["exportable"]

aten = torch.ops.aten


def exportable(model: nn.Module, example_inputs: Any) -> PrunedModule:
    """A module that computes what `model` does, on the same tensors."""
    if isinstance(model, PrunedModule):
        module = PrunedModule(model, copy_graph(model.graph))
    else:
        captured = capture(model, example_inputs)
        module = build(captured.graph, captured.tensors, captured.modules, Plan(), type(model).__name__)
    for node in list(module.graph.nodes):
        change = _REWRITES.get(node.target)
        if change is not None:
            change(module, node)
    _return_tensors_only(module)
    module.recompile()
    return module


def _contiguous(module: PrunedModule, node: fx.Node) -> None:
    """Attention becomes a kernel with another memory layout than the one the graph was traced with; a `contiguous` that
    was free then is needed afterwards, and the `view` behind it fails (T5, Swin).
    """
    node.target = aten.clone.default
    node.args, node.kwargs = node.args[:1], {"memory_format": torch.contiguous_format}


def _attention(module: PrunedModule, node: fx.Node) -> None:
    """As above, without a `contiguous` behind it."""
    with module.graph.inserting_after(node):
        copy = module.graph.call_function(aten.clone.default, (node,), {"memory_format": torch.contiguous_format})
    node.replace_all_uses_with(copy, delete_user_cb=lambda user: user is not copy)


def _group_norm(module: PrunedModule, node: fx.Node) -> None:
    """With a group for each channel the number of groups would be a constant of the ONNX graph."""
    call = Call(node)
    weight = call["weight"]
    if isinstance(weight, fx.Node) and module.tensors()[str(weight.target)].shape[0] == call["num_groups"]:
        node.target = aten.instance_norm.default
        node.args = (call["input"], weight, call["bias"], None, None, True, 0.1, call["eps"], False)
        node.kwargs = {}


def _cdist(module: PrunedModule, node: fx.Node) -> None:
    """There is no translation."""
    call = Call(node)
    if call["p"] != 2.0:
        return
    with module.graph.inserting_before(node):
        a = module.graph.call_function(aten.unsqueeze.default, (call["x1"], -2))
        b = module.graph.call_function(aten.unsqueeze.default, (call["x2"], -3))
        difference = module.graph.call_function(aten.sub.Tensor, (a, b))
    node.target, node.args, node.kwargs = aten.linalg_vector_norm.default, (difference, 2, [-1]), {}


def _conv3d(module: PrunedModule, node: fx.Node) -> None:
    """Without a bias it gets one of two axes."""
    call = Call(node)
    if call["bias"] is None:
        node.target = aten.convolution.default
        node.args = (call["input"], call["weight"], None, call["stride"], call["padding"], call["dilation"], False,
                     [0, 0, 0], call["groups"])
        node.kwargs = {}


def _pool_to_one(module: PrunedModule, node: fx.Node) -> None:
    """Becomes an `as_strided`."""
    if list(Call(node)["output_size"]) == [1]:
        node.target, node.args, node.kwargs = aten.mean.dim, (node.args[0], [-1], True), {}


_REWRITES: dict[Any, Callable[[PrunedModule, fx.Node], None]] = {
    aten.contiguous.default: _contiguous,
    aten.scaled_dot_product_attention.default: _attention,
    aten.group_norm.default: _group_norm,
    aten.cdist.default: _cdist,
    aten.conv3d.default: _conv3d,
    aten.adaptive_avg_pool1d.default: _pool_to_one,
}


def _return_tensors_only(module: PrunedModule) -> None:
    """Leave `None` and numbers out of the outputs, which the exporter cannot write."""
    output = module.graph.output_node()
    leaves = pytree.tree_leaves(list(output.args))
    kept = tuple(x for x in leaves if isinstance(x, fx.Node))
    info = getattr(module.graph._codegen, "pytree_info", None)
    if len(kept) == len(leaves) or info is None:
        return
    output.args = (kept,)
    module.graph.set_codegen(_PyTreeCodeGen(info._replace(out_spec=pytree.tree_structure(kept))))
