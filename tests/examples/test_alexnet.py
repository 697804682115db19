"""The AlexNet example: its plan, its pictures, and its recipe on made-up images, by loaders and by torchvision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from autoprune.specs import load_object

LOADERS = '''
import torch

READS = []

class Test:
    def __init__(self, batches):
        self.batches = batches
    def __iter__(self):
        READS.append(1)  # with the first batch: to ask for an iterator reads nothing
        yield from self.batches

def loaders():
    g = torch.Generator().manual_seed(0)
    def part(count):
        return [(torch.randn(8, 3, 48, 48, generator=g), torch.arange(8)) for _ in range(count)]
    return {"train": part(2), "validation": part(1), "test": Test(part(1))}
'''


@pytest.fixture
def alexnet(example: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any = example("alexnet")
    monkeypatch.setattr(module, "timed", lambda dense, pruned, inputs: {"ratio": 1.0})
    monkeypatch.setattr(module, "BATCHES", 2)
    return module


def check(row: dict[str, Any]) -> None:
    """Both cuts are met by filters alone, in multiples of 16, and not by much more than they ask for."""
    assert 0.55 < row["pruned"]["macs"] / row["dense"]["macs"] <= 0.65
    assert 0.78 < row["pruned"]["params"] / row["dense"]["params"] <= 0.84
    assert [whole for _, whole in row["kept"].values()] == [24, 64, 96, 64, 64]
    assert all(kept < whole and kept % 16 == 0 for kept, whole in row["kept"].values())


def test_the_net_takes_one_channel_and_62_classes(alexnet: Any) -> None:
    net = alexnet.alexnet()
    assert sum(p.numel() for p in net.parameters()) == 777_230
    assert net(torch.zeros(2, 1, 48, 48)).shape == (2, 62)


def test_the_recipe_on_loaders(alexnet: Any, tmp_path: Path) -> None:
    """The test split is read by two nets for two metrics, once each, and by nothing else."""
    (tmp_path / "made_up.py").write_text(LOADERS, encoding="utf-8")
    spec = f"{tmp_path / 'made_up.py'}:loaders"
    row = alexnet.run(spec, seed=0, steps=1)
    check(row)
    assert all(row[net][metric]["split"] == "test" for net in ("dense", "pruned") for metric in ("top5", "top1"))
    assert len(load_object(f"{tmp_path / 'made_up.py'}:READS")) == 4


def test_the_recipe_on_torchvision(alexnet: Any, torchvision_of: Callable[..., None]) -> None:
    torchvision_of("CIFAR100", "RGB", (32, 32))
    assert "torchvision:CIFAR100" in alexnet.__doc__
    check(alexnet.run("torchvision:CIFAR100?size=48&channels=1&batch=16&normalize=half", seed=0, steps=1))


def test_pictures_repeat_and_splits_differ(alexnet: Any) -> None:
    pytest.importorskip("PIL.Image")
    one, two = (alexnet.glyphs({"train": 40, "validation": 8, "test": 8}) for _ in range(2))
    assert torch.equal(one.train.inputs, two.train.inputs)
    assert torch.equal(one.test.target, two.test.target)
    assert not torch.equal(one.validation.inputs, one.test.inputs)
    shapes = alexnet.shapes()
    assert shapes.shape == (62, 1, 64, 64)
    assert len({tuple(s.flatten().tolist()) for s in shapes}) == 62
    assert float(shapes.flatten(1).sum(1).min()) > 20
