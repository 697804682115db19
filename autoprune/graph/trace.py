"""From a user's module to a plain ATen graph that can be typed, rewritten and trained.

`torch.export` does the capturing. What is added here: a dynamic batch where the model allows one, errors that name the
line of the user's model, and the canonical form of the graph (`canonical.py`).
"""

from __future__ import annotations

import copy
import inspect
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from autoprune.errors import ModelError, first_line
from autoprune.graph.canonical import canonical
from autoprune.graph.module import PrunedModule
from autoprune.graph.quiet import quiet
from autoprune.graph.serialize import is_writable
from autoprune.graph.typing import is_dynamic

__all__ = ["Captured", "capture", "split_inputs", "with_dynamic_batch"]

_USUAL_MOMENTUM = 0.1  # torch's default
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
    """`(args, kwargs, dynamic_shapes)` for an export whose batch is dynamic: the first axis of the first tensor, and of
    those that are as long there; shapes are None where no input has an axis. A batch of one is doubled: the exporter
    would take a 1 for a constant.
    """
    args, kwargs = split_inputs(example_inputs)
    leaves = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and x.dim()]
    if not leaves:
        return args, kwargs, None
    size = leaves[0].shape[0]

    def is_batch(x: Any) -> bool:
        return isinstance(x, torch.Tensor) and x.dim() > 0 and x.shape[0] == size

    def widen(x: Any) -> Any:
        return torch.cat([x, x]) if size == 1 and is_batch(x) else x

    def axis(x: Any) -> Any:
        return {0: torch.export.Dim.AUTO} if is_batch(x) else None

    shapes = [*pytree.tree_map(axis, list(args)), *pytree.tree_map(axis, kwargs).values()]
    a, k = pytree.tree_map(widen, (args, kwargs))
    return tuple(a), k, tuple(shapes)


def capture(model: nn.Module, example_inputs: Any) -> Captured:
    """Export `model` in evaluation mode (its own mode is restored) and put the graph into canonical form.

    Raises `ModelError` naming the line of the model when it cannot be exported.
    """
    if not isinstance(model, nn.Module):
        raise ModelError("only a torch.nn.Module can be traced", given=type(model).__name__)
    _check_names(model, [n for n, _ in [*model.named_modules(), *model.named_parameters(), *model.named_buffers()]],
                 fx.GraphModule)
    args, kwargs = split_inputs(example_inputs)
    modes = {m: m.training for m in model.modules()}
    try:
        model.eval()
        try:
            program, dynamic, note = _export(model, args, kwargs)
        except ModelError as error:
            if "Cache" not in str(error) or not _caching(model):
                raise
            with _without_cache(model):  # of decoding, which transformers' models return unless told otherwise
                program, dynamic, note = _export(model, args, kwargs)
    finally:
        for module, mode in modes.items():
            module.training = mode
    graph, tensors, modules = canonical(program)
    _check_names(model, [*tensors, *modules], PrunedModule)
    _settle_norms(model, graph)
    return Captured(graph, tensors, modules, dynamic, note)


def _check_names(model: nn.Module, names: Iterable[str], holder: type[nn.Module]) -> None:
    """Refuse names that a module of the class `holder` has for itself, or that cannot be written in its source."""
    own = {*dir(holder), "meta", "shape_env"} - set(dir(nn.Module))
    for name in filter(None, names):
        if name.partition(".")[0] in own or not is_writable(name):
            raise ModelError("a module or parameter has a name that a traced model cannot use", given=repr(name),
                             allowed="names that are no keywords of Python, without quotes and backslashes, and not "
                                     "graph, code, meta, plan, tensors, nested, save … at the top",
                             fix=f"rename it in {type(model).__name__}")


def _kept_in_evaluation(model: nn.Module) -> set[str]:
    """The modules that stay in evaluation mode when their model trains, where somebody has written a `train` that does
    so. A copy is asked: it may do more than that, such as taking adapters out of weights.
    """
    if all(type(m).train is nn.Module.train for m in model.modules()):
        return set()
    try:
        trained = copy.deepcopy(model)
        trained.train()  # which many forget to return from
    except Exception as error:  # whatever a module of the user's own raises
        warnings.warn(f"{type(model).__name__} cannot be copied, to ask which norms stay in evaluation mode when it "
                      f"trains: all of them train ({first_line(error)})", stacklevel=2)
        return set()
    return {name for name, m in trained.named_modules() if not m.training}


def _settle_norms(model: nn.Module, graph: fx.Graph) -> None:
    """What batch norms do in training mode and a trace in evaluation mode does not tell: one that its model keeps in
    evaluation mode stays there, and a cumulative average (`momentum=None`) becomes a running one.
    """
    norms = [n for n in graph.nodes if n.target is torch.ops.aten.batch_norm.default]
    held, kept = dict(model.named_modules()), _kept_in_evaluation(model) if norms else set()
    for node in norms:
        mean = node.args[3]
        name = str(mean.target).rpartition(".")[0] if isinstance(mean, fx.Node) else ""
        norm = held.get(name)
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
            continue
        args = list(node.args)
        args[5] = False if name in kept else args[5]
        args[6] = _USUAL_MOMENTUM if norm.momentum is None else args[6]
        node.args = tuple(args)


def _caching(model: nn.Module) -> list[Any]:
    """The configurations of a transformers' model that ask for a cache of keys and values."""
    found = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    return [c for c in found.values() if getattr(c, "use_cache", False)]


@contextmanager
def _without_cache(model: nn.Module) -> Iterator[None]:
    asking = _caching(model)
    for configuration in asking:
        configuration.use_cache = False
    try:
        yield
    finally:
        for configuration in asking:
            configuration.use_cache = True


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, bool, str | None]:
    wide_args, wide_kwargs, shapes = with_dynamic_batch((args, kwargs))
    if shapes is None:
        note = "fixed batch: no input has an axis"
    else:
        reasons = []
        for strict in (False, True):
            try:
                program = _run_export(model, wide_args, wide_kwargs, shapes, strict)
            except Exception as error:  # the same call with a fixed batch decides whether the model is at fault
                reasons.append(first_line(error))
            else:
                if any(is_dynamic(n) for node in program.graph.nodes if node.op == "placeholder"
                       for n in getattr(node.meta.get("val"), "shape", ())):
                    return program, True, None
                reasons.append("the model specialises on it")
        note = f"fixed batch: a dynamic one could not be exported ({reasons[0][:200]})"
    try:
        return _run_export(model, args, kwargs, None), False, note
    except Exception as error:  # whatever the user's forward raises, or torch.export has to say about it
        raise _export_error(model, args, kwargs, error) from error


def _run_export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any,
                strict: bool = False) -> Any:
    """strict: by reading the bytecode of forward, to which `len(x)` is a symbol; it refuses more otherwise."""
    with quiet(), _own_backwards() as found:
        program = torch.export.export(model, args, kwargs, strict=strict,
                                      dynamic_shapes=_by_parameter(model, args, kwargs, shapes))
        if any(str(getattr(n.target, "__module__", "")).startswith("torch._functorch") for n in program.graph.nodes):
            program = program.run_decompositions({})  # `vmap` is written as steps that open and close it
    if found:
        warnings.warn(f"the backward of {', '.join(sorted(found))} is not part of the traced graph: candidates are "
                      "fine-tuned by the gradients of what its forward does (none, where that rounds); where it "
                      "matters, write it as x + (f(x) - x).detach()", stacklevel=2)
    return program


@contextmanager
def _own_backwards() -> Iterator[set[str]]:
    """Names of the `torch.autograd.Function`s, other than torch's own, that are called meanwhile."""
    found: set[str] = set()
    kind: Any = torch.autograd.Function
    original = vars(kind)["apply"]

    def noted(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not cls.__module__.startswith("torch."):
            found.add(cls.__name__)
        return original.__func__(cls, *args, **kwargs)

    kind.apply = classmethod(noted)
    try:
        yield found
    finally:
        kind.apply = original


def _by_parameter(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any) -> Any:
    """`shapes` as torch.export wants them where forward takes `*args` or `**kwargs`: nested as these are."""
    signature = inspect.signature(model.forward)
    if shapes is None or not any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in signature.parameters.values()):
        return shapes
    positional, named = shapes[: len(args)], dict(zip(kwargs, shapes[len(args) :], strict=True))
    return dict(signature.bind(*positional, **named).arguments)


def _export_error(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception) -> ModelError:
    """What to say when the export failed: whether the model runs at all, and which line of it was the last."""
    by_hand = _run_error(model, args, kwargs)
    if by_hand is not None:
        shapes = [tuple(x.shape) for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        return ModelError(
            f"{type(model).__name__} does not run on the example inputs: {first_line(by_hand)}",
            given=f"inputs of shape {', '.join(map(str, shapes)) or 'none'}{_where(model, by_hand)}",
            fix="give inputs that model(*example_inputs) takes; a task's example is the first sample of its data, by "
                "the first axis of the inputs")
    text = type(error).__name__ + str(error)
    data_dependent = any(w in text for w in ("DataDependent", "data-dependent", "bool()", ".item()"))
    fix = ("take the branch on the value out of forward (torch.where, torch.cond), or export the part that is a plain "
           "tensor program" if data_dependent else
           "rewrite the line named above, or trace the part of the model that is a plain tensor program")
    return ModelError(f"{type(model).__name__} cannot be exported by torch.export: {first_line(error)}",
                      given=_where(model, error).strip() or None, fix=fix)


def _run_error(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Exception | None:
    """What the model raises when it is simply called, in evaluation mode."""
    modes = {m: m.training for m in model.modules()}
    try:
        with torch.no_grad(), torch.random.fork_rng([]), quiet():
            model.eval()(*args, **kwargs)
    except Exception as error:  # whatever the user's forward raises
        return error
    finally:
        for module, mode in modes.items():
            module.training = mode
    return None


def _where(model: nn.Module, error: Exception) -> str:
    """The innermost module that was running, and the last line outside torch's and our own code."""
    names = {id(m): n for n, m in model.named_modules() if n}
    module, line = "", ""
    trace = error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in names:
            module = f"\n             in {names[id(owner)]} ({type(owner).__name__})"
        frame = traceback.extract_tb(trace, limit=1)[0]
        if not frame.filename.startswith(_SHARED_CODE) and not frame.filename.startswith("<"):
            line = f"\n             {frame.filename}:{frame.lineno}, in {frame.name}\n             {frame.line or ''}"
        trace = trace.tb_next
    return f"{module}{line}".rstrip()
