"""The canonical form of an exported graph, in which

- assertions on shapes are gone (they hold for the dense sizes only);
- `view` is `reshape`, a `repeat` of single positions is `expand`, and attention carries its scale, so that sizes are
  literals in one place;
- `training` flags of norms and dropout read `self.training`, so that `train()` and `eval()` work;
- `no_grad` regions are part of the graph, and counters (`arange`) are constants.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, cast

import torch
from torch import fx
from torch.utils import _pytree as pytree

from autoprune.graph.typing import shape_of

__all__ = ["canonical"]

aten = torch.ops.aten
_DROP = {"_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range_for_size",
         "sym_constrain_range", "_guards_fn"}


def canonical(program: Any) -> tuple[fx.Graph, dict[str, torch.Tensor], dict[str, fx.GraphModule]]:
    """The graph of an exported program, and the tensors and the nested graphs that it names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = program.module(check_guards=False)
    graph: fx.Graph = module.graph
    _inline_gradient_regions(module, graph)
    _fold_counters(module, graph)
    tensors, modules = _attributes(module, graph)
    flag: fx.Node | None = None
    for node in list(graph.nodes):
        if node.op == "call_module" or _short(node) in _DROP:
            node.replace_all_uses_with(node.args[0]) if node.users else None
            graph.erase_node(node)
        elif _short(node) in ("view", "_unsafe_view") and "dtype" not in str(node.target):
            node.target = aten.reshape.default
            node.args, node.kwargs = (node.args[0], node.args[1] if len(node.args) > 1 else node.kwargs["size"]), {}
        elif _short(node) in ("repeat", "tile"):
            _repeat_as_expand(graph, node)
        elif _short(node) == "squeeze" and len(node.args) == 1:
            sizes = cast(fx.Node, node.args[0]).meta["val"].shape
            dims = [i for i, n in enumerate(sizes) if isinstance(n, int) and n == 1]
            node.target, node.args = aten.squeeze.dims, (node.args[0], dims)
        elif _short(node) == "scaled_dot_product_attention" and node.kwargs.get("scale") is None:
            width = shape_of(cast(fx.Node, node.args[0]).meta["val"])[-1]
            node.kwargs = {**node.kwargs, "scale": 1.0 / math.sqrt(width)}
        elif _short(node) in _TRAINING_ARGUMENT:
            flag = _read_training(graph, node, flag)
    graph.eliminate_dead_code()
    for node in list(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    used = {n.target for n in graph.nodes if n.op == "get_attr"}
    graph.lint()
    return graph, {k: v for k, v in tensors.items() if k in used}, {k: v for k, v in modules.items() if k in used}


def _inline_gradient_regions(module: fx.GraphModule, graph: fx.Graph) -> None:
    """Put the nodes of a `no_grad` region into the graph, and detach what comes out of it."""
    for node in list(graph.nodes):
        if str(node.target) != "wrap_with_set_grad_enabled" or node.op != "call_function":
            continue
        enabled, region, *operands = node.args
        inner = cast(fx.GraphModule, getattr(module, str(cast(fx.Node, region).target)))
        if any(isinstance(n.target, torch._ops.OpOverload) and n.target._schema.is_mutable for n in inner.graph.nodes):
            continue  # it writes to what it is given, which may be parameters: only allowed without gradients
        places = [n for n in inner.graph.nodes if n.op == "placeholder"]
        copies: dict[fx.Node, Any] = dict(zip(places, operands, strict=True))
        with graph.inserting_before(node):
            for n in inner.graph.nodes:
                if n.op in ("placeholder", "output"):
                    continue
                copies[n] = graph.node_copy(n, copies.__getitem__)
                if n.op == "get_attr":
                    copies[n].target = f"{cast(fx.Node, region).target}.{n.target}"
            outputs = []
            for value in pytree.tree_leaves(list(inner.graph.output_node().args)):
                out = copies[value]
                if not enabled and value.op != "placeholder" and isinstance(out.meta.get("val"), torch.Tensor):
                    out = graph.call_function(aten.detach.default, (out,))
                    out.meta = dict(copies[value].meta)
                outputs.append(out)
        for user in list(node.users):
            user.replace_all_uses_with(outputs[user.args[1]])
            graph.erase_node(user)
        graph.erase_node(node)


def _repeat_as_expand(graph: fx.Graph, node: fx.Node) -> None:
    """Repeating axes of one position is expanding them; what is expanded may shrink with what it meets."""
    sizes = cast(fx.Node, node.args[0]).meta["val"].shape
    counts = list(cast(list[Any], node.args[1]))
    counts = [1] * (len(sizes) - len(counts)) + counts
    new = len(counts) - len(sizes)
    if any(k != 1 and not (isinstance(n, int) and n == 1) for k, n in zip(counts[new:], sizes, strict=True)):
        return
    node.target = aten.expand.default
    node.args = (node.args[0], [*counts[:new], *[-1 if k == 1 else k for k in counts[new:]]])
    with graph.inserting_after(node):
        copy = graph.call_function(aten.clone.default, (node,), {"memory_format": torch.contiguous_format})
    copy.meta = dict(node.meta)
    node.replace_all_uses_with(copy, delete_user_cb=lambda user: user is not copy)


_COUNTERS = ("arange", "linspace", "eye", "tril_indices", "triu_indices")
_LARGEST_COUNTER = 2**16


def _fold_counters(module: fx.GraphModule, graph: fx.Graph) -> None:
    """Make constants of `arange` and its like: as tensors they can be cut with the axis that they meet."""
    for node in list(graph.nodes):
        if _short(node) not in _COUNTERS or node.all_input_nodes or _written_to(node):
            continue
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor) or not all(isinstance(n, int) for n in value.shape):
            continue
        if value.numel() > _LARGEST_COUNTER or value.device.type == "meta":
            continue
        name = f"counted_{node.name}"
        module.register_buffer(name, node.target(*node.args, **node.kwargs))
        with graph.inserting_before(node):
            constant = graph.create_node("get_attr", name)
        constant.meta = dict(node.meta)
        node.replace_all_uses_with(constant)
        graph.erase_node(node)


def _written_to(node: fx.Node) -> bool:
    """Whether an in-place operator changes the tensor or a view of it."""
    for user in node.users:
        if not isinstance(user.target, torch._ops.OpOverload):
            return True
        schema = user.target._schema
        if schema.is_mutable or (any(r.alias_info is not None for r in schema.returns) and _written_to(user)):
            return True
    return False


_DROPOUT = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
_TRAINING_ARGUMENT = {"batch_norm": "training", "instance_norm": None, **dict.fromkeys(_DROPOUT, "train"),
                      **dict.fromkeys((f"{name}_" for name in _DROPOUT), "train"), "lstm": "train", "gru": "train",
                      "rnn_tanh": "train", "rnn_relu": "train"}


def _read_training(graph: fx.Graph, node: fx.Node, flag: fx.Node | None) -> fx.Node | None:
    """Make the training argument of `node` read `self.training`."""
    name = _TRAINING_ARGUMENT[_short(node)]
    if name is None:
        return flag
    names = [a.name for a in cast(torch._ops.OpOverload, node.target)._schema.arguments]
    position = names.index(name) if name in names else -1
    if position < 0 or position >= len(node.args) or node.args[position] is not False:
        return flag
    if flag is None:
        first = next(iter(graph.nodes))
        with graph.inserting_before(first):
            flag = graph.create_node("get_attr", "training", name="training")
    args = list(node.args)
    args[position] = flag
    node.args = tuple(args)
    return flag


def _short(node: fx.Node) -> str:
    target = node.target
    return target._schema.name.split("::")[-1] if isinstance(target, torch._ops.OpOverload) else ""


def _attributes(module: fx.GraphModule, graph: fx.Graph) -> tuple[dict[str, torch.Tensor], dict[str, fx.GraphModule]]:
    """Tensors and nested graphs by the names that `get_attr` nodes use; tied parameters share their first name."""
    tensors: dict[str, torch.Tensor] = {}
    modules: dict[str, fx.GraphModule] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for node in graph.nodes:
        if node.op != "get_attr":
            continue
        value: Any = module
        for part in cast(str, node.target).split("."):
            value = getattr(value, part)
        if isinstance(value, torch.Tensor):
            key = (id(value),) if value.numel() == 0 else (value.data_ptr(), value.shape, value.stride(), value.dtype)
            name = seen.setdefault(key, cast(str, node.target))
            node.target = name
            tensors[name] = value
        elif isinstance(value, fx.GraphModule):
            modules[cast(str, node.target)] = value
    return tensors, modules
