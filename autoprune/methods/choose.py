"""From scores to the units that stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from autoprune.errors import ConfigError
from autoprune.graph.plan import Cut, Plan
from autoprune.methods.criterion import GroupView, Statistics
from autoprune.methods.registry import criterion, methods

if TYPE_CHECKING:
    from autoprune.graph.graph import Graph

__all__ = ["Ranking"]


class Ranking:
    """The units of each group of a graph from the most to the least important, worked out once per method.

    It is made for weights that do not change: a search has one, `Graph.resolve` makes a new one each time.
    `statistics`: for the methods that look at data; `seed`: for those that draw numbers;
    `saves`: what one unit of each group saves (see `GroupView.saves`).
    """

    def __init__(self, graph: Graph, statistics: Statistics | None = None, seed: int = 0,
                 saves: Mapping[str, float] | None = None):
        self.graph, self.statistics, self.seed, self.saves = graph, statistics, seed, saves or {}
        self._orders: dict[tuple[str, str], torch.Tensor] = {}

    def resolve(self, plan: Plan, within: Plan | None = None) -> Plan:
        """The same plan with the indices of the units that stay, chosen by each cut's method, of those that `within`
        (resolved) keeps.

        Raises `ConfigError` listing all that is wrong with the plan.
        """
        self.graph.check(plan)
        cuts = {n: c if c.kept is not None else Cut(c.keep, c.method, self.choose(n, c, within))
                for n, c in plan.cuts.items()}
        return replace(plan, cuts=cuts, model=self.graph.fingerprint)

    def choose(self, group: str, cut: Cut, within: Plan | None = None) -> tuple[int, ...]:
        """The ascending indices of the `cut.keep` most important units of `group`; ties go to the lower index."""
        order = self.order(group, cut.method)
        if within is not None and group in within.cuts:
            order = order[torch.isin(order, torch.tensor(within.cuts[group].kept))]
        best = order[: cut.keep]
        return tuple(best.sort().values.tolist())

    def order(self, group: str, method: str) -> torch.Tensor:
        """All units of `group`, the most important first."""
        key = group, method
        if key not in self._orders:
            scores = self.scores(group, method)
            self._orders[key] = torch.argsort(scores, descending=True, stable=True)
        return self._orders[key]

    def scores(self, group: str, method: str) -> torch.Tensor:
        """What `method` gives the units of `group`, checked: `[units]`, finite, float64.

        Raises `ConfigError` when it does not apply to the group or needs data that were not gathered.
        """
        view = self._view(group)
        found = criterion(method)
        if not found.applies(view):
            raise ConfigError(f"the method {method!r} does not apply to {group}", given=f"{group}: {method}",
                              allowed=", ".join(m.name for m in methods() if m.applies(view)),
                              fix=f"autoprune methods show {method}")
        scores = found.score(view).double()
        if scores.shape != (self.graph.groups[group].size,) or not bool(torch.isfinite(scores).all()):
            raise ConfigError(f"the method {method!r} gave no usable scores for {group}",
                              given=f"shape {tuple(scores.shape)}, finite: {bool(torch.isfinite(scores).all())}",
                              allowed=f"{self.graph.groups[group].size} finite numbers")
        return scores

    def applies(self, group: str, method: str) -> bool:
        """Whether `method` means anything for `group`."""
        return criterion(method).applies(self._view(group))

    def _view(self, group: str) -> GroupView:
        return GroupView(self.graph, group, self.statistics, self.seed, self.saves.get(group, 1.0))
