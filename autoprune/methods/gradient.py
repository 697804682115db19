"""Criteria that look at the gradient of the loss."""

from __future__ import annotations

import torch

from autoprune.methods.criterion import Criterion, GroupView
from autoprune.methods.statistics import GRADIENTS

__all__ = ["Taylor"]


class Taylor(Criterion):
    """First-order change of the loss when the unit is removed, `(Σ w·g)²` (Molchanov et al. 2019, arXiv:1906.10771).

    The sum runs over all parameters that compute the unit, bias and norm included. Needs gradients on a few batches.
    """

    name = "taylor"
    summary = "squared first-order change of the loss when the unit goes"
    source = "Molchanov et al. 2019, arXiv:1906.10771"
    needs = frozenset({GRADIENTS})
    comparable = True

    def score(self, group: GroupView) -> torch.Tensor:
        return sum(((w * g).sum(1) for w, g in group.weights_of(group.gradients)), torch.zeros(())).square()
