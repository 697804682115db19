"""Norm recalibration: batch norms of a pruned model still hold the dense model's statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx, nn

from autoprune.accelerator import on_accelerator
from autoprune.errors import AutopruneError
from autoprune.graph.rewrite import copy_graph

__all__ = ["recalibrate"]

_DROPOUT = {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"}


@dataclass(frozen=True)
class _Norm:
    """Statistics and momentum of one norm; a momentum of None averages over the `count` batches seen so far."""

    mean: torch.Tensor
    variance: torch.Tensor
    momentum: float | None
    count: torch.Tensor | None = None

    def tensors(self) -> list[torch.Tensor]:
        return [self.mean, self.variance, *([] if self.count is None else [self.count])]

    def weight(self, batches: int) -> float:
        """Share of the new batches in an average that started from zero."""
        return float(batches > 0) if self.momentum is None else 1.0 - (1.0 - self.momentum) ** batches


def recalibrate(model: nn.Module, batches: Iterable[Any], forward: Callable[[nn.Module, Any], Any]) -> int:
    """Set the running mean and variance of every batch norm in `model` to those of `batches`; returns their number.

    Each batch counts as in training (exponential average with the layer's momentum m); starting from zero, the result
    is divided by `1 − (1 − m)^n` so that it is unbiased (as in Adam; the idea to recalibrate before comparing pruned
    models is EagleEye's, Li et al. 2020, arXiv:2007.02491). Only the norms are in training mode meanwhile: dropout
    would widen the variances behind it (Li et al. 2018, arXiv:1801.05134). A model without batch norms is left as it
    is; without batches, or when the pass raises, the statistics stay what they were. Raises `AutopruneError` when they
    would become NaN or infinite, as for batches of a single value per channel.
    """
    with on_accelerator(model):
        return _recalibrate(model, batches, forward)


def _recalibrate(model: nn.Module, batches: Iterable[Any], forward: Callable[[nn.Module, Any], Any]) -> int:
    graph = isinstance(model, fx.GraphModule)
    norms = _graph_norms(cast(fx.GraphModule, model)) if graph else _module_norms(model)
    if not norms:
        return 0
    saved = [[t.clone() for t in norm.tensors()] for norm in norms]
    runs = _without_dropout(cast(fx.GraphModule, model)) if graph else model
    count, done = 0, False
    try:
        with torch.no_grad(), ExitStack() as modes:
            for module in [runs] if graph else _norm_modules(model):
                modes.callback(setattr, module, "training", module.training)
                module.training = True
            for norm in norms:
                for t in norm.tensors():
                    t.zero_()
            for inputs in batches:
                forward(runs, inputs)
                count += 1
        _finish(norms, saved, count)
        done = True
    finally:
        if not done:
            _restore(norms, saved)
    return len(norms)


def _finish(norms: list[_Norm], saved: list[list[torch.Tensor]], count: int) -> None:
    for norm, old in zip(norms, saved, strict=True):
        weight = norm.weight(count)
        if weight == 0.0:
            _restore([norm], [old])
            continue
        for t in (norm.mean, norm.variance):
            t.div_(weight)
            if not bool(torch.isfinite(t).all()):
                raise AutopruneError("the batches give a norm no finite statistics", given=f"{count} batches",
                                     fix="calibrate on batches of at least two samples, without NaN")


def _restore(norms: list[_Norm], saved: list[list[torch.Tensor]]) -> None:
    with torch.no_grad():
        for norm, old in zip(norms, saved, strict=True):
            for t, value in zip(norm.tensors(), old, strict=True):
                t.copy_(value)


def _without_dropout(model: fx.GraphModule) -> fx.GraphModule:
    """The same tensors under a graph without dropout; in graph form one flag switches norms and dropout alike."""
    if not any(_name(node) in _DROPOUT for node in model.graph.nodes):
        return model
    graph = copy_graph(model.graph)
    for node in list(graph.nodes):
        if _name(node) in _DROPOUT:
            node.replace_all_uses_with(cast(fx.Node, node.args[0]))
            graph.erase_node(node)
    return fx.GraphModule(model, graph)


def _name(node: fx.Node) -> str:
    target = node.target
    return target._schema.name.split("::")[-1] if isinstance(target, torch._ops.OpOverload) else ""


def _graph_norms(model: fx.GraphModule) -> list[_Norm]:
    buffers = dict(model.named_buffers())
    norms: dict[str, _Norm] = {}
    for node in model.graph.nodes:
        if node.target is torch.ops.aten.batch_norm.default and isinstance(node.args[3], fx.Node):
            mean, variance = (str(cast(fx.Node, a).target) for a in node.args[3:5])
            norms[mean] = _Norm(buffers[mean], buffers[variance], float(cast(float, node.args[6])))
    return list(norms.values())


def _norm_modules(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]


def _module_norms(model: nn.Module) -> list[_Norm]:
    return [_Norm(cast(torch.Tensor, m.running_mean), cast(torch.Tensor, m.running_var), m.momentum,
                  m.num_batches_tracked if m.momentum is None else None) for m in _norm_modules(model)]
