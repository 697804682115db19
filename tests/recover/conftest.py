"""A toy task: three classes of points, and a network with a norm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.recover.finetune import Example

CENTRES = torch.tensor([[2.0, 0.0, 0.0, 1.0], [0.0, 2.0, -1.0, 0.0], [-1.0, -1.0, 2.0, 0.0]])


class ToyTask:
    def forward(self, model: nn.Module, inputs: Any) -> Any:
        return model(inputs)

    def loss(self, outputs: Any, target: Any) -> Tensor:
        return F.cross_entropy(outputs, target)

    def logits(self, outputs: Any) -> Tensor | None:
        logits: Tensor = outputs
        return logits

    def class_axis(self, logits: Tensor, target: Any) -> int | None:
        return -1


def points(count: int, size: int = 16, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(count):
        y = torch.randint(0, 3, (size,), generator=g)
        out.append((CENTRES[y] + 0.3 * torch.randn(size, 4, generator=g), y))
    return out


def data(count: int = 8, teacher: float | None = None, seed: int = 0) -> list[Example]:
    """Teacher logits are the right class times `teacher`."""
    return [Example(x, y, None if teacher is None else teacher * F.one_hot(y, 3).float())
            for x, y in points(count, seed=seed)]


def net(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3)).eval()


@pytest.fixture
def task() -> ToyTask:
    return ToyTask()
