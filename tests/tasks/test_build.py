from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.errors import ConfigError
from autoprune.tasks.build import load_task
from autoprune.tasks.task import Task


def test_nothing_given_is_the_built_in_example() -> None:
    task = load_task()
    assert task.name == "digits example"
    assert load_task(metric="f1").metric == "f1"


def test_model_and_data(user_file: Path) -> None:
    task = load_task(f"{user_file}:model", f"{user_file}:loaders", f"{user_file}:metric", f"{user_file}:loss")
    task.check()
    assert task.notes == ()
    score = task.evaluate(task.model)
    assert (score.n, score.metric) == (10, f"{user_file}:metric")


def test_notes_of_task_are_kept(user_file: Path) -> None:
    assert len(load_task(f"{user_file}:model", f"{user_file}:as_tuple").notes) == 1


@pytest.mark.parametrize(("metric", "loss", "pair"), [
    (None, None, ("accuracy", "cross_entropy")), ("mse", None, ("mse", "mse")), ("r2", None, ("r2", "mse")),
    (None, "l1", ("mae", "l1")), ("perplexity", None, ("perplexity", "causal_lm")),
    ("f1", None, ("f1", "cross_entropy"))])
def test_metric_and_loss_follow_from_each_other(user_file: Path, metric: str | None, loss: str | None,
                                                pair: tuple[str, str]) -> None:
    task = load_task(f"{user_file}:model", f"{user_file}:loaders", metric, loss)
    same = Task(task.model, train=task.split("train"), metric=metric, loss=loss)
    assert (task.metric, task.loss_name) == (same.metric, same.loss_name) == pair


@pytest.mark.parametrize(("model", "data", "fix"), [("a:b", None, "--data"), (None, "a:b", "--model")])
def test_one_of_two_says_what_is_missing(model: str | None, data: str | None, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_task(model, data)
    assert fix in str(caught.value.fix)
