"""Criteria that look at the gradient of the loss."""

from __future__ import annotations

import torch

from autoprune.errors import ConfigError
from autoprune.methods.criterion import Criterion, GroupView

__all__ = ["Taylor"]


class Taylor(Criterion):
    """First-order change of the loss when the unit is removed, `(Σ w·g)²` (Molchanov et al. 2019, arXiv:1906.10771).

    The sum runs over all parameters that compute the unit, bias and norm included. Needs gradients on a few batches.
    """

    name = "taylor"
    summary = "squared first-order change of the loss when the unit goes"
    source = "Molchanov et al. 2019, arXiv:1906.10771"
    needs_gradients = True

    def score(self, group: GroupView) -> torch.Tensor:
        if not group.gradients:
            raise ConfigError("the method 'taylor' needs gradients", given=f"group {group.name} without statistics",
                              fix="graph.prune(plan, statistics=autoprune.methods.collect(graph, batches, loss))")
        weights = {(s.tensor, s.role): s.values for s in group.weights}
        total = group.gradients[0].values.new_zeros(group.units)
        for g in group.gradients:
            if g.role != "in":
                total = total + (weights[g.tensor, g.role] * g.values).sum(1)
        return total.square()
