"""From scores to masks: how much stays, and who competes with whom."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from autoprune.errors import ConfigError, did_you_mean
from autoprune.methods.masks.patterns import NofM, Pattern
from autoprune.methods.masks.weights import Maskable

__all__ = ["SCOPES", "choose_masks"]

SCOPES = ("global", "layer")


def choose_masks(scores: Mapping[str, torch.Tensor], weights: Mapping[str, Maskable], pattern: Pattern, kept: float,
                 scope: str = "layer") -> dict[str, torch.Tensor]:
    """Boolean masks shaped like the weights, true where a weight stays.

    scores: by name, shaped like the weight, any finite number, −inf for what must go. kept: share of the cells that
    stay, in (0, 1], rounded; of N:M patterns never less than N of M. scope: "layer" (the same share of every weight) or
    "global" (one ranking of all cells; at least one cell of every weight stays, for a layer without weights cuts the
    net in two). Ties go to the lower index. `ConfigError` when a share or scope is out of range or a score is NaN.
    """
    if scope not in SCOPES or not 0 < kept <= 1:
        raise ConfigError("a mask's share or scope is out of range", given=f"kept {kept}, scope {scope!r}",
                          allowed=f"0 < kept ≤ 1; {did_you_mean(scope, SCOPES)}")
    broken = [n for n, s in scores.items() if bool(torch.isnan(s).any())]
    if broken:
        raise ConfigError("scores of weights are not numbers", given=", ".join(broken[:3]),
                          fix="look for NaN in the weights and in the data")
    if isinstance(pattern, NofM):
        n = max(pattern.n, math.ceil(kept * pattern.m - 1e-9))
        return {name: pattern.mask(s, weights[name], n) for name, s in scores.items()}
    cells = {n: pattern.pool(s, weights[n]) for n, s in scores.items()}
    if scope == "layer":
        chosen = {n: _best(c.flatten(), max(1, round(kept * c.numel()))).reshape(c.shape) for n, c in cells.items()}
    else:
        chosen = _across(cells, kept)
    return {n: pattern.spread(c, weights[n]).contiguous() for n, c in chosen.items()}


def _across(cells: Mapping[str, torch.Tensor], kept: float) -> dict[str, torch.Tensor]:
    flat = torch.cat([c.flatten() for c in cells.values()])
    sizes = [c.numel() for c in cells.values()]
    parts = torch.split(flat.clone(), sizes)
    for part in parts:
        part[part.argmax()] = math.inf
    mask = _best(torch.cat(parts), max(len(parts), round(kept * len(flat))))
    return {n: m.reshape(c.shape) for (n, c), m in zip(cells.items(), torch.split(mask, sizes), strict=True)}


def _best(scores: torch.Tensor, count: int) -> torch.Tensor:
    mask = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    mask[torch.argsort(scores, descending=True, stable=True)[:count]] = True
    return mask
