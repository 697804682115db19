"""How far apart two tensors are."""

from __future__ import annotations

import math

import torch

__all__ = ["distance"]


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest |a − b| relative to the largest finite |b| (at least 1), of two tensors of one shape and any dtype.
    Where both are NaN or the same infinity they do not differ; where one is and the other is not, it is infinite.
    """
    if a.is_complex() or b.is_complex():
        a, b = (torch.view_as_real(x.to(torch.complex128)) for x in (a, b))
    x, y = a.detach().double(), b.detach().double()
    same = (x == y) | (x.isnan() & y.isnan())
    worst = float((x - y).abs().masked_fill(same, 0.0).max()) if x.numel() else 0.0
    scale = float(y.abs().masked_fill(~y.isfinite(), 0.0).max()) if y.numel() else 0.0
    return worst / max(1.0, scale) if math.isfinite(worst) else math.inf
