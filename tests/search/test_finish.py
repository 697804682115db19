"""After the loop: what is tuned, tested and measured again, also when the process dies in between."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny import CountingTask, batches, trained

import autoprune
from autoprune.cli.main import run as command
from autoprune.front.front import load_front
from autoprune.graph.module import load_module
from autoprune.search.candidate import Candidate
from autoprune.search.finish import current, score_on_test, tune
from autoprune.search.outcome import Progress, pareto
from autoprune.search.pipeline import Pipeline
from autoprune.search.run import Search
from autoprune.search.storage import BatchedStorage
from autoprune.tasks.score import Score

from .conftest import Open
from .test_kill import Killed, count_writes

pytestmark = pytest.mark.system


STEPS: list[tuple[Any, str]] = [(shutil, "rmtree"), (Path, "rename"), (BatchedStorage, "set_study_user_attr")]


def cut_one(search: Search) -> Candidate:
    """The best cut member of the front."""
    return max((c for c in pareto(search.run().candidates) if c.plan.cuts), key=lambda c: c.quality)


def check(search: Search, number: int) -> None:
    """The weights are there, and the score is theirs."""
    found = next(c for c in tune(search, current(search, search.run()), number).candidates if c.number == number)
    model = load_module(search.folder.candidate(number))
    assert found.score is not None
    assert search.task.evaluate(model, "validation").value == pytest.approx(found.score.value)
    assert found.steps in (1, 3)
    assert not [f.name for f in search.folder.candidates.iterdir() if not f.name.isdigit()]


def test_a_death_while_tuning_loses_neither_weights_nor_their_score(open_search: Open) -> None:
    with open_search(trials=5, budget=None) as search:
        number = cut_one(search).number
        kept = search.folder.candidates.with_name("kept")
        shutil.copytree(search.folder.candidates, kept)
    die_at, died = 1, True
    while died:
        with open_search(trials=5, budget=None) as search:
            outcome = current(search, search.run())
            with pytest.MonkeyPatch.context() as patch:
                count_writes(patch, die_at, STEPS)
                try:
                    tune(search, outcome, number)
                    died = False
                except Killed:
                    pass
        with open_search(trials=5, budget=None) as search:
            check(search, number)
            search.study.note("tuned", {})
            shutil.rmtree(search.folder.candidates)
            shutil.copytree(kept, search.folder.candidates)
        die_at += 1
    assert die_at > 5


def test_a_test_score_stays_where_tuning_changed_nothing(open_search: Open, task: CountingTask,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    with open_search(trials=5, budget=None) as search:
        number = cut_one(search).number
        outcome = score_on_test(search, search.run())
        read = task.evaluations["test"]
        with monkeypatch.context() as patch:
            patch.setattr(Pipeline, "score", lambda *_: Score("accuracy", 0.0, "validation", 48, 0.01))
            outcome = tune(search, outcome, number)
        assert next(c for c in outcome.candidates if c.number == number).test is not None
        score_on_test(search, outcome)
        assert task.evaluations["test"] == read


def test_an_interrupted_resume_keeps_the_test_scores(memory_path: Path) -> None:
    task = CountingTask(trained(), train=batches(3, 2), validation=batches(2, 3), test=batches(2, 4))
    settings: dict[str, Any] = {"device": "rpi4", "run": str(memory_path / "run"), "steps": 1, "workers": 0}
    first = autoprune.search(task, trials=4, **settings)
    tested = {c.number: c.test for c in first.candidates if c.test is not None}
    read = task.evaluations["test"]

    def stop(p: Progress) -> None:
        if p.done == 5:
            raise KeyboardInterrupt
    more = autoprune.search(task, trials=8, on_progress=stop, **settings)
    assert task.evaluations["test"] == read
    on_front = {p.number for p in more.points} | {0}
    assert {c.number: c.test for c in more.candidates if c.test is not None} == {
        n: test for n, test in tested.items() if n in on_front}


def test_without_test_data_nothing_is_called_a_test_score(memory_path: Path, user_file: Path,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    with user_file.open("a") as file:
        file.write("\ndef two():\n    return batches(3, 2), batches(2, 3)\n")
    run = memory_path / "run"
    code = command(["search", "--model", f"{user_file}:make", "--data", f"{user_file}:two", "--device", "rpi4",
                    "--budget", "0.7x", "--trials", "5", "--steps", "1", "--workers", "0", "--run", str(run)])
    out, err = capsys.readouterr()
    assert code == 0
    assert ", validation, n=" in out
    assert "test split" not in out + err
    assert "note: no test data given" in err
    front = load_front(run)
    assert front.selection_gap is None
    assert all(c.test is None for c in front.candidates)
    assert front.notes[-1].startswith("no test data given")
    assert "no test data given" in (run / "report.html").read_text().lower()
    assert "no test data given" in (run / "picked" / f"{front.recommended:04d}" / "card.md").read_text()


def test_what_was_measured_again_is_told(memory_path: Path, monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    from autoprune.devices.profiler import PredictedProfiler

    def again(*_: Any) -> list[float]:
        return [0.2, 0.21, 9.0]  # over any budget now and then
    monkeypatch.setattr(PredictedProfiler, "measured_again", again)
    monkeypatch.setattr("autoprune.tasks.build.digits_task", lambda **_: CountingTask(
        trained(), train=batches(3, 2), validation=batches(2, 3), test=batches(2, 4)))
    run = memory_path / "run"
    assert command(["search", "--device", "rpi4", "--budget", "5ms", "--trials", "4", "--steps", "1", "--workers", "0",
                    "--run", str(run)]) == 0
    assert "0.200, 0.210, 9.00 ms, not each time within the budget; no point was" in capsys.readouterr().out
    front = load_front(run)
    assert front.pick(trial=front.recommended).candidate.again_ms == (0.2, 0.21, 9.0)
    assert "0.200, 0.210, 9.00 ms" in (run / "picked" / f"{front.recommended:04d}" / "card.md").read_text()


def test_a_better_candidate_of_a_resumed_search_is_tuned_too(memory_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not compared with what has had three times the training: tuned models are, with tuned ones."""
    worth = {"start: at budget, l1": 0.5, "start: at 0.85 of the budget": 0.6}

    def score(self: Pipeline, model: Any, int8: Any, split: str) -> Score:
        value = values.get(model.plan.digest, 0.3) + 0.2 * (id(model) in tuned)
        return Score("accuracy", value, split, 48, 0.01)
    values: dict[str, float] = {}
    tuned: set[int] = set()
    held: list[Any] = []
    original = Pipeline.evaluate

    def evaluate(self: Pipeline, number: int, origin: str, plan: Any, latency: Any) -> Any:
        if origin in worth:
            values[plan.digest] = worth[origin]
        elif origin == "control: dense":
            values[plan.digest] = 0.9
        return original(self, number, origin, plan, latency)

    def tune_it(self: Pipeline, model: Any) -> None:
        held.append(model)  # no other gets its id
        tuned.add(id(model))
    monkeypatch.setattr(Pipeline, "score", score)
    monkeypatch.setattr(Pipeline, "evaluate", evaluate)
    monkeypatch.setattr(Pipeline, "tune", tune_it)
    task = CountingTask(trained(), train=batches(3, 2), validation=batches(2, 3), test=batches(2, 4))
    settings: dict[str, Any] = {"device": "rpi4", "run": str(memory_path / "run"), "steps": 1, "workers": 0,
                                "budget": "0.9x", "methods": "l1"}
    first = autoprune.search(task, trials=2, **settings)
    origins = {c.number: c.origin for c in first.candidates}
    assert first.recommended is not None
    assert origins[first.recommended] == "start: at budget, l1"
    tuned_first = first.pick(trial=first.recommended).candidate.score
    assert tuned_first is not None
    assert tuned_first.value == pytest.approx(0.7)
    more = autoprune.search(task, trials=3, **settings)
    best = more.pick(trial=more.recommended).candidate
    assert (best.origin, best.steps) == ("start: at 0.85 of the budget", 3)
    assert best.score is not None
    assert best.score.value == pytest.approx(0.8)
