"""Optimal brain surgeon on a layer's inputs: what stays is corrected for what goes."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from autoprune.methods.masks.criterion import ElementCriterion, WeightView, gathered
from autoprune.methods.statistics import GRAM

__all__ = ["OBS"]

_DAMPING = 0.01  # of the mean diagonal, as in SparseGPT


class OBS(ElementCriterion):
    """`w² / [H⁻¹]ᵢᵢ` with `H = E[x xᵀ]` of the layer's inputs, and the weight update that goes with it (Hassibi & Stork
    1993; for whole layers Frantar & Alistarh 2023 "SparseGPT", arXiv:2301.00774).

    The layer's output changes least in least squares. Columns are visited once, those that lose most weights first, and
    each error is spread over the columns that follow, as in SparseGPT; for an output whose lost weights all come first
    this is the exact optimum. Unlike there, the mask is chosen before the updates. Kernel positions of a convolution
    are treated as if they were independent. H gets 1 % of its mean diagonal added.

    One forward pass per batch; then `in³` once and `in² · rows` for the update, rows = outputs × kernel positions.
    """

    name = "obs"
    summary = "least-squares cost of removing the weight; the others are corrected for it"
    source = "Hassibi & Stork 1993; Frantar & Alistarh 2023, arXiv:2301.00774"
    needs = frozenset({GRAM})

    def score(self, view: WeightView) -> torch.Tensor:
        out = torch.empty_like(view.values)
        for part, inverse in _groups(view):
            rows, place = _rows(view.values, view, part), _rows(out, view, part)
            place.copy_((rows.double().square() / inverse.diagonal()).to(place.dtype))
        return out

    def update(self, view: WeightView, mask: torch.Tensor) -> torch.Tensor:
        out = view.values.clone()
        for part, inverse in _groups(view):
            place = _rows(out, view, part)
            shape = place.shape
            rows, keep = place.reshape(-1, shape[-1]), _rows(mask, view, part).reshape(-1, shape[-1])
            place.copy_(_sweep(rows.double(), keep.bool(), inverse).reshape(shape).to(place.dtype))
        return out


def _groups(view: WeightView) -> Iterator[tuple[slice, torch.Tensor]]:
    """For each group of the layer: its part of the weight's first axis (outputs; inputs where these hold the groups),
    and the damped inverse of its inputs' second moments.
    """
    width, first = view.weight.inputs, view.weight.shape[0]
    gram = gathered(view.gram, GRAM)
    groups = gram.shape[0] // width
    for g in range(groups):
        block = gram[g * width : (g + 1) * width, g * width : (g + 1) * width].double()
        mean = block.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
        damped = block + _DAMPING * mean * torch.eye(width, dtype=block.dtype, device=block.device)
        part = slice(None) if groups == 1 else slice(g * first // groups, (g + 1) * first // groups)
        yield part, torch.cholesky_inverse(torch.linalg.cholesky(damped))


def _rows(tensor: torch.Tensor, view: WeightView, part: slice) -> torch.Tensor:
    """`[…, inputs of a group]`, a view of what is in `part` of the first axis."""
    assert view.weight.input_axis is not None
    return tensor[part].movedim(view.weight.input_axis, -1)


def _sweep(rows: torch.Tensor, keep: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """`rows [n, in]` with zeros where `keep` is false, and the rest corrected; `inverse [in, in]` is H⁻¹."""
    order = torch.argsort(keep.sum(0), stable=True)
    upper = torch.linalg.cholesky(inverse[order][:, order], upper=True)
    w, keep = rows[:, order], keep[:, order]
    for j in range(w.shape[1]):
        error = w[:, j].masked_fill(keep[:, j], 0.0) / upper[j, j]
        w[:, j:] -= error[:, None] * upper[j, j:]
    out = torch.empty_like(w)
    out[:, order] = w.masked_fill(~keep, 0.0)
    return out
