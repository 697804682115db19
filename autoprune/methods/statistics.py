"""What one pass over calibration data leaves behind, for all groups and all criteria."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

__all__ = ["ACTIVATIONS", "BACKWARD", "FISHER", "GRADIENTS", "GRAM", "HESSIAN", "NEEDS", "Gram", "Statistics",
           "UnitStatistics"]

GRADIENTS, ACTIVATIONS, FISHER, HESSIAN, GRAM = "gradients", "activations", "fisher", "hessian", "gram"
NEEDS = frozenset({GRADIENTS, ACTIVATIONS, FISHER, HESSIAN, GRAM})
BACKWARD = frozenset({GRADIENTS, FISHER, HESSIAN})
"""The needs that take a loss, and so labels."""


@dataclass(frozen=True)
class UnitStatistics:
    """Activations of the units of one group where they are read (`Graph.reads`), each of shape `[units]`, float64.

    mean, variance: over samples and positions (pixels, tokens).
    zeros: share of values that are exactly 0, in [0, 1].
    entropy: of the value pooled over all positions of a sample, in nats, from a histogram over the samples.
    taylor: mean over samples of |Σ a·∂L/∂a|, the sum over the positions of the unit; None without gradients.

    A unit with several positions of its own (the head dimensions of a head) or with several readers has the mean over
    them; only `taylor` adds up a unit's own positions.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    zeros: torch.Tensor
    entropy: torch.Tensor
    taylor: torch.Tensor | None


@dataclass(frozen=True)
class Gram:
    """Second moments of what a weight reads: `matrix` `[in, in]`, E[x xᵀ]; `mean` `[in]`, E[x]; both float64.

    `in`: features of a linear layer, input channels of a convolution (all groups), pooled over samples and positions;
    `count`: how many of these there were.
    """

    matrix: torch.Tensor
    mean: torch.Tensor
    count: int


@dataclass(frozen=True)
class Statistics:
    """What one pass over calibration data left behind; each mapping is empty unless it was asked for.

    gradients: parameter → mean gradient of the loss, shaped like the parameter (so are the next two).
    fisher: parameter → mean over batches of the squared gradient of the batch (per sample would be costlier by the size
    of a batch): the diagonal of the empirical Fisher matrix up to a factor.
    hessian: parameter → Hutchinson's estimate of the diagonal of the Hessian, from every second batch.
    units: group → activations of its units where they are read. A group that nothing reads is missing.
    squares: reading weight → mean square `[in]` of each feature that it reads, float64; comes with `units`.
    gram: reading weight → `Gram`.
    batches: number of batches seen.
    gathered: which of `NEEDS` it holds.
    """

    gradients: Mapping[str, torch.Tensor] = field(default_factory=dict)
    batches: int = 0
    fisher: Mapping[str, torch.Tensor] = field(default_factory=dict)
    hessian: Mapping[str, torch.Tensor] = field(default_factory=dict)
    units: Mapping[str, UnitStatistics] = field(default_factory=dict)
    squares: Mapping[str, torch.Tensor] = field(default_factory=dict)
    gram: Mapping[str, Gram] = field(default_factory=dict)
    gathered: frozenset[str] = frozenset()

    def cpu(self) -> Statistics:
        """These statistics with every tensor on the CPU."""
        return Statistics(**{f.name: _on_cpu(getattr(self, f.name)) for f in fields(self)})

    def joined(self, later: Statistics) -> Statistics:
        """These statistics and those of a later pass; of what both have, the later."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        new = {name: {**own[name], **getattr(later, name)} for name, value in own.items() if isinstance(value, Mapping)}
        return Statistics(**new, batches=later.batches, gathered=self.gathered | later.gathered)


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, Mapping):
        return {name: _on_cpu(item) for name, item in value.items()}
    if isinstance(value, UnitStatistics | Gram):
        return replace(value, **{f.name: _on_cpu(getattr(value, f.name)) for f in fields(value)})
    return value
