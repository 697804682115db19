"""From the settings of a search to its pipeline, on another machine."""

from __future__ import annotations

import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from autoprune.errors import ModelError
from autoprune.graph.graph import trace
from autoprune.search.pipeline import Pipeline
from autoprune.search.space import space_for
from autoprune.tasks.build import load_task
from autoprune.tasks.task import Task

__all__ = ["Blueprint", "user_modules"]


@dataclass(frozen=True)
class Blueprint:
    """What a pipeline is made of: the task itself, or the SPECs of a command line that it is loaded by; the space; the
    fingerprint of the traced model, which has to be the same everywhere; the folder that relative paths are in; and how
    many GPUs a candidate has.
    """

    task: Task | None
    model: str | None
    data: str | None
    metric: str | None
    loss: str | None
    space: str
    methods: str | None
    steps: int | None
    seed: int
    fingerprint: str
    folder: str
    gpus: float = 0.0

    def build(self) -> Pipeline:
        """The pipeline, ready for candidates, in a process that is there for nothing else.

        Raises `TaskError` and `ConfigError` as loading does, `OSError` where the folder is missing, and `ModelError`
        when what was loaded is another model.
        """
        if self.task is None:
            os.chdir(self.folder)
        space = space_for(self.space, self.methods, self.steps)
        task = self.task or load_task(self.model, self.data, self.metric, self.loss)
        graph = trace(task.model, task.example_inputs)
        if graph.fingerprint != self.fingerprint:
            raise ModelError("this machine loads another model than the search's", given=graph.fingerprint,
                             allowed=self.fingerprint, fix="the same code, weights and torch on every node")
        pipeline = Pipeline(task, graph, space, self.seed)
        pipeline.prepare()
        return pipeline


def user_modules(task: Task) -> list[ModuleType]:
    """Modules of the user's own code that a task is made of: model, data, metric and loss. They are not installed on
    other machines, and so have to travel with it. What these modules import in turn is not looked for.
    """
    parts: list[Any] = [task, *task.model.modules(), *task.functions()]
    for batches in (task.split(name) for name in ("train", "validation", "test")):
        seen: Any = batches
        while seen is not None:
            parts += [seen, getattr(seen, "collate_fn", None), getattr(seen, "sampler", None)]
            seen = next((getattr(seen, name) for name in ("batches", "dataset") if hasattr(seen, name)), None)
    paths = sysconfig.get_paths()
    installed = [Path(paths[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    installed.append(Path(__file__).resolve().parents[2])

    def is_own(module: ModuleType | None) -> bool:
        file = getattr(module, "__file__", None)
        return file is not None and not any(Path(file).resolve().is_relative_to(p) for p in installed)

    names = {getattr(part, "__module__", None) or type(part).__module__ for part in parts if part is not None}
    modules = [sys.modules.get(name) for name in sorted(names - {"__main__"})]
    return [m for m in modules if m is not None and is_own(m)]
