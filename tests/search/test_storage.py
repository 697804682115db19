"""The database with parameters written at once: what Optuna reads of it."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from autoprune.search.storage import BatchedStorage


@pytest.fixture
def url(memory_path: Path) -> str:
    return f"sqlite:///{memory_path / 'study.db'}"


def ask(study: optuna.Study) -> optuna.Trial:
    trial = study.ask()
    trial.suggest_float("a.keep", 0.1, 1.0)
    trial.suggest_categorical("a.method", ["l1", "l2"])
    return trial


def test_optuna_reads_what_was_written(url: str) -> None:
    study = optuna.create_study(storage=BatchedStorage(url), study_name="x")
    trial = ask(study)
    trial.set_user_attr("origin", "search")
    study.tell(trial, 0.5)
    [theirs] = optuna.load_study(storage=url, study_name="x").trials
    assert theirs.params == trial.params
    assert theirs.distributions == {"a.keep": FloatDistribution(0.1, 1.0),
                                    "a.method": CategoricalDistribution(["l1", "l2"])}
    assert (theirs.values, theirs.user_attrs, theirs.state) == ([0.5], {"origin": "search"}, TrialState.COMPLETE)
    assert optuna.load_study(storage=BatchedStorage(url), study_name="x").trials == [theirs]


def test_parameters_wait_for_the_next_write_or_read(url: str) -> None:
    study = optuna.create_study(storage=BatchedStorage(url), study_name="x")
    trial = ask(study)
    assert optuna.load_study(storage=url, study_name="x").trials[0].params == {}
    assert study.trials[0].params == trial.params
    assert optuna.load_study(storage=url, study_name="x").trials[0].params == trial.params


def test_another_kind_of_parameter_of_the_same_name_is_refused(url: str) -> None:
    study = optuna.create_study(storage=BatchedStorage(url), study_name="x")
    study.tell(ask(study), 0.5)
    with pytest.raises(ValueError, match="distribution"):
        study.ask().suggest_int("a.keep", 0, 3)
