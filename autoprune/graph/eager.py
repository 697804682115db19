"""Back to the user's own class: the pruned tensors put into a copy of the module, when that computes the same.

The copy never holds the dense weights: they are replaced while it is made. Attributes of torch's own layers
(`out_channels`, `normalized_shape`, …) follow the new shapes. Sizes that a user's `forward` holds as plain numbers
(`num_heads`, `head_dim`) cannot be known; then the copy fails or computes something else, and the graph form is given
instead, with the reason in `PrunedModule.why_graph`.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from autoprune.graph.module import PrunedModule, build
from autoprune.graph.plan import Plan
from autoprune.graph.rewrite import copy_graph
from autoprune.graph.trace import split_inputs

__all__ = ["PrunedMixin", "as_user_class"]

_TOLERANCE = 1e-5


class PrunedMixin:
    """What a pruned module of the user's class can do besides what its class can."""

    _autoprune: dict[str, Any]

    @property
    def plan(self) -> Plan:
        """The resolved plan that made it."""
        plan: Plan = self._autoprune["plan"]
        return plan

    def graph_form(self) -> PrunedModule:
        """The same model as an ATen graph, sharing this module's tensors."""
        assert isinstance(self, nn.Module)
        held = dict(self.named_parameters(remove_duplicate=False)) | dict(self.named_buffers(remove_duplicate=False))
        known = self._autoprune
        tensors = {name: held[name] if name in held else value for name, value in known["tensors"].items()}
        return build(copy_graph(known["graph"]), tensors, known["modules"], known["plan"], known["name"])

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `graph.json`, `plan.json` and `weights.safetensors`; `autoprune.load(folder)` reads them back."""
        return self.graph_form().save(folder)


def as_user_class(model: nn.Module, pruned: PrunedModule, dense_tensors: Mapping[str, torch.Tensor],
                  example_inputs: Any) -> nn.Module:
    """`pruned` as an instance of (a subclass of) `type(model)`, or `pruned` itself with `why_graph` set.

    The two are compared on the example inputs in evaluation mode (relative difference ≤ 1e-5).
    """
    try:
        candidate = _transplant(model, pruned, dense_tensors)
        reason = _difference(candidate, pruned, example_inputs)
    except Exception as error:  # whatever the user's module raises when copied or run with other sizes
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    else:
        if reason is None:
            return candidate
    pruned.meta["why_graph"] = f"{type(model).__name__}.forward does not fit the pruned sizes ({reason[:200]})"
    return pruned


def _transplant(model: nn.Module, pruned: PrunedModule, dense_tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    new = pruned.tensors()
    by_identity = {id(t): new[name] for name, t in dense_tensors.items()}
    memo: dict[int, Any] = {}
    for _, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        if id(tensor) in by_identity:
            memo[id(tensor)] = by_identity[id(tensor)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = copy.deepcopy(model, memo)
    for module in out.modules():
        _update_sizes(module)
    kind = type(model)
    out.__class__ = type(f"Pruned{kind.__name__}", (kind, PrunedMixin), {"__module__": kind.__module__})
    nested = {n.target for n in pruned.graph.nodes if n.op == "get_attr"} - set(new) - {"training"}
    constants = {name: t for name, t in new.items() if name not in dict(out.named_parameters(remove_duplicate=False))
                 and name not in dict(out.named_buffers(remove_duplicate=False))}
    out.__dict__["_autoprune"] = {
        "graph": pruned.graph, "plan": pruned.plan, "name": type(model).__name__,
        "modules": {name: getattr(pruned, str(name)) for name in nested},
        "tensors": {name: constants.get(name) for name in new},
    }
    return out.eval()


def _update_sizes(module: nn.Module) -> None:
    """Attributes of torch's layers that repeat the shapes of their parameters."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.modules.conv._ConvNd):
        _update_convolution(module)
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        held = module.running_mean if module.running_mean is not None else weight
        if held is not None:
            module.num_features = int(held.shape[0])
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm) and weight is not None:
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.GroupNorm) and weight is not None:
        module.num_channels = int(weight.shape[0])
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = weight.shape
    elif isinstance(module, nn.RNNBase):
        module.input_size = int(module.weight_ih_l0.shape[1])
        module.hidden_size = int(module.weight_hh_l0.shape[1])
        module._flat_weights = [getattr(module, n) if hasattr(module, n) else None for n in module._flat_weights_names]
    elif isinstance(module, nn.RNNCellBase):
        module.input_size, module.hidden_size = int(module.weight_ih.shape[1]), int(module.weight_hh.shape[1])
    elif isinstance(module, nn.PReLU):
        module.num_parameters = int(weight.shape[0])


def _update_convolution(module: nn.modules.conv._ConvNd) -> None:
    """A grouped convolution keeps `groups` unless it is depthwise, where groups are the channels."""
    lead, second = module.weight.shape[:2]
    if module.transposed:
        depthwise = module.groups == module.in_channels
        module.groups = lead if depthwise else module.groups
        module.in_channels, module.out_channels = lead, second * module.groups
    else:
        per_group_out = module.out_channels // module.groups
        if module.groups == module.in_channels and second == 1:
            module.groups = lead // per_group_out if lead % per_group_out == 0 else lead
        module.in_channels, module.out_channels = second * module.groups, lead


def _difference(candidate: nn.Module, pruned: PrunedModule, example_inputs: Any) -> str | None:
    """Why the two are not the same, or None when they are."""
    args, kwargs = split_inputs(example_inputs)
    with torch.no_grad():
        first = [x for x in pytree.tree_leaves(candidate(*args, **kwargs)) if isinstance(x, torch.Tensor)]
        second = [x for x in pytree.tree_leaves(pruned(*args, **kwargs)) if isinstance(x, torch.Tensor)]
    if len(first) != len(second):
        return f"{len(first)} outputs instead of {len(second)}"
    for a, b in zip(first, second, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"an output of shape {tuple(a.shape)} instead of {tuple(b.shape)}"
        scale = max(1.0, float(b.abs().max())) if b.numel() else 1.0
        worst = float((a.double() - b.double()).abs().max()) / scale if b.numel() else 0.0
        if not worst <= _TOLERANCE:
            return f"outputs differ by {worst:.1e}"
    return None
