"""An ATen graph as JSON and back. Loading runs no code of the file: operators are names looked up in `torch.ops`."""

from __future__ import annotations

import json
import math
import operator
from typing import Any, cast

import torch
from torch import fx
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from autoprune.errors import ConfigError

__all__ = ["graph_from_json", "graph_to_json"]

_PYTHON = {"operator": operator, "math": math}
_KINDS: dict[str, type] = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}


def graph_to_json(module: fx.GraphModule) -> dict[str, Any]:
    """Nodes, input and output structure, and the names of parameters; no tensor values."""
    nodes, modules = [], {}
    for node in module.graph.nodes:
        target = _target_name(node) if node.op == "call_function" else node.target
        nodes.append([node.op, node.name, target, _encode(node.args), _encode(dict(node.kwargs)), _path(node)])
        if node.op == "get_attr":
            value = module
            for part in str(node.target).split("."):
                value = getattr(value, part)
            if isinstance(value, fx.GraphModule):
                modules[node.target] = graph_to_json(value)
    out: dict[str, Any] = {"schema": 1, "name": type(module).__name__, "nodes": nodes, "modules": modules,
                           "parameters": [n for n, _ in module.named_parameters()]}
    codegen = module.graph._codegen
    if isinstance(codegen, _PyTreeCodeGen):
        info = codegen.pytree_info
        out["pytree"] = [list(info.orig_args), pytree.treespec_dumps(info.in_spec),
                         pytree.treespec_dumps(cast(pytree.TreeSpec, info.out_spec))]
    return out


def graph_from_json(data: dict[str, Any]) -> tuple[fx.Graph, dict[str, fx.GraphModule]]:
    """The graph, and the nested graphs by attribute name."""
    if data.get("schema") != 1:
        raise ConfigError("the graph was written by another version of autoprune", given=data.get("schema"),
                          allowed="schema 1")
    graph = fx.Graph()
    named: dict[str, fx.Node] = {}
    for op, name, target, args, kwargs, path in data["nodes"]:
        callee = _find_target(target) if op == "call_function" else target
        node = graph.create_node(op, callee, _decode(args, named), _decode(kwargs, named), name=name)
        if path:
            node.meta["nn_module_stack"] = {path[0]: (path[0], path[1])}
        named[name] = node
    if "pytree" in data:
        names, in_spec, out_spec = data["pytree"]
        try:
            info = _PyTreeInfo(names, pytree.treespec_loads(in_spec), pytree.treespec_loads(out_spec))
        except (NotImplementedError, ValueError, KeyError) as error:
            raise ConfigError("the model's output type is not registered in this process", given=str(error),
                              fix="import the library that defines it (for example `import transformers`) first"
                              ) from error
        graph._codegen = _PyTreeCodeGen(info)
    modules = {}
    for name, nested in data["modules"].items():
        inner, deeper = graph_from_json(nested)
        modules[name] = fx.GraphModule(cast(dict[str, Any], deeper), inner)
    return graph, modules


def _path(node: fx.Node) -> list[str] | None:
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return None
    path, kind = next(reversed(stack.values()))[:2]
    return [str(path), kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"]


def _target_name(node: fx.Node) -> str:
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        namespace, name = target._schema.name.split("::")
        return f"torch.ops.{namespace}.{name}.{target._overloadname}"
    if isinstance(target, torch._ops.HigherOrderOperator):
        return f"torch.ops.higher_order.{target.name()}"
    name = getattr(target, "__name__", str(target))
    for namespace, module in _PYTHON.items():
        if getattr(module, name, None) is target:
            return f"{namespace}.{name}"
    if name.startswith("sym_") and getattr(torch, name, None) is target:
        return f"torch.{name}"
    raise ConfigError("the graph calls a function that cannot be written down", given=str(target),
                      fix="save the model as .pt2 through torch.export instead")


def _find_target(name: str) -> Any:
    parts = name.split(".")
    if parts[:2] == ["torch", "ops"] and len(parts) in (4, 5):
        found: Any = torch.ops
        for part in parts[2:]:
            found = getattr(found, part)
        return found
    if len(parts) == 2 and parts[0] in _PYTHON:
        return getattr(_PYTHON[parts[0]], parts[1])
    if len(parts) == 2 and parts[0] == "torch" and parts[1].startswith("sym_"):
        return getattr(torch, parts[1])
    raise ConfigError("the graph names an operator that autoprune does not know", given=name)


def _encode(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, list | tuple):
        return [_encode(v) for v in value]
    if isinstance(value, dict):
        return {"dict": {k: _encode(v) for k, v in value.items()}}
    for kind, type_ in _KINDS.items():
        if isinstance(value, type_):
            return {kind: str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    raise ConfigError("an argument of the graph cannot be written down", given=f"{type(value).__name__}: {value}",
                      fix="save the model as .pt2 through torch.export instead")


def _decode(value: Any, nodes: dict[str, fx.Node]) -> Any:
    if isinstance(value, list):
        return tuple(_decode(v, nodes) for v in value)
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "node":
        return nodes[content]
    if kind == "float":
        return float(content)
    if kind == "dict":
        return {k: _decode(v, nodes) for k, v in content.items()}
    if kind == "device":
        return torch.device(content)
    found = getattr(torch, content) if kind in _KINDS else None
    if kind not in _KINDS or not isinstance(found, _KINDS[kind]):
        raise ConfigError("the graph has an argument that autoprune does not know", given=json.dumps(value))
    return found
