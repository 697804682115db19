"""Criteria that look at the activations of the units, where the next layers read them (`Graph.reads`)."""

from __future__ import annotations

import torch

from autoprune.methods.criterion import Criterion, GroupView
from autoprune.methods.statistics import ACTIVATIONS, GRADIENTS

__all__ = ["APoZ", "Entropy", "MeanActivation", "Sensitivity", "TaylorActivation", "Variance", "Wanda"]


class MeanActivation(Criterion):
    """Size of the mean activation, `|E[a]|` (Molchanov et al. 2017, arXiv:1611.06440, where a ReLU makes `a ≥ 0`).

    Needs activations: one forward pass over a few batches, for all groups at once.
    """

    name = "mean_activation"
    summary = "size of the unit's mean activation"
    source = "Molchanov et al. 2017, arXiv:1611.06440"
    needs = frozenset({ACTIVATIONS})

    def score(self, group: GroupView) -> torch.Tensor:
        return group.activations.mean.abs()


class APoZ(Criterion):
    """Share of activations that are not zero: 1 − APoZ, the average percentage of zeros (Hu et al. 2016,
    arXiv:1607.03250).

    Applies where a ReLU or the like makes zeros. Needs activations: one forward pass over a few batches.
    """

    name = "apoz"
    summary = "how often the unit is on: units that are mostly zero go first"
    source = "Hu et al. 2016, arXiv:1607.03250"
    needs = frozenset({ACTIVATIONS})

    def applies(self, group: GroupView) -> bool:
        return group.is_rectified

    def score(self, group: GroupView) -> torch.Tensor:
        return 1.0 - group.activations.zeros


class Variance(Criterion):
    """Variance of the activation, `E[a²] − E[a]²`: what hardly varies is a bias of the next layer ("inbound" pruning of
    Polyak & Wolf 2015, "Channel-level acceleration of deep face representations").

    Needs activations: one forward pass over a few batches.
    """

    name = "variance"
    summary = "variance of the unit's activation"
    source = "Polyak & Wolf 2015, Channel-level acceleration of deep face representations"
    needs = frozenset({ACTIVATIONS})

    def score(self, group: GroupView) -> torch.Tensor:
        return group.activations.variance


class Entropy(Criterion):
    """Entropy `−Σ p log p` of the activation pooled over a sample (Luo & Wu 2017, arXiv:1706.05791).

    From a histogram of 32 bins over the samples, between the unit's own least and largest value. Needs activations: one
    forward pass over a few batches; a hundred samples or more, or all units look alike.
    """

    name = "entropy"
    summary = "entropy of the unit's pooled activation over the samples"
    source = "Luo & Wu 2017, arXiv:1706.05791"
    needs = frozenset({ACTIVATIONS})

    def score(self, group: GroupView) -> torch.Tensor:
        return group.activations.entropy


class TaylorActivation(Criterion):
    """First-order change of a sample's loss when the activation becomes zero, the mean over samples of
    `|Σ a·∂L/∂a|` (Molchanov et al. 2017, arXiv:1611.06440, eq. 8, without the division by the number of positions).

    The sum runs over the positions of a sample, so that changes of one sign add up. Needs activations and gradients:
    one forward and one backward pass over a few batches.
    """

    name = "taylor_activation"
    summary = "first-order change of the loss when the activation becomes zero"
    source = "Molchanov et al. 2017, arXiv:1611.06440"
    needs = frozenset({ACTIVATIONS, GRADIENTS})
    comparable = True

    def score(self, group: GroupView) -> torch.Tensor:
        taylor = group.activations.taylor
        return taylor if taylor is not None else torch.zeros(group.units)


class Sensitivity(Criterion):
    """Expected change of what the next layers compute when the input varies, `sd(a)·‖w_out‖₂` (after Zeng & Yeung
    2006, "Hidden neuron pruning of multilayer perceptrons using a quantified sensitivity measure": a unit's sensitivity
    to its input times the weights that pass it on).

    The input varies as the calibration data do, instead of by a noise that somebody has to choose. Applies where
    weights read the unit. Needs activations: one forward pass over a few batches.
    """

    name = "sensitivity"
    summary = "how far the next layers' outputs move with the unit when inputs vary"
    source = "Zeng & Yeung 2006, Hidden neuron pruning using a quantified sensitivity measure"
    needs = frozenset({ACTIVATIONS})

    def applies(self, group: GroupView) -> bool:
        return group.is_read and bool(group.reading())

    def score(self, group: GroupView) -> torch.Tensor:
        outgoing = sum((s.values.double().square().sum(1) for s in group.reading()), torch.zeros(()))
        return (group.activations.variance * outgoing).sqrt()


class Wanda(Criterion):
    """Weights that read the unit times the norm of its activation, `‖w_out‖₁ · √E[a²]` (Sun et al. 2023,
    arXiv:2306.11695, summed over a unit as the baseline "Wanda-sp" of An et al. 2023, arXiv:2312.11983).

    Applies where weights read the unit. Needs activations: one forward pass over a few batches.
    """

    name = "wanda"
    summary = "weights that read the unit times the norm of its activation"
    source = "Sun et al. 2023, arXiv:2306.11695; An et al. 2023, arXiv:2312.11983"
    needs = frozenset({ACTIVATIONS})

    def applies(self, group: GroupView) -> bool:
        return group.is_read and bool(group.reading())

    def score(self, group: GroupView) -> torch.Tensor:
        outgoing = sum((s.values.double().abs().sum(1) for s in group.reading()), torch.zeros(()))
        return outgoing * (group.activations.variance + group.activations.mean.square()).sqrt()
