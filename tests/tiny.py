"""A task so small that a whole search takes seconds: a residual CNN that tells four 8×8 patterns apart.

`write_user_file` writes the same as a user would: a Python file with a model factory and loaders.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.tasks.score import Score
from autoprune.tasks.task import Task

Batch = tuple[Tensor, Tensor]


class TinyNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.inner = nn.Conv2d(16, 24, 3, padding=1)
        self.outer = nn.Conv2d(24, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.outer(torch.relu(self.inner(x))))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def batches(count: int, seed: int, size: int = 24) -> list[Batch]:
    """Noisy copies of four fixed patterns."""
    pattern = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(count):
        target = torch.randint(0, 4, (size,), generator=generator)
        out.append((pattern[target] + 0.3 * torch.randn(size, 1, 8, 8, generator=generator), target))
    return out


@cache
def _weights() -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = TinyNet()
        optimizer = torch.optim.Adam(net.parameters(), 3e-3)
        for inputs, target in batches(60, 1):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs), target).backward()
            optimizer.step()
    return net.state_dict()


def trained() -> TinyNet:
    with torch.random.fork_rng(devices=[]):
        net = TinyNet()
    net.load_state_dict(_weights())
    return net.eval()


class CountingTask(Task):
    """Counts the evaluations per split."""

    def __init__(self, model: nn.Module, **values: Any) -> None:
        super().__init__(model, **values)
        self.evaluations: dict[str, int] = {"validation": 0, "test": 0}

    def evaluate(self, model: nn.Module, split: str = "validation", limit: int | None = None) -> Score:
        self.evaluations[split] += 1
        return super().evaluate(model, split, limit)


def tiny_task() -> CountingTask:
    return CountingTask(trained(), train=batches(3, 2), validation=batches(2, 3), test=batches(2, 4), name="tiny")


USER_FILE = '''
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from tiny import TinyNet, batches

HERE = Path(__file__).parent

def make():
    net = TinyNet()
    net.load_state_dict(load_file(HERE / "tiny.safetensors"))
    return net.eval()

def loaders():
    return {"train": batches(3, 2), "validation": batches(2, 3), "test": batches(2, 4)}

def explodes():
    layers = []
    return layers[3]

class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.conv(x)
        if x.sum().item() > 0:
            x = x * 2
        return self.head(x.mean((2, 3)))

def branching():
    return Branching()

def wide():
    return {"train": [(torch.randn(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64))] * 2,
            "validation": [(torch.randn(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64))]}

def labels_from_one():
    data = [(torch.randn(4, 1, 8, 8), torch.tensor([1, 2, 3, 4]))]
    return {"train": data, "validation": data, "test": data}
'''


def write_user_file(folder: Path) -> Path:
    """`folder/nets.py` with what a user would pass as `--model nets.py:make --data nets.py:loaders`."""
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in _weights().items()}, folder / "tiny.safetensors")
    path = folder / "nets.py"
    path.write_text(USER_FILE, encoding="utf-8")
    return path
