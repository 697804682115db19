"""The examples as modules, found the way `python examples/NAME.py` finds what they share."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from autoprune.tasks.task import Task

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The splits that nets are evaluated on, in order."""
    plain, seen = Task.evaluate, []

    def evaluate(self: Any, model: Any, split: str = "validation", limit: int | None = None) -> Any:
        seen.append(split)
        return plain(self, model, split, limit)

    monkeypatch.setattr(Task, "evaluate", evaluate)
    return seen


@pytest.fixture
def torchvision_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, tuple[int, int]], None]:
    """Put a torchvision in place whose one data set has 50 plain images, 5 of each of 10 classes."""
    image = pytest.importorskip("PIL.Image")

    def make(name: str, mode: str, size: tuple[int, int]) -> None:
        class Fake:
            def __init__(self, root: str, train: bool, download: bool) -> None:
                self.targets = list(range(10)) * 5

            def __len__(self) -> int:
                return len(self.targets)

            def __getitem__(self, index: int) -> Any:
                return image.new(mode, size, 5 * index), self.targets[index]

        package: Any = ModuleType("torchvision")
        package.datasets = ModuleType("torchvision.datasets")
        setattr(package.datasets, name, Fake)
        monkeypatch.setitem(sys.modules, "torchvision", package)
        monkeypatch.setitem(sys.modules, "torchvision.datasets", package.datasets)
    return make
