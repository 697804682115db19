"""Criteria that look at the gradient of the loss."""

from __future__ import annotations

import torch

from autoprune.methods.criterion import Criterion, GroupView
from autoprune.methods.statistics import GRADIENTS

__all__ = ["Movement", "Snip", "Taylor"]


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
        return group.total(group.gradients, torch.mul).square()


class Snip(Criterion):
    """Connection sensitivity summed over the unit, `Σ |w·g|` (Lee et al. 2019, arXiv:1810.02340).

    Unlike in `taylor`, changes of different sign do not cancel. Needs gradients on a few batches.
    """

    name = "snip"
    summary = "first-order changes of the loss by each weight of the unit, added up in size"
    source = "Lee et al. 2019, arXiv:1810.02340"
    needs = frozenset({GRADIENTS})
    comparable = True

    def score(self, group: GroupView) -> torch.Tensor:
        return group.total(group.gradients, lambda w, g: (w * g).abs())


class Movement(Criterion):
    """How training would move the unit's weights: `Σ −w·g` is positive for weights that grow (Sanh et al. 2020,
    arXiv:2005.07683).

    The paper adds it up along the steps of fine-tuning; here all batches see the weights as they are. Needs gradients
    on a few batches.
    """

    name = "movement"
    summary = "whether training moves the unit's weights away from zero"
    source = "Sanh et al. 2020, arXiv:2005.07683"
    needs = frozenset({GRADIENTS})
    comparable = True

    def score(self, group: GroupView) -> torch.Tensor:
        return -group.total(group.gradients, torch.mul)
