"""Criteria that look at the curvature of the loss: its Hessian's diagonal, or Fisher's matrix in its place."""

from __future__ import annotations

import torch

from autoprune.methods.criterion import Criterion, GroupView
from autoprune.methods.statistics import FISHER, HESSIAN

__all__ = ["HAP", "OBD", "Fisher", "FisherPerLatency"]


class OBD(Criterion):
    """Second-order change of the loss at a minimum when the unit's weights become zero, `½ Σ h·w²` (LeCun et al. 1989,
    "Optimal Brain Damage"), with `h` the diagonal of the Hessian.

    The sum runs over all parameters that compute the unit, bias and norm included. Needs the Hessian: Hutchinson's
    estimate costs a backward pass through the backward pass for every second of a few batches, each as long as two or
    three training steps.
    """

    name = "obd"
    summary = "second-order change of the loss when the unit goes, by the Hessian's diagonal"
    source = "LeCun et al. 1989, Optimal Brain Damage"
    needs = frozenset({HESSIAN})
    comparable = True

    def score(self, group: GroupView) -> torch.Tensor:
        return 0.5 * group.total(group.hessian, lambda w, h: h * w.square())


class HAP(Criterion):
    """The same with the unit's mean curvature for each of its weights, `Trace(H)/(2p)·‖w‖₂²` for its `p` parameters
    (Yu et al. 2022, "Hessian-Aware Pruning", arXiv:2101.08940).

    A trace is estimated more reliably than the single entries of a diagonal. Needs the Hessian, at the cost of `obd`.
    """

    name = "hap"
    summary = "Hessian trace of the unit times its squared weights"
    source = "Yu et al. 2022, arXiv:2101.08940"
    needs = frozenset({HESSIAN})
    comparable = True

    def score(self, group: GroupView) -> torch.Tensor:
        trace = group.total(group.hessian, lambda _, h: h)
        square = group.total(group.hessian, lambda w, _: w.square())
        return trace * square / (2 * sum(w.shape[1] for w, _ in group.weights_of(group.hessian)))


class Fisher(Criterion):
    """`½ Σ F·w²` with the diagonal of the empirical Fisher matrix in place of the Hessian's (Theis et al. 2018,
    arXiv:1801.05787), over all parameters that compute the unit.

    F is the mean over batches of the squared gradient of the batch: one forward and one backward pass over a few
    batches, less noisy than a Hessian from as many, and never negative.
    """

    name = "fisher"
    summary = "second-order change of the loss when the unit goes, by Fisher's matrix"
    source = "Theis et al. 2018, arXiv:1801.05787"
    needs = frozenset({FISHER})
    comparable = True

    def score(self, group: GroupView) -> torch.Tensor:
        return 0.5 * group.total(group.fisher, lambda w, f: f * w.square())


class FisherPerLatency(Criterion):
    """`fisher` divided by what one unit saves on the device (Liu et al. 2021, "Group Fisher Pruning",
    arXiv:2108.00708, who divide by memory).

    All units of a group save the same, so that this differs from `fisher` in a ranking over groups only (`ranked` with
    scope "global" or "isomorphic"). What a unit saves is given to `ranked` in milliseconds, from a table of latencies;
    where it is not given, multiply-adds of the traced example stand in.
    """

    name = "fisher_per_latency"
    summary = "fisher, divided by the latency that a unit saves"
    source = "Liu et al. 2021, arXiv:2108.00708"
    needs = frozenset({FISHER})
    comparable = True
    per_saving = True

    def score(self, group: GroupView) -> torch.Tensor:
        return Fisher().score(group) / group.saves
