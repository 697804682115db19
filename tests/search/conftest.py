from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from tiny import CountingTask

from autoprune.devices.device import load_device
from autoprune.graph.graph import Graph
from autoprune.search.run import Search
from autoprune.search.run_folder import RunFolder
from autoprune.search.space import load_space
from autoprune.units import parse_budgets

Open = Callable[..., AbstractContextManager[Search]]
CONFIGURATION = {"model_fingerprint": "abc", "device": "rpi4"}


@pytest.fixture
def open_search(memory_path: Path, task: CountingTask, tiny_graph: Graph, quick_export: None) -> Open:
    """`with open_search(trials=5) as search`: a search of the tiny task in `memory_path/run`; again to resume."""
    @contextmanager
    def make(budget: str | None = "0.7x", trials: int = 5, recover: dict[str, Any] | None = None,
             methods: tuple[str, ...] = ("l1", "l2"), space: Any = None, device: str = "rpi4", **values: Any
             ) -> Iterator[Search]:
        space = space or replace(load_space("default"), methods=methods,
                                 recover={"steps": 1, "calibration_batches": 1, **(recover or {})})
        with RunFolder(memory_path / "run").open(CONFIGURATION) as folder:
            search = Search(values.pop("task", task), values.pop("graph", tiny_graph), load_device(device), space,
                            folder, budgets=parse_budgets(budget) if budget else (), trials=trials, **values)
            try:
                yield search
            finally:
                search.close()
    return make


def terminal(search: Search) -> list[optuna.trial.FrozenTrial]:
    """The trials that ended with a candidate."""
    trials = optuna.load_study(study_name="autoprune", storage=search.folder.storage).trials
    return [t for t in trials if "candidate" in t.user_attrs and t.state.is_finished()]
