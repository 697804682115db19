"""Back to the user's own class: the pruned tensors put into a copy of the module, when that computes the same.

The copy never holds the dense weights: they are replaced while it is made. Attributes of torch's own layers
(`out_channels`, `normalized_shape`, …) follow the new shapes. Sizes that a user's module holds as plain numbers
(`num_heads`, `head_dim`) are guessed from the groups below it. Whether the copy is right is not argued but checked: it
is run beside the graph form, and when it fails or computes something else the graph form is given, with the reason in
`PrunedModule.why_graph`.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from autoprune.errors import first_line
from autoprune.graph.compare import distance
from autoprune.graph.module import PrunedModule, build
from autoprune.graph.plan import Plan
from autoprune.graph.rewrite import copy_graph
from autoprune.graph.trace import split_inputs, with_dynamic_batch
from autoprune.graph.typing import Call

__all__ = ["PrunedMixin", "as_user_class"]

_TOLERANCE, _FILLED_TOLERANCE, _NEXT_TO_ZERO = 1e-5, 1e-4, 1e-2


@dataclass(frozen=True)
class _Origin:
    """What the graph form is rebuilt from; shared by copies of the module, since nothing changes it.

    tensors: every name the graph reads, with the value of those that the module does not hold (lifted constants).
    """

    graph: fx.Graph
    plan: Plan
    name: str
    modules: Mapping[str, fx.GraphModule]
    tensors: Mapping[str, torch.Tensor | None]

    def __deepcopy__(self, memo: dict[int, Any]) -> _Origin:
        return self


class PrunedMixin:
    """What a pruned module of the user's class can do besides what its class can."""

    _autoprune: _Origin

    @property
    def plan(self) -> Plan:
        """The resolved plan that made it."""
        return self._autoprune.plan

    def graph_form(self) -> PrunedModule:
        """The same model as an ATen graph, sharing this module's tensors."""
        assert isinstance(self, nn.Module)
        held: dict[str, torch.Tensor] = dict(self.named_parameters(remove_duplicate=False))
        held.update(self.named_buffers(remove_duplicate=False))
        origin = self._autoprune
        tensors = {name: held[name] if value is None else value for name, value in origin.tensors.items()}
        return build(copy_graph(origin.graph), tensors, origin.modules, origin.plan, origin.name)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers that the graph form reads, by name."""
        return self.graph_form().tensors()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `graph.json`, `plan.json` and `weights.safetensors`; `autoprune.load(folder)` reads them back."""
        return self.graph_form().save(folder)


Sizes = Mapping[str, Mapping[int, int]]


def as_user_class(model: nn.Module, pruned: PrunedModule, dense_tensors: Mapping[str, torch.Tensor],
                  example_inputs: Any, guesses: Sequence[Sizes]) -> nn.Module:
    """`pruned` as an instance of (a subclass of) `type(model)`, or `pruned` itself with `why_graph` set.

    The two are compared in evaluation mode (relative difference ≤ 1e-5) on the example inputs, and on others with the
    parameters filled that are next to zero, as the scales of young branches are; and the copy has to run in training
    mode, too, where the dense module does: what forward does only there is not in the graph. `sizes`:
    module path → dense size → pruned size, of the widths that a module may hold as plain numbers. They are a guess, and
    are put in only when the module does not do without; the comparison decides.
    """
    if pruned.plan.dropped:
        pruned.meta["why_graph"] = "residual branches were removed, which the class's forward does not know"
        return pruned
    reason = None
    for guess in ({}, *guesses):
        try:
            candidate = _transplant(model, pruned, dense_tensors, guess)
            found = _difference(candidate, pruned, example_inputs) or _untrainable(candidate, model, example_inputs)
        except Exception as error:  # whatever the user's module raises when copied or run with other sizes
            found = first_line(error)
        else:
            if found is None:
                return candidate
        reason = reason or found
    pruned.meta["why_graph"] = f"{type(model).__name__}.forward does not fit the pruned sizes ({(reason or '')[:200]})"
    return pruned


def _transplant(model: nn.Module, pruned: PrunedModule, dense_tensors: Mapping[str, torch.Tensor],
                sizes: Sizes) -> nn.Module:
    new = pruned.tensors()
    by_identity = {id(t): new[name] for name, t in dense_tensors.items()}
    memo: dict[int, Any] = {}
    for _, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        if id(tensor) in by_identity:
            memo[id(tensor)] = by_identity[id(tensor)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = copy.deepcopy(model, memo)
    groups = _convolution_groups(pruned.graph)
    for path, module in out.named_modules():
        _update_sizes(module, groups.get(f"{path}.weight", 1))
        guess = {**sizes.get(path, {}), **_own_axes(path, dense_tensors, new)} if sizes else {}
        for name, value in list(vars(module).items()):
            if type(value) is int and value in guess:
                setattr(module, name, guess[value])
    kind = type(model).__bases__[0] if isinstance(model, PrunedMixin) else type(model)
    out.__class__ = type(f"Pruned{kind.__name__}", (kind, PrunedMixin), {"__module__": kind.__module__})
    held = {n for n, _ in [*out.named_parameters(remove_duplicate=False), *out.named_buffers(remove_duplicate=False)]}
    out.__dict__["_autoprune"] = _Origin(
        pruned.graph, pruned.plan, kind.__name__, pruned.nested(),
        {name: None if name in held else tensor for name, tensor in new.items()})
    return out.eval()


def _own_axes(path: str, dense: Mapping[str, torch.Tensor], new: Mapping[str, torch.Tensor]) -> dict[int, int]:
    """Dense → pruned size of the axes of a module's own parameters, where one dense size became one pruned size.

    Vectors (biases, norm scales) decide before matrices: they have the width of what the module puts out.
    """
    out: dict[int, int] = {}
    own = [name for name in new if name.rpartition(".")[0] == path]
    for vectors in (True, False):
        found: dict[int, set[int]] = {}
        for name in own:
            if (new[name].dim() == 1) == vectors:
                for before, after in zip(dense[name].shape, new[name].shape, strict=True):
                    found.setdefault(before, set()).add(after)
        out = {**{before: after.pop() for before, after in found.items() if len(after) == 1}, **out}
    return out


def _update_sizes(module: nn.Module, groups: int) -> None:
    """Attributes of torch's layers that repeat the shapes of their parameters."""
    weight: Any = getattr(module, "weight", None)
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.modules.conv._ConvNd):
        _update_convolution(module, groups)
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        held = module.running_mean if module.running_mean is not None else weight
        if held is not None:
            module.num_features = int(held.shape[0])
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm) and weight is not None:
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.GroupNorm) and weight is not None:
        if module.num_groups == module.num_channels:
            module.num_groups = int(weight.shape[0])
        module.num_channels = int(weight.shape[0])
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = weight.shape
    elif isinstance(module, nn.RNNBase):
        first: Any = module
        module.input_size, module.hidden_size = (int(w.shape[1]) for w in (first.weight_ih_l0, first.weight_hh_l0))
        module._flat_weights = [getattr(module, n) if hasattr(module, n) else None for n in module._flat_weights_names]
    elif isinstance(module, nn.RNNCellBase):
        cell: Any = module
        module.input_size, module.hidden_size = int(cell.weight_ih.shape[1]), int(cell.weight_hh.shape[1])
    elif isinstance(module, nn.PReLU):
        module.num_parameters = int(weight.shape[0])


def _update_convolution(module: nn.modules.conv._ConvNd, groups: int) -> None:
    lead, second = module.weight.shape[:2]
    module.groups = groups
    if module.transposed:
        module.in_channels, module.out_channels = lead, second * groups
    else:
        module.in_channels, module.out_channels = second * groups, lead


def _convolution_groups(graph: fx.Graph) -> dict[str, int]:
    """Groups of each convolution by the name of its weight."""
    out: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "call_function" and "conv" in str(node.target):
            call = Call(node)
            weight = call.get("weight")
            if isinstance(weight, fx.Node) and isinstance(call.get("groups"), int):
                out[str(weight.target)] = call["groups"]
    return out


def _untrainable(candidate: nn.Module, model: nn.Module, example_inputs: Any) -> str | None:
    """What the copy raises in training mode, where `model` raises nothing; None when it runs as well."""
    found = _training_error(candidate, example_inputs)
    if found is None or _training_error(model, example_inputs) is not None:
        return None
    return f"in training mode: {found}"


def _training_error(model: nn.Module, example_inputs: Any) -> str | None:
    """What a forward in training mode raises on two of the example; the model is left as it was."""
    args, kwargs, _ = with_dynamic_batch(example_inputs)
    modes = {m: m.training for m in model.modules()}
    learnt = [(b, b.clone()) for b in model.buffers()]  # norms
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.train()(*args, **kwargs)
    except Exception as error:  # whatever the user's module raises
        return first_line(error)
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for buffer, before in learnt:
                buffer.copy_(before)
    return None


def _difference(candidate: nn.Module, pruned: PrunedModule, example_inputs: Any) -> str | None:
    """Why the two, which share their tensors, are not the same, or None when they are."""
    found = _differing(candidate, pruned, example_inputs)
    if found is not None:
        return found
    others = pytree.tree_map(_other_values, example_inputs)
    with _filled(pruned.tensors().values()):
        try:
            with torch.no_grad():
                args, kwargs = split_inputs(others)
                pruned(*args, **kwargs)
        except (IndexError, RuntimeError, TypeError, ValueError):  # what operators raise at what is no input of theirs
            others = example_inputs
        return _differing(candidate, pruned, others, _FILLED_TOLERANCE)


def _other_values(x: Any) -> Any:
    """The same values at other places, and halves where all are the same."""
    if not isinstance(x, torch.Tensor) or x.numel() < 2:
        return x
    other = x.flatten().flip(0).reshape(x.shape)
    return x / 2 if x.is_floating_point() and torch.equal(x, other) else other


@contextmanager
def _filled(tensors: Iterable[torch.Tensor]) -> Iterator[None]:
    """Parameters that hide what they multiply, because they are next to zero, are between 0.5 and 1 for a while."""
    hiding = [t for t in tensors if isinstance(t, nn.Parameter) and t.is_floating_point() and t.numel()
              and float(t.detach().abs().max()) < _NEXT_TO_ZERO]
    before = [t.detach().clone() for t in hiding]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        try:
            for t in hiding:
                t.copy_(torch.rand(t.shape, generator=generator) / 2 + 0.5)
            yield
        finally:
            for t, values in zip(hiding, before, strict=True):
                t.copy_(values)


def _differing(candidate: nn.Module, pruned: PrunedModule, inputs: Any, tolerance: float = _TOLERANCE) -> str | None:
    args, kwargs = split_inputs(inputs)
    with torch.no_grad():
        first = [x for x in pytree.tree_leaves(candidate(*args, **kwargs)) if isinstance(x, torch.Tensor)]
        second = [x for x in pytree.tree_leaves(pruned(*args, **kwargs)) if isinstance(x, torch.Tensor)]
    if len(first) != len(second):
        return f"{len(first)} outputs instead of {len(second)}"
    for a, b in zip(first, second, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"an output of shape {tuple(a.shape)} instead of {tuple(b.shape)}"
        if not (worst := distance(a, b)) <= tolerance:
            return f"outputs differ by {worst:.1e}"
    return None
