"""The LeNet example: its sizes, and its recipe on made-up images, by loaders and by torchvision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

LOADERS = '''
import torch

def loaders():
    g = torch.Generator().manual_seed(0)
    def part(count):
        return [(torch.randn(8, 1, 28, 28, generator=g), torch.randint(0, 10, (8,), generator=g)) for _ in range(count)]
    return {"train": part(2), "validation": part(1), "test": part(1)}
'''


@pytest.fixture
def lenet(example: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any = example("lenet")
    monkeypatch.setattr(module, "BATCHES", 3)
    return module


def check(row: dict[str, Any]) -> None:
    assert row["parameters"] == 431_080
    assert 7_000 < row["nonzeros"] <= 8_000
    assert row["sparse_zip_bytes"] < row["dense_bytes"] / 20


def test_it_is_han_s_net(lenet: Any) -> None:
    net = lenet.lenet()
    assert sum(p.numel() for p in net.parameters()) == 431_080
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_the_recipe_on_loaders(lenet: Any, tmp_path: Path, evaluated: list[str]) -> None:
    (tmp_path / "data.py").write_text(LOADERS, encoding="utf-8")
    check(lenet.run(f"{tmp_path / 'data.py'}:loaders", seed=0, steps=1, cycles=2))
    assert evaluated == ["test", "test"]


def test_the_recipe_on_torchvision(lenet: Any, torchvision_of: Callable[..., None]) -> None:
    torchvision_of("MNIST", "L", (28, 28))
    assert "torchvision:MNIST" in lenet.__doc__
    check(lenet.run("torchvision:MNIST?size=28&channels=1&batch=8&normalize=none", seed=0, steps=1, cycles=2))
