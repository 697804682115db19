"""One pass over a few batches that gathers what data-dependent criteria need, for all groups at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autoprune.errors import TaskError
from autoprune.methods.criterion import Statistics

if TYPE_CHECKING:
    from autoprune.graph.graph import Graph

__all__ = ["collect"]


def collect(graph: Graph, batches: Iterable[tuple[Any, Any]], loss: Callable[[nn.Module, Any, Any], torch.Tensor],
            max_batches: int = 8) -> Statistics:
    """Mean gradient of the loss over at most `max_batches` batches, in evaluation mode.

    Parameters
    ----------
    batches: pairs of (inputs, target).
    loss: called with (model, inputs, target), returns a scalar.

    Parameters that are frozen for training get gradients, too: their units have to be ranked like all others.
    Costs one forward and backward pass per batch. Raises `TaskError` when the loss or a gradient is not finite, or when
    no batch comes.
    """
    model = graph.dense()
    for p in model.parameters():
        p.requires_grad_(p.is_floating_point())
    seen = 0
    for inputs, target in islice(batches, max_batches):
        value = loss(model, inputs, target)
        if not bool(torch.isfinite(value.detach()).all()):
            raise TaskError("the loss is not finite", given=f"batch {seen}: {float(value.detach().sum())}",
                            fix="check the data for NaN and the loss for overflow")
        value.backward()  # type: ignore[no-untyped-call]
        seen += 1
    if seen == 0:
        raise TaskError("there is no batch to compute gradients on", fix="give the task training data")
    gradients = {n: p.grad / seen for n, p in model.named_parameters() if p.grad is not None}
    broken = [n for n, g in gradients.items() if not bool(torch.isfinite(g).all())]
    if broken:
        raise TaskError("the loss has gradients that are not finite", given=", ".join(broken[:3]),
                        fix="check the data for NaN and the loss for overflow")
    return Statistics(gradients, seen)
