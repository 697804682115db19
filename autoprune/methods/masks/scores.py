"""Element criteria: magnitude, LAMP, gradient, curvature, activation, and the control."""

from __future__ import annotations

import torch

from autoprune.methods.masks.criterion import ElementCriterion, WeightView, gathered
from autoprune.methods.masks.weights import Maskable
from autoprune.methods.noise import noise
from autoprune.methods.statistics import GRADIENTS, GRAM, HESSIAN

__all__ = ["LAMP", "OBD", "SNIP", "Magnitude", "Movement", "RandomWeights", "Wanda"]


class RandomWeights(ElementCriterion):
    """Uniform noise: the control that every other criterion has to beat."""

    name = "random"
    summary = "random weights; the control"
    source = "control"

    def score(self, view: WeightView) -> torch.Tensor:
        return noise(view.seed, view.weight.name, view.values.shape).to(view.values.device)


class Magnitude(ElementCriterion):
    """`|w|` (Han et al. 2015, arXiv:1506.02626). Needs no data."""

    name = "magnitude"
    summary = "absolute value of the weight"
    source = "Han et al. 2015, arXiv:1506.02626"

    def score(self, view: WeightView) -> torch.Tensor:
        return view.values.abs()


class LAMP(ElementCriterion):
    """`w² / Σ w'²` over the weights `w'` of the layer that are no smaller (Lee et al. 2021, arXiv:2010.07611).

    Within a layer the order is that of magnitude; it is meant for "global", where it gives each layer its share. The
    largest weight of every layer scores 1. Needs no data; one sort per weight.
    """

    name = "lamp"
    summary = "squared weight over the sum of the larger ones of its layer"
    source = "Lee et al. 2021, arXiv:2010.07611"

    def score(self, view: WeightView) -> torch.Tensor:
        squares = view.values.double().square().flatten()
        order = torch.argsort(squares, stable=True)
        larger = squares[order].flip(0).cumsum(0).flip(0)
        scores = torch.empty_like(squares)
        scores[order] = squares[order] / larger.clamp_min(torch.finfo(torch.float64).tiny)
        return scores.float().reshape(view.values.shape)


class SNIP(ElementCriterion):
    """`|w · ∂L/∂w|` (Lee et al. 2019, arXiv:1810.02340): how much the loss feels the weight.

    The gradient is the mean over a few batches, with the weights as they are when the mask is chosen: one forward and
    backward pass per batch. The paper divides by the sum over all weights, which changes no ranking.
    """

    name = "snip"
    summary = "absolute weight times gradient"
    source = "Lee et al. 2019, arXiv:1810.02340"
    needs = frozenset({GRADIENTS})

    def score(self, view: WeightView) -> torch.Tensor:
        return (view.values * gathered(view.gradient, GRADIENTS)).abs()


class Movement(ElementCriterion):
    """`−w · ∂L/∂w`, summed over batches (Sanh et al. 2020, arXiv:2005.07683): weights that training drives from zero.

    The paper sums while it trains; here the sum is over the calibration batches before each cut, with the weights as
    they are then. So it says little about a model that is fully trained, and fits the "gradual" schedule, where every
    cut looks anew. Cost: one forward and backward pass per batch.
    """

    name = "movement"
    summary = "whether training moves the weight away from zero"
    source = "Sanh et al. 2020, arXiv:2005.07683"
    needs = frozenset({GRADIENTS})

    def score(self, view: WeightView) -> torch.Tensor:
        return -view.values * gathered(view.gradient, GRADIENTS)


class OBD(ElementCriterion):
    """`½ h w²` with the diagonal `h` of the Hessian (LeCun et al. 1989, "Optimal Brain Damage").

    `h` is Hutchinson's estimate, which costs a second backward pass per batch; where it is negative (away from a
    minimum) its size counts.
    """

    name = "obd"
    summary = "second-order change of the loss, diagonal Hessian"
    source = "LeCun et al. 1989, Optimal Brain Damage"
    needs = frozenset({HESSIAN})

    def score(self, view: WeightView) -> torch.Tensor:
        return 0.5 * gathered(view.hessian, HESSIAN).abs() * view.values.square()


class Wanda(ElementCriterion):
    """`|w| · ‖x‖₂` with the norm of the input that the weight is multiplied with (Sun et al. 2024, arXiv:2306.11695).

    One forward pass per batch. The norm is a root mean square over samples and positions, so that layers can be
    compared. The paper compares within each output; here the scope says who competes, and N:M patterns always stay
    within an output.
    """

    name = "wanda"
    summary = "absolute weight times the norm of its input"
    source = "Sun et al. 2024, arXiv:2306.11695"
    needs = frozenset({GRAM})

    def score(self, view: WeightView) -> torch.Tensor:
        norms = gathered(view.gram, GRAM).diagonal().clamp_min(0).sqrt().to(view.values.dtype)
        return view.values.abs() * per_input(norms, view.weight)


def per_input(values: torch.Tensor, weight: Maskable) -> torch.Tensor:
    """`[groups · in]` values of input channels, shaped so that they broadcast against the weight.

    With groups the weight is that of a convolution, `[out, in, …]`, whose outputs are divided among the groups.
    """
    axis = weight.input_axis
    assert axis is not None
    width = weight.shape[axis]
    groups = values.numel() // width
    if groups == 1:
        return values.reshape([width if a == axis else 1 for a in range(len(weight.shape))])
    rows = values.reshape(groups, width).repeat_interleave(weight.shape[0] // groups, 0)
    return rows.reshape(*rows.shape, *[1] * weight.spatial)
