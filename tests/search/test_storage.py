"""The database with parameters written at once: what Optuna reads of it."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from autoprune.errors import ConfigError
from autoprune.search.storage import BatchedStorage, storage_errors
from autoprune.search.study import Study


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


def test_trials_of_some_states_are_read_as_optuna_reads_them(url: str) -> None:
    storage = BatchedStorage(url)
    study = optuna.create_study(storage=storage, study_name="x", directions=["maximize", "minimize"])
    study.enqueue_trial({"a.keep": 0.25}, user_attrs={"origin": "uniform"})
    for k in range(3):
        study.tell(ask(study), [0.5 + k, float("inf")])
    ask(study)
    study.tell(ask(study), state=TrialState.FAIL)
    theirs = optuna.storages.RDBStorage(url)
    for states in (None, (TrialState.COMPLETE,), (TrialState.RUNNING, TrialState.FAIL), ()):
        found = storage.get_all_trials(study._study_id, states=states)
        assert found == theirs.get_all_trials(study._study_id, states=states)
    with pytest.raises(KeyError):
        storage.get_trial(99)


def test_another_kind_of_parameter_of_the_same_name_is_refused(url: str) -> None:
    study = optuna.create_study(storage=BatchedStorage(url), study_name="x")
    study.tell(ask(study), 0.5)
    with pytest.raises(ValueError, match="distribution"):
        study.ask().suggest_int("a.keep", 0, 3)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the trials that are read from a database."""
    found: list[int] = []
    build = BatchedStorage._build_frozen_trial_from_trial_model

    def counted(self: BatchedStorage, trial: Any) -> optuna.trial.FrozenTrial:
        found.append(trial.number)
        return build(self, trial)

    monkeypatch.setattr(BatchedStorage, "_build_frozen_trial_from_trial_model", counted)
    return found


def test_a_trial_is_read_once_as_long_as_nothing_is_written_to_it(url: str, read: list[int]) -> None:
    """Hundreds of parameters each time."""
    storage = BatchedStorage(url)
    study = optuna.create_study(storage=storage, study_name="x")
    study.tell(ask(study), 0.5)
    trial = ask(study)
    del read[:]
    first = storage.get_trial(trial._trial_id)
    assert storage.get_trial(trial._trial_id) is study.get_trials(deepcopy=False)[1] is first
    assert read == [1]
    trial.set_user_attr("origin", "search")
    assert storage.get_trial(trial._trial_id).user_attrs == {"origin": "search"}
    study.tell(trial, 0.25)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 2
    assert study.trials == optuna.load_study(storage=url, study_name="x").trials


def test_running_trials_are_not_read_again(url: str, read: list[int]) -> None:
    """With hundreds of workers they would be most of what a coordinator reads."""
    storage = BatchedStorage(url)
    study = optuna.create_study(storage=storage, study_name="x")
    study.tell(ask(study), 0.5)
    running = [ask(study) for _ in range(20)]
    assert len(study.trials) == 21
    del read[:]
    assert len(study.trials) == 21
    assert read == []
    running[3].set_user_attr("look", 1)
    running[4].report(0.25, 0)
    study._storage.set_trial_system_attr(running[5]._trial_id, "note", 2)
    found = study.trials
    assert read == [4, 5, 6]
    assert (found[4].user_attrs, found[5].intermediate_values) == ({"look": 1}, {0: 0.25})
    assert found[6].system_attrs["note"] == 2
    read.clear()
    study.tell(running[19], 0.75)
    assert set(read) == {20}
    assert [t.state for t in study.trials].count(TrialState.RUNNING) == 19
    read.clear()
    study.tell(running[0], 0.125)  # before the last that has ended
    assert [t.value for t in study.trials if t.state == TrialState.COMPLETE] == [0.5, 0.125, 0.75]
    assert set(read) == {1}


def test_where_nothing_was_written_the_database_is_not_asked(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = BatchedStorage(url)
    study = optuna.create_study(storage=storage, study_name="x")
    study.tell(ask(study), 0.5)
    running = ask(study)
    before = study.trials
    asked = mock.Mock(side_effect=BatchedStorage._read)
    monkeypatch.setattr(BatchedStorage, "_read", lambda *of: asked(*of))
    assert study.trials == before
    assert not asked.called
    storage.get_trial(running._trial_id)
    assert asked.call_count == 1
    assert study.trials == before
    assert asked.call_count == 1
    study.enqueue_trial({"a.keep": 0.25})
    assert [t.state for t in study.trials] == [TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING]
    assert study.trials[2].system_attrs["fixed_params"] == {"a.keep": 0.25}
    assert asked.call_count == 2


def test_what_a_failed_read_missed_is_read_by_the_next(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study = optuna.create_study(storage=BatchedStorage(url), study_name="x")
    study.tell(ask(study), 0.5)
    trial = ask(study)
    assert len(study.trials) == 2
    trial.set_user_attr("seen", True)
    with monkeypatch.context() as broken:
        broken.setattr(BatchedStorage, "_read", mock.Mock(side_effect=OSError("gone")))
        with pytest.raises(OSError, match="gone"):
            study.get_trials()
    assert study.trials[1].user_attrs == {"seen": True}


def test_a_damaged_file_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"no database" * 100)
    with pytest.raises(ConfigError, match="study cannot be read") as caught:
        Study(f"sqlite:///{tmp_path / 'study.db'}", "random", 0, True)
    assert "--fresh" in str(caught.value.fix)


def test_a_file_that_somebody_reads_says_so() -> None:
    with pytest.raises(ConfigError) as caught, storage_errors("sqlite:///a.db"):
        raise StorageInternalError("") from sqlite3.OperationalError("database is locked")
    assert "close what reads the file" in str(caught.value.fix)
