"""The examples as modules, found the way `python examples/NAME.py` finds what they share."""

from __future__ import annotations

import importlib
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
