"""An ATen graph as JSON and back. Loading runs no code of the file: operators are names looked up in `torch.ops`.

A file may come from anywhere, so a name is not enough: what it finds has to be an ATen-like operator on tensors that
opens no file, one of the arithmetic functions that sizes are computed with, or a higher-order operator on graphs of
the same file. Names that end up in generated Python source (inputs, attributes, keyword arguments) must be identifiers;
parts of attributes may also be what stands between quotes without ending them.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import keyword
import math
import operator
import re
import unicodedata
from typing import Any, cast

import torch
from torch import fx
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from autoprune.errors import ConfigError, DamagedError

__all__ = ["graph_from_json", "graph_to_json", "is_writable"]

_PYTHON = {"operator": operator, "math": math}
_ARITHMETIC = {
    "operator": {"abs", "add", "and_", "eq", "floordiv", "ge", "getitem", "gt", "index", "inv", "invert", "le",
                 "lshift", "lt", "mod", "mul", "ne", "neg", "not_", "or_", "pos", "pow", "rshift", "sub", "truediv",
                 "xor"},
    "math": {"acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh", "exp", "floor", "log", "log2",
             "pow", "sin", "sinh", "sqrt", "tan", "tanh", "trunc"},
}
_HIGHER_ORDER = {"associative_scan", "cond", "flex_attention", "map", "map_impl", "scan", "tag_activation_checkpoint",
                 "while_loop", "wrap", "wrap_activation_checkpoint", "wrap_with_autocast", "wrap_with_set_grad_enabled"}
_FACTORIES = {"dict", "float", "int", "list", "set", "str", "tuple"}
_OPS = {"placeholder", "get_attr", "call_function", "output"}
_MAX_DEPTH = 64
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
                           "parameters": [n for n, _ in module.named_parameters()],
                           "frozen": [n for n, p in module.named_parameters() if not p.requires_grad]}
    codegen = module.graph._codegen
    if isinstance(codegen, _PyTreeCodeGen):
        info = codegen.pytree_info
        out["pytree"] = [list(info.orig_args), pytree.treespec_dumps(info.in_spec),
                         pytree.treespec_dumps(cast(pytree.TreeSpec, info.out_spec))]
    return out


def graph_from_json(data: dict[str, Any]) -> tuple[fx.Graph, dict[str, fx.GraphModule]]:
    """The graph, and the nested graphs by attribute name.

    Raises `ConfigError` for another schema, for anything that is not a graph, and for every operator or name that does
    not belong in one; the file is not trusted.
    """
    if not isinstance(data, dict) or data.get("schema") != 1:
        raise ConfigError("the graph was written by another version of autoprune",
                          given=data.get("schema") if isinstance(data, dict) else type(data).__name__,
                          allowed="schema 1")
    try:
        return _read(data, 0)
    except ConfigError:
        raise
    except (AssertionError, AttributeError, IndexError, KeyError, RecursionError, RuntimeError, TypeError,
            ValueError) as error:
        raise DamagedError("the graph file is damaged", given=f"{type(error).__name__}: {error}"[:300],
                           fix="write it again with save()") from error


def _read(data: dict[str, Any], depth: int) -> tuple[fx.Graph, dict[str, fx.GraphModule]]:
    if depth > _MAX_DEPTH:
        raise ConfigError("the graph is nested too deeply", allowed=f"{_MAX_DEPTH} graphs within each other")
    graph = fx.Graph()
    named: dict[str, fx.Node] = {}
    for op, name, target, args, kwargs, path in data["nodes"]:
        if op not in _OPS:
            raise ConfigError("the graph has a node that autoprune does not know", given=op, allowed=", ".join(_OPS))
        check = {"call_function": _find_target, "get_attr": _dotted}.get(op, _plain)
        callee = check(target)
        keywords = _decode(kwargs, named)
        for word in keywords:
            _plain(word)
        node = graph.create_node(op, callee, _decode(args, named), keywords, name=_plain(name))
        if path:
            node.meta["nn_module_stack"] = {path[0]: (path[0], path[1])}
        named[name] = node
    if "pytree" in data:
        names, in_spec, out_spec = data["pytree"]
        info = _PyTreeInfo([_plain(n) for n in names], _spec(in_spec), _spec(out_spec))
        graph._codegen = _PyTreeCodeGen(info)
    modules = {}
    for name, nested in data["modules"].items():
        inner, deeper = _read(nested, depth + 1)
        modules[_dotted(name)] = fx.GraphModule(cast(dict[str, Any], deeper), inner)
    return graph, modules


def is_writable(name: str) -> bool:
    """Whether a name with dots can stand in generated source: each part as an identifier, or between quotes (the child
    of a Sequential, a key of a ModuleDict).
    """
    return all(_is_plain(part) if part.isidentifier() else
               part.isprintable() and part and not {'"', "\\"} & set(part) for part in name.split("."))


def _is_plain(name: Any) -> bool:
    """Whether it is an identifier that reaches nothing special; Python reads names in their normal form."""
    return isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name) and not name.startswith(
        "__") and name == unicodedata.normalize("NFKC", name)


def _plain(name: str) -> str:
    """`name` when it can stand in generated source as it is."""
    if not _is_plain(name):
        raise ConfigError("the graph has a name that is not an identifier", given=repr(name)[:100])
    return name


def _dotted(name: str) -> str:
    """`name` when it `is_writable`."""
    if not isinstance(name, str) or not is_writable(name):
        raise ConfigError("the graph has a name that cannot be written", given=repr(name)[:100])
    return name


def _spec(text: str) -> pytree.TreeSpec:
    """A structure of inputs or outputs. Types have to be registered in this process; nothing is imported for them but
    modules of an installed `transformers`, whose outputs they usually are.
    """
    spec = json.loads(text)[1]
    waiting = [spec]
    while waiting:
        node = waiting.pop()
        context = node["context"]
        if "__enum__" in json.dumps(context):
            raise ConfigError("the model's inputs or outputs are keyed by an enum; autoprune cannot read that",
                              given=str(context)[:100], fix="use strings as keys")
        if isinstance(context, dict) and "default_factory_module" in context and (
                context["default_factory_module"] != "builtins" or context["default_factory_name"] not in _FACTORIES):
            raise ConfigError("the model's output is a defaultdict of a kind that autoprune does not know",
                              given=str(context["default_factory_name"])[:100], allowed=", ".join(sorted(_FACTORIES)))
        _import_transformers(str(node["type"]))
        waiting.extend(node["children_spec"])
    try:
        return pytree.treespec_loads(text)
    except (NotImplementedError, ValueError, KeyError) as error:
        raise ConfigError("the model's output type is not registered in this process", given=str(error),
                          fix="import the module that defines it first, as you did to make the model") from error


def _import_transformers(kind: str) -> None:
    """Of an output of `transformers` the module that defines it, which registers it."""
    module = kind.rpartition(".")[0]
    if re.fullmatch(r"transformers(\.\w+)*\.modeling_\w+", module):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)


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
        return f"torch.ops.higher_order.{target.name()}"  # type: ignore[no-untyped-call]
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
        found = _operator(parts[2:])
        if found is not None:
            return found
    if len(parts) == 2 and parts[1] in _ARITHMETIC.get(parts[0], ()):
        return getattr(_PYTHON[parts[0]], parts[1])
    if len(parts) == 2 and parts[0] == "torch" and parts[1].startswith("sym_") and hasattr(torch, parts[1]):
        return getattr(torch, parts[1])
    raise ConfigError("the graph names an operator that autoprune does not know", given=name[:200],
                      fix="import the library that registers it first")


def _operator(parts: list[str]) -> Any:
    """What `torch.ops.<parts>` names, or None when that is not an operator on tensors (see the top of this file)."""
    if parts[0] == "higher_order":
        if len(parts) != 2 or parts[1] not in _HIGHER_ORDER:
            return None
        found: Any = getattr(torch.ops.higher_order, parts[1], None)
        return found if isinstance(found, torch._ops.HigherOrderOperator) else None
    namespace = getattr(torch.ops, parts[0], None)  # `load_library` and the like are attributes of `torch.ops`, too
    if not isinstance(namespace, torch._ops._OpNamespace) or len(parts) != 3:
        return None
    packet = getattr(namespace, parts[1], None)
    found = getattr(packet, parts[2], None) if isinstance(packet, torch._ops.OpOverloadPacket) else None
    if not isinstance(found, torch._ops.OpOverload):
        return None
    arguments = found._schema.arguments
    on_tensors = any("Tensor" in str(a.type) for a in [*arguments, *found._schema.returns])
    opens_files = any(a.name == "filename" for a in arguments)  # aten::save, aten::from_file
    return found if on_tensors and not opens_files else None


def _encode(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, complex):
        return {"complex": repr(value)}
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
    if len(value) != 1:
        raise ConfigError("the graph has an argument that autoprune does not know", given=json.dumps(value)[:200])
    ((kind, content),) = value.items()
    if kind == "node":
        return nodes[content]
    if kind == "float":
        return float(content)
    if kind == "complex":
        return complex(content)
    if kind == "dict":
        return {k: _decode(v, nodes) for k, v in content.items()}
    if kind == "device":
        return torch.device(content)
    found = getattr(torch, content, None) if kind in _KINDS else None
    if kind not in _KINDS or not isinstance(found, _KINDS[kind]):
        raise ConfigError("the graph has an argument that autoprune does not know", given=json.dumps(value)[:200])
    return found
