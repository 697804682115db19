"""Networks of a few weights, so that scores can be worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoprune.graph.graph import Graph, trace

FIRST = [[1.0, -2.0], [3.0, 0.0], [-1.0, 1.0]]
BIAS = [0.5, -0.5, 0.0]
LAST = [[2.0, 1.0, -1.0], [0.0, 1.0, 3.0]]
X = torch.tensor([[1.0, 2.0], [3.0, -1.0]])


def small(norm: nn.Module | None = None, activation: nn.Module | None = None) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(2, 3), norm or nn.Identity(), activation or nn.Identity(), nn.Linear(3, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor(FIRST))
        net[0].bias.copy_(torch.tensor(BIAS))
        net[3].weight.copy_(torch.tensor(LAST))
        net[3].bias.zero_()
    return net.eval()


def coupled() -> nn.Module:
    """Two layers whose units add up, `a(x) + b(x)`: one group with two producers of different widths."""

    class Coupled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(2, 3, bias=False), nn.Linear(4, 3, bias=False), nn.Linear(3, 2)
            with torch.no_grad():
                self.a.weight.copy_(torch.tensor([[1.0, 1.0], [2.0, -2.0], [0.0, 0.0]]))
                self.b.weight.copy_(torch.tensor([[4.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [2.0, 2.0, -2.0, 2.0]]))

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.out(self.a(x) + self.b(y))
            return out

    return Coupled().eval()


@pytest.fixture
def graph() -> Graph:
    return trace(small(), X)
