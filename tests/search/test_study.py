from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import Trial, TrialState

from autoprune.devices.latency import Latency
from autoprune.errors import ConfigError
from autoprune.graph.plan import Cut, Plan
from autoprune.search.candidate import Candidate
from autoprune.search.study import SAMPLERS, Study
from autoprune.tasks.score import Score

PARAMS = {"conv.keep": 0.5, "conv.method": "l1"}


@pytest.fixture
def url(memory_path: Path) -> str:
    return f"sqlite:///{memory_path / 'study.db'}"


@pytest.fixture
def study(url: str) -> Iterator[Study]:
    with closing(Study(url, "random", 0, True)) as found:
        yield found


def suggest(trial: Trial) -> None:
    trial.suggest_float("conv.keep", 0.1, 1.0)
    trial.suggest_categorical("conv.method", ["l1", "l2"])


def made(number: int, value: float = 0.9, ms: float = 5.0, **values: Any) -> Candidate:
    latency = Latency(ms, ms, ms, "p50", "profile", "rpi4", "onnxruntime", "1", 4, 10)
    score = Score("accuracy", value, "validation", 48, 0.01)
    return Candidate(number, **{"origin": "search", "plan": Plan({"conv": Cut(8, "l1")}), "score": score,
                                "latency": latency, **values})


def states(url: str) -> list[TrialState]:
    return [t.state for t in optuna.load_study(study_name="autoprune", storage=url).trials]


def test_a_told_trial_is_a_plain_optuna_trial(study: Study, url: str) -> None:
    trial = study.ask()
    suggest(trial)
    study.tell(trial, made(0, 0.9, 5.0), budget_ms=4.0)
    loaded = optuna.load_study(study_name="autoprune", storage=url)
    found = loaded.trials[0]
    assert found.state == TrialState.COMPLETE
    assert found.values == [0.9, 5.0]
    assert set(found.params) == {"conv.keep", "conv.method"}
    assert list(found.constraints.values()) == [1.0]
    assert loaded.metric_names == ["metric", "latency_ms"]
    assert [d.name for d in loaded.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert Candidate.from_json(json.loads(found.user_attrs["candidate"])) == made(0)


def test_lower_is_better_is_minimised(memory_path: Path) -> None:
    url = f"sqlite:///{memory_path / 'other.db'}"
    with closing(Study(url, "random", 0, False)):
        assert optuna.load_study(study_name="autoprune", storage=url).directions[0].name == "MINIMIZE"


def test_only_candidates_within_the_budget_are_feasible(study: Study, url: str) -> None:
    for number, ms in enumerate((3.0, 5.0)):
        trial = study.ask()
        suggest(trial)
        study.tell(trial, made(number, 0.5 + number / 10, ms), budget_ms=4.0)
    best = optuna.load_study(study_name="autoprune", storage=url).best_trials
    assert [t.number for t in best] == [0]


def test_a_failed_candidate_is_never_complete(study: Study, url: str) -> None:
    trial = study.ask()
    study.tell(trial, Candidate(0, "search", Plan(), "failed", "Diverged: the loss is not finite"), 4.0)
    assert states(url) == [TrialState.FAIL]
    assert study.candidates()[0].reason == "Diverged: the loss is not finite"


def test_skipped_trials_are_no_candidates(study: Study, url: str) -> None:
    study.skip(study.ask(), "evaluated before")
    assert states(url) == [TrialState.FAIL]
    assert study.candidates() == []


def reopened(url: str) -> Study:
    return Study(url, "random", 0, True)


def test_repair_completes_a_trial_whose_candidate_was_recorded(url: str) -> None:
    with closing(reopened(url)) as study:
        trial = study.ask()
        suggest(trial)
        trial.set_user_attr("candidate", json.dumps(made(0).to_json()))  # and then the process dies
    with closing(reopened(url)) as study:
        assert study.repair(4.0) == [0]
        assert study.repair(4.0) == []
        assert study.candidates() == [made(0)]
    assert states(url) == [TrialState.COMPLETE]
    found = optuna.load_study(study_name="autoprune", storage=url).trials[0]
    assert list(found.constraints.values()) == [1.0]


def test_repair_after_the_constraint_was_set(url: str) -> None:
    with closing(reopened(url)) as study:
        trial = study.ask()
        suggest(trial)
        trial.set_user_attr("candidate", json.dumps(made(0).to_json()))
        trial.set_constraint("latency over budget, ms", 1.0)
    with closing(reopened(url)) as study:
        assert study.repair(4.0) == [0]
    assert states(url) == [TrialState.COMPLETE]


def test_repair_records_a_failed_candidate(url: str) -> None:
    failed = Candidate(0, "search", Plan(), "failed", "ModelError: no")
    with closing(reopened(url)) as study:
        study.ask().set_user_attr("candidate", json.dumps(failed.to_json()))
    with closing(reopened(url)) as study:
        study.repair(4.0)
        assert study.candidates() == [failed]
    assert states(url) == [TrialState.FAIL]


def test_repair_fails_what_the_sampler_proposed(url: str) -> None:
    with closing(reopened(url)) as study:
        suggest(study.ask())
    with closing(reopened(url)) as study:
        assert study.repair(4.0) == [0]
        assert study.queued == []
        assert study.candidates() == []
    assert states(url) == [TrialState.FAIL]


@pytest.mark.parametrize("progress", ["asked", "half suggested", "suggested"])
def test_a_queued_trial_goes_back_to_its_place_with_its_parameters(url: str, progress: str) -> None:
    with closing(reopened(url)) as study:
        study.enqueue("control: dense", PARAMS)
        study.enqueue("control: uniform 0.5", {**PARAMS, "conv.keep": 0.75})
        trial = study.ask()
        if progress == "half suggested":
            trial.suggest_float("conv.keep", 0.1, 1.0)
        elif progress == "suggested":
            suggest(trial)
    with closing(reopened(url)) as study:
        assert study.repair(4.0) == [0]
        assert study.queued_or_done() == {"control: dense", "control: uniform 0.5"}
        assert len(study.queued) == 2
        for origin, keep in (("control: dense", 0.5), ("control: uniform 0.5", 0.75)):
            trial = study.ask()
            suggest(trial)
            assert trial.user_attrs["origin"] == origin
            assert trial.params == {"conv.keep": keep, "conv.method": "l1"}
            study.tell(trial, made(trial.number, origin=origin), 4.0)
        assert [c.origin for c in study.candidates()] == ["control: dense", "control: uniform 0.5"]
    assert states(url) == [TrialState.COMPLETE, TrialState.COMPLETE]


def test_abandon_of_an_interrupted_trial(study: Study, url: str) -> None:
    study.enqueue("control: dense", PARAMS)
    named = study.ask()
    suggest(named)
    free = study.ask()
    suggest(free)
    study.abandon(named, 4.0)
    study.abandon(free, 4.0)
    assert states(url) == [TrialState.WAITING, TrialState.FAIL]


def test_abandon_keeps_what_was_recorded(study: Study, url: str) -> None:
    trial = study.ask()
    suggest(trial)
    trial.set_user_attr("candidate", json.dumps(made(0).to_json()))
    study.abandon(trial, 4.0)
    assert states(url) == [TrialState.COMPLETE]
    study.abandon(trial, 4.0)  # it has ended: nothing happens
    assert study.candidates() == [made(0)]


def test_candidates_come_in_order_and_once(study: Study) -> None:
    trials = [study.ask() for _ in range(3)]
    for trial in reversed(trials):
        suggest(trial)
        study.tell(trial, made(trial.number), None)
    assert [c.number for c in study.candidates()] == [0, 1, 2]


def test_without_a_budget_there_is_no_constraint(study: Study, url: str) -> None:
    trial = study.ask()
    suggest(trial)
    study.tell(trial, made(0), None)
    assert not optuna.load_study(study_name="autoprune", storage=url).trials[0].constraints


def test_a_resumed_study_does_not_repeat_its_first_proposals(url: str) -> None:
    drawn = []
    for _ in range(2):
        with closing(reopened(url)) as study:
            trial = study.ask()
            suggest(trial)
            drawn.append(trial.params["conv.keep"])
            study.tell(trial, made(trial.number), None)
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_can_be_made(memory_path: Path, name: str) -> None:
    if name == "gp":
        pytest.importorskip("scipy")
    with closing(Study(f"sqlite:///{memory_path / 'x.db'}", name, 0, True)) as study:
        trial = study.ask()
        suggest(trial)
        study.tell(trial, made(0), 4.0)


def test_an_unknown_sampler_is_answered_with_the_nearest(url: str) -> None:
    with pytest.raises(ConfigError, match="did you mean 'nsga2'"):
        Study(url, "nsga3", 0, True)


def test_notes_are_kept(url: str) -> None:
    with closing(reopened(url)) as study:
        study.note("dense_ms", 7.5)
    with closing(reopened(url)) as study:
        assert study.attributes["dense_ms"] == 7.5


def test_queued_plans_are_parents_of_nsga2s_first_children(memory_path: Path) -> None:
    with closing(Study(f"sqlite:///{memory_path / 'x.db'}", "nsga2", 0, True)) as study:
        for number in range(4):
            study.enqueue(f"control: {number}", {**PARAMS, "conv.keep": 0.3 + 0.1 * number})
        for _ in range(13):  # a population is 12
            trial = study.ask()
            suggest(trial)
            study.tell(trial, made(trial.number, 0.5 + 0.3 * trial.params["conv.keep"]), None)
        sampler = study._study.sampler
        assert isinstance(sampler, optuna.samplers.NSGAIISampler)
        first = {t.number for t in sampler.get_population(study._study, 0)}
        parents = {t.number for t in sampler.get_parent_population(study._study, 1)}
    assert first == set(range(12))
    assert parents & set(range(4))
