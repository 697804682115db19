"""From scores to the units that stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from autoprune.errors import ConfigError
from autoprune.methods.criterion import GroupView, Statistics
from autoprune.methods.registry import criterion

if TYPE_CHECKING:
    from autoprune.graph.graph import Graph
    from autoprune.graph.plan import Cut

__all__ = ["choose"]


def choose(graph: Graph, group: str, cut: Cut, statistics: Statistics | None = None) -> tuple[int, ...]:
    """The ascending indices of the `cut.keep` most important units of `group`; ties go to the lower index."""
    scores = criterion(cut.method).score(GroupView(graph, group, statistics)).float()
    if scores.shape != (graph.groups[group].size,) or not bool(torch.isfinite(scores).all()):
        raise ConfigError(f"the method {cut.method!r} gave no usable scores for {group}",
                          given=f"shape {tuple(scores.shape)}, finite: {bool(torch.isfinite(scores).all())}",
                          allowed=f"{graph.groups[group].size} finite numbers")
    order = torch.argsort(scores, descending=True, stable=True)
    return tuple(sorted(order[: cut.keep].tolist()))
