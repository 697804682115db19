"""From a user's module to a plain ATen graph that can be typed, rewritten and trained.

`torch.export` does the capturing. What is added here: a dynamic batch where the model allows one, errors that name the
line of the user's model, and a canonical form of the graph in which

- assertions on shapes are gone (they hold for the dense sizes only);
- `view` is `reshape`, and attention carries its scale, so that sizes are literals in one place;
- `training` flags of norms and dropout read `self.training`, so that `train()` and `eval()` work.
"""

from __future__ import annotations

import math
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from autoprune.errors import ModelError
from autoprune.graph.typing import shape_of

__all__ = ["Captured", "capture", "split_inputs", "with_dynamic_batch"]

aten = torch.ops.aten
_DROP = {"_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range_for_size",
         "sym_constrain_range", "_guards_fn"}
_SHARED_CODE = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


@dataclass(frozen=True)
class Captured:
    """`graph` in canonical form; `tensors` by attribute name, tied ones once; whether the batch axis is dynamic."""

    graph: fx.Graph
    tensors: dict[str, torch.Tensor]
    modules: dict[str, fx.GraphModule]
    dynamic_batch: bool
    note: str | None = None


def split_inputs(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`(args, kwargs)` from a tensor, a tuple of positional inputs, or a dict of keyword inputs."""
    if isinstance(example_inputs, torch.Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, list | tuple):
        values = tuple(example_inputs)
        if len(values) == 2 and isinstance(values[0], tuple) and isinstance(values[1], dict):
            return values[0], dict(values[1])
        return values, {}
    raise ModelError("example_inputs must be a tensor, a tuple of inputs or a dict of keyword inputs",
                     given=type(example_inputs).__name__)


def with_dynamic_batch(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """`(args, kwargs, dynamic_shapes)` for an export whose first axis is dynamic; shapes are None where the inputs do
    not share a first axis. A batch of one is doubled: the exporter would take a 1 for a constant.
    """
    args, kwargs = split_inputs(example_inputs)
    leaves = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and x.dim()]
    if len({int(x.shape[0]) for x in leaves}) != 1:
        return args, kwargs, None

    def widen(x: Any) -> Any:
        return torch.cat([x, x]) if isinstance(x, torch.Tensor) and x.dim() and x.shape[0] == 1 else x

    def axis(x: Any) -> Any:
        return {0: torch.export.Dim.AUTO} if isinstance(x, torch.Tensor) and x.dim() else None

    a, k = pytree.tree_map(widen, (args, kwargs))
    shapes = [*pytree.tree_map(axis, list(a)), *pytree.tree_map(axis, k).values()]
    return tuple(a), k, tuple(shapes)


def capture(model: nn.Module, example_inputs: Any) -> Captured:
    """Export `model` in evaluation mode (its own mode is restored) and put the graph into canonical form.

    Raises `ModelError` naming the line of the model when it cannot be exported.
    """
    if not isinstance(model, nn.Module):
        raise ModelError("only a torch.nn.Module can be traced", given=type(model).__name__)
    args, kwargs = split_inputs(example_inputs)
    modes = {m: m.training for m in model.modules()}
    try:
        model.eval()
        program, dynamic, note = _export(model, args, kwargs)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return _canonical(program, dynamic, note)


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, bool, str | None]:
    wide_args, wide_kwargs, shapes = with_dynamic_batch((args, kwargs))
    if shapes is None:
        note = "fixed batch: the inputs do not share a first axis"
    else:
        try:
            program = _run_export(model, wide_args, wide_kwargs, shapes)
        except Exception as error:  # the same call with a fixed batch decides whether the model is at fault
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        else:
            if any(not isinstance(n, int) for node in program.graph.nodes if node.op == "placeholder"
                   for n in getattr(node.meta.get("val"), "shape", ())):
                return program, True, None
            reason = "the model specialises on it"
        note = f"fixed batch: a dynamic one could not be exported ({reason[:200]})"
    try:
        return _run_export(model, args, kwargs, None), False, note
    except Exception as error:  # whatever the user's forward raises, or torch.export has to say about it
        raise _export_error(model, error) from error


def _run_export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)


def _export_error(model: nn.Module, error: Exception) -> ModelError:
    where, line = "", ""
    for frame in traceback.extract_tb(error.__traceback__):
        if not frame.filename.startswith(_SHARED_CODE) and not frame.filename.startswith("<"):
            where, line = f"{frame.filename}:{frame.lineno}, in {frame.name}", frame.line or ""
    text = str(error).strip().splitlines()
    data_dependent = any(w in type(error).__name__ + str(error) for w in
                         ("DataDependent", "data-dependent", "GuardOnDataDependent", "bool()", ".item()"))
    fix = ("take the branch on the value out of forward (torch.where, torch.cond), or export the part that is a plain "
           "tensor program" if data_dependent else
           "run model(*example_inputs) by hand; when that works, wrap the part named above so that forward is a plain "
           "tensor program")
    return ModelError(
        f"{type(model).__name__} cannot be exported by torch.export: {type(error).__name__}: {text[0] if text else ''}",
        given=f"{where}\n             {line}".rstrip() if where else None, fix=fix)


def _canonical(program: Any, dynamic: bool, note: str | None) -> Captured:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = program.module(check_guards=False)
    graph: fx.Graph = module.graph
    tensors, modules = _attributes(module, graph)
    flag: fx.Node | None = None
    for node in list(graph.nodes):
        if node.op == "call_module" or _short(node) in _DROP:
            node.replace_all_uses_with(node.args[0]) if node.users else None
            graph.erase_node(node)
        elif _short(node) in ("view", "_unsafe_view") and "dtype" not in str(node.target):
            node.target = aten.reshape.default
            node.args, node.kwargs = (node.args[0], node.args[1] if len(node.args) > 1 else node.kwargs["size"]), {}
        elif _short(node) == "squeeze" and len(node.args) == 1:
            dims = [i for i, n in enumerate(cast(fx.Node, node.args[0]).meta["val"].shape) if isinstance(n, int) and n == 1]
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
    return Captured(graph, {k: v for k, v in tensors.items() if k in used},
                    {k: v for k, v in modules.items() if k in used}, dynamic, note)


_TRAINING_ARGUMENT = {"batch_norm": "training", "instance_norm": None, "dropout": "train", "feature_dropout": "train",
                      "alpha_dropout": "train", "lstm": "train", "gru": "train", "rnn_tanh": "train",
                      "rnn_relu": "train"}


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
