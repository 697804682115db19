"""Conformance of a `Criterion`."""

from __future__ import annotations

import torch
from torch import nn

from autoprune.graph.graph import trace
from autoprune.methods.collect import collect
from autoprune.methods.criterion import Criterion, GroupView
from autoprune.methods.statistics import NEEDS

__all__ = ["check_criterion"]


class _Net(nn.Module):
    """A residual CNN with norms and a linear layer: coupled, single and flattened groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(6, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 1))
        self.head = nn.Linear(6 * 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        pooled: torch.Tensor = nn.functional.adaptive_avg_pool2d(x + self.block(x), 2)
        return self.head(pooled.flatten(1))  # type: ignore[no-any-return]


def check_criterion(criterion: Criterion) -> None:
    """Scores of every group that the criterion applies to have shape `[units]` and are finite, and repeat exactly;
    whether it applies does not depend on data; nothing that was given is changed. What `needs` names is gathered, and
    nothing else.
    """
    assert criterion.name and criterion.summary and criterion.source, "name, summary and source must be set"
    assert criterion.needs <= NEEDS, f"needs must be among {sorted(NEEDS)}, not {sorted(criterion.needs)}"
    torch.manual_seed(0)
    model = _Net()
    inputs, target = torch.randn(8, 2, 8, 8), torch.randint(0, 3, (8,))
    graph = trace(model, (inputs[:1],))
    statistics = collect(graph, [(inputs, target)], lambda m, x, y: nn.functional.cross_entropy(m(x), y),
                         needs=criterion.needs)
    before = {n: t.clone() for n, t in graph.captured.tensors.items()}
    scored = 0
    for name, group in graph.groups.items():
        view = GroupView(graph, name, statistics)
        applies = criterion.applies(view)
        assert applies == criterion.applies(GroupView(graph, name)), f"{name}: applies() must not depend on data"
        if not applies:
            continue
        scored += 1
        first = criterion.score(view).detach()
        assert first.shape == (group.size,), f"{name}: scores have shape {tuple(first.shape)}, not ({group.size},)"
        assert bool(torch.isfinite(first).all()), f"{name}: scores are not finite"
        again = criterion.score(GroupView(graph, name, statistics)).detach()
        assert torch.equal(first, again), f"{name}: a second call gives other scores; a criterion keeps no state"
    assert scored, "the criterion applies to no group of a plain residual CNN with norms"
    for n, t in graph.captured.tensors.items():
        assert torch.equal(t, before[n]), f"the criterion changed {n}"
