"""From the texts of a command line or a configuration file to a task."""

from __future__ import annotations

from autoprune.errors import ConfigError
from autoprune.tasks.data import DATA_SPECS, load_data
from autoprune.tasks.digits import digits_task
from autoprune.tasks.models import MODEL_SPECS, load_model
from autoprune.tasks.task import Task

__all__ = ["load_task"]


def load_task(model: str | None = None, data: str | None = None, metric: str | None = None,
              loss: str | None = None) -> Task:
    """The task that the SPECs name; the built-in example when both `model` and `data` are None.

    When one of metric and loss is None it follows from the other, as in `Task`. `ConfigError` when only one of model
    and data is given; `TaskError` when something cannot be loaded. The task is not checked yet: call `task.check()`.
    """
    if model is None and data is None:
        return digits_task(metric=metric, loss=loss)
    if data is None:
        raise ConfigError("a model is given, but no data to prune it on", given=f"--model {model}",
                          allowed=f"{DATA_SPECS}; or neither model nor data for the built-in example",
                          fix="add --data folder:PATH")
    if model is None:
        raise ConfigError("data is given, but no model to prune", given=f"--data {data}",
                          allowed=f"{MODEL_SPECS}; or neither model nor data for the built-in example",
                          fix="add --model path/file.py:factory")
    loaders = load_data(data, model)
    task = Task(load_model(model), train=loaders.train, validation=loaders.validation, test=loaders.test,
                metric=metric, loss=loss, name=model)
    task.notes = loaders.notes + task.notes
    return task
