"""Small models and data that the tests of the tasks room share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]


def make_batches(count: int = 4, size: int = 8, features: int = 4, classes: int = 3, seed: int = 0) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(size, features, generator=generator),
             torch.randint(0, classes, (size,), generator=generator)) for _ in range(count)]


class SmallNet(nn.Module):
    """Has what evaluation could change: a norm with statistics, dropout."""

    def __init__(self, features: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(features, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x))
        return out


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        return {"logits": self.linear(a + b)}


@pytest.fixture
def net() -> SmallNet:
    torch.manual_seed(0)
    return SmallNet()


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    """A file as a user would write it: a factory, loaders, a metric and a loss."""
    path = tmp_path / "mine.py"
    path.write_text('''
import torch
from torch import nn

def model():
    return nn.Linear(4, 3)

instance = nn.Linear(4, 3)

def not_a_model():
    return {"weights": 1}

def broken():
    layers = []
    return layers[3]

def _batches(count, seed):
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(5, 4, generator=g), torch.randint(0, 3, (5,), generator=g)) for _ in range(count)]

def loaders():
    return {"train": _batches(4, 0), "val": _batches(2, 1), "test": _batches(2, 2)}

def as_tuple():
    return _batches(4, 0), _batches(2, 1)

class AsObject:
    def __init__(self):
        self.train = _batches(3, 0)
        self.validation = _batches(1, 1)

def no_train():
    return {"test": []}

def typo():
    return {"train": [], "vaildation": []}

def metric(outputs, target):
    return (outputs.argmax(1) == target).float().mean()

def error(outputs, target):
    return 1 - metric(outputs, target)
error.higher_is_better = False

def loss(outputs, target):
    return nn.functional.cross_entropy(outputs, target)

number = 7
''')
    return path
