"""Norm recalibration: batch norms of a pruned model still hold the dense model's statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import fx, nn

__all__ = ["recalibrate"]


def recalibrate(model: nn.Module, batches: Iterable[Any], forward: Callable[[nn.Module, Any], Any]) -> int:
    """Set the running mean and variance of every batch norm in `model` to those of `batches`; returns their number.

    Each batch counts as in training (exponential average with the layer's momentum m); starting from zero, the result
    is divided by `1 − (1 − m)^n` so that it is unbiased (as in Adam; the idea to recalibrate before comparing pruned
    models is EagleEye's, Li et al. 2020, arXiv:2007.02491). A model without batch norms is left as it is.
    """
    norms = _graph_norms(model) if isinstance(model, fx.GraphModule) else _module_norms(model)
    if not norms:
        return 0
    saved = [(mean.clone(), variance.clone()) for mean, variance, _ in norms]
    for mean, variance, _ in norms:
        mean.zero_()
        variance.zero_()
    was_training = model.training
    model.train()
    count = 0
    with torch.no_grad():
        for inputs in batches:
            forward(model, inputs)
            count += 1
    model.train(was_training)
    for (mean, variance, momentum), (old_mean, old_variance) in zip(norms, saved, strict=True):
        weight = 1.0 - (1.0 - momentum) ** count
        if count == 0 or weight == 0.0:
            mean.copy_(old_mean)
            variance.copy_(old_variance)
        else:
            mean.div_(weight)
            variance.div_(weight)
    return len(norms)


def _graph_norms(model: fx.GraphModule) -> list[tuple[torch.Tensor, torch.Tensor, float]]:
    buffers = dict(model.named_buffers())
    norms: dict[str, tuple[torch.Tensor, torch.Tensor, float]] = {}
    for node in model.graph.nodes:
        if node.target is torch.ops.aten.batch_norm.default and isinstance(node.args[3], fx.Node):
            mean, variance = (str(cast(fx.Node, a).target) for a in node.args[3:5])
            norms[mean] = (buffers[mean], buffers[variance], float(cast(float, node.args[6])))
    return list(norms.values())


def _module_norms(model: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor, float]]:
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    return [(cast(torch.Tensor, m.running_mean), cast(torch.Tensor, m.running_var), m.momentum)
            for m in norms if m.momentum is not None]
