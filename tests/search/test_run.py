from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import optuna
import pytest
import torch
from tiny import CountingTask

from autoprune.devices.device import load_device
from autoprune.devices.latency import Latency
from autoprune.devices.prices import nodes_for, predict
from autoprune.devices.profiler import MeasuredProfiler
from autoprune.errors import ModelError
from autoprune.graph.graph import Graph, trace
from autoprune.graph.plan import Plan
from autoprune.search.candidate import Candidate
from autoprune.search.finish import score_on_test
from autoprune.search.front_models import FrontModels
from autoprune.search.outcome import Progress, pareto
from autoprune.search.pipeline import Pipeline
from autoprune.search.propose import DENSE
from autoprune.search.run import Search
from autoprune.search.space import Space
from autoprune.search.study import Study

from .conftest import Open, terminal

pytestmark = pytest.mark.system

RECOVER = {"steps": 1, "calibration_batches": 1}


def test_controls_come_first_then_starting_points_then_the_search(open_search: Open) -> None:
    seen: list[Progress] = []
    with open_search(trials=10) as search:
        outcome = search.run(seen.append)
        origins = [c.origin for c in outcome.candidates]
        assert origins[:4] == [DENSE, "control: uniform 0.75", "control: uniform 0.5", "control: uniform 0.25"]
        kinds = ["control", "start", "search"]
        order = [kinds.index(o.split(":")[0]) if ":" in o else 2 for o in origins]
        assert order == sorted(order)
        assert {"search", "variation of the front"} & set(origins)
        digests = [c.plan.digest for c in outcome.candidates]
        assert len(digests) == len(set(digests)) == 10  # never the same plan twice
        assert len(terminal(search)) == 10
        assert outcome.dense is not None
        assert outcome.dense.plan.cuts == {}
        assert outcome.budgets_ms == pytest.approx((0.7 * outcome.dense.ms,))
        assert not outcome.interrupted
    assert [p.done for p in seen] == list(range(11))
    assert all(p.total == 10 for p in seen)
    assert seen[-1].last is not None
    for c in outcome.candidates:
        assert c.status == "ok"
        assert c.macs > 0
        assert c.params > 0
        assert c.size_bytes >= 4 * c.params
        assert c.seconds["total"] > 0
        assert c.steps == (1 if c.plan.cuts else 0)


def test_exactly_the_front_keeps_its_weights(open_search: Open) -> None:
    with open_search(trials=6) as search:
        outcome = search.run()
        kept = {int(f.name) for f in search.folder.candidates.iterdir()}
        assert kept == {c.number for c in pareto(outcome.candidates)}
        # a finished search, run again, does nothing
        before = len(optuna.load_study(study_name="autoprune", storage=search.folder.storage).trials)
    with open_search(trials=6) as search:
        again = search.run()
        assert [c.to_json() for c in again.candidates] == [c.to_json() for c in outcome.candidates]
        assert len(optuna.load_study(study_name="autoprune", storage=search.folder.storage).trials) == before


def test_more_trials_go_on(open_search: Open) -> None:
    with open_search(trials=3) as search:
        first = search.run().candidates
    with open_search(trials=5) as search:
        both = search.run().candidates
    assert [c.to_json() for c in both[:3]] == [c.to_json() for c in first]
    assert len(both) == 5



def test_a_timeout_ends_the_search_and_more_time_goes_on(open_search: Open) -> None:
    with open_search(trials=50, timeout_s=1e-9) as search:
        outcome = search.run()
        assert [c.origin for c in outcome.candidates] == [DENSE]  # or there would be nothing to tell
        assert not outcome.interrupted
    with open_search(trials=3) as search:
        assert len(search.run().candidates) == 3


def test_a_timeout_in_the_middle(open_search: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("autoprune.search.run.time.monotonic", lambda: now[0])

    def tick(p: Progress) -> None:
        now[0] += 1.0
    with open_search(trials=50, timeout_s=3.5) as search:
        assert len(search.run(tick).candidates) == 3


def once_at(kind: type, name: str, at: int, error: BaseException, monkeypatch: pytest.MonkeyPatch,
            after: bool = False) -> None:
    """Let the `at`-th call of a method raise, before it does anything or after it did everything."""
    original: Callable[..., Any] = getattr(kind, name)
    calls = 0

    def wrapped(*arguments: Any, **values: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at and not after:
            raise error
        result = original(*arguments, **values)
        if calls == at:
            raise error
        return result
    monkeypatch.setattr(kind, name, wrapped)


@pytest.mark.parametrize(("kind", "name", "after"), [
    (Pipeline, "recover", False), (Search, "_begin", True), (Search, "_record", True),
    (FrontModels, "drop_others", False), (Study, "ask", True), (Study, "tell", False), (Study, "tell", True),
])
def test_an_interrupted_search_keeps_what_was_told_and_resumes_to_exactly_n(
        open_search: Open, kind: type, name: str, after: bool) -> None:
    told: list[int] = []

    def note(p: Progress) -> None:
        if p.last is not None:
            told.append(p.last.number)
    with open_search(trials=5) as search, pytest.MonkeyPatch.context() as patch:
        once_at(kind, name, 3, KeyboardInterrupt(), patch, after)
        outcome = search.run(note)
        assert outcome.interrupted
        assert 2 <= len(outcome.candidates) <= 3
        assert set(told) <= {c.number for c in outcome.candidates}
    check_resumed(open_search, told, 5)


def check_resumed(open_search: Open, told: list[int], trials: int) -> None:
    """The same command ends with exactly N candidates, none lost, none twice, and the controls in their order."""
    with open_search(trials=trials) as search:
        outcome = search.run()
        numbers = [c.number for c in outcome.candidates]
        assert len(numbers) == len(set(numbers)) == trials
        assert set(told) <= set(numbers)
        origins = [c.origin for c in outcome.candidates]
        named = [o for o in origins if ":" in o]
        assert len(named) == len(set(named))
        assert origins[:4] == list(search.proposer.controls())
        assert len(terminal(search)) == trials
        digests = [c.plan.digest for c in outcome.candidates]
        assert len(set(digests)) == trials
        kept = {f.name for f in search.folder.candidates.iterdir()}
        assert {f"{c.number:04d}" for c in pareto(outcome.candidates)} <= kept
        assert outcome.dense is not None
        states = {t.state.name for t in optuna.load_study(study_name="autoprune", storage=search.folder.storage).trials}
        assert "RUNNING" not in states


def test_a_budget_that_nothing_can_reach_still_ends(open_search: Open) -> None:
    with open_search(budget="1us", trials=9, methods=("l1",)) as search:
        outcome = search.run()
        assert len(outcome.candidates) == 9
        [budget_ms] = outcome.budgets_ms
        assert all(c.ms > budget_ms for c in outcome.candidates)


def test_a_space_smaller_than_the_trials_ends_when_all_plans_are_known(open_search: Open, tiny_graph: Graph) -> None:
    space = Space("x", methods=("l1",), min_keep=0.5, recover=RECOVER, groups={
        n: {"keep": "whole"} for n in list(tiny_graph.groups)[1:]})
    name, choices = next(iter(space.choices(tiny_graph, 4).items()))
    with open_search(space=space, trials=40, budget=None) as search:
        outcome = search.run()
        assert len(outcome.candidates) == len(choices.widths)
        assert {c.plan.cuts[name].keep for c in outcome.candidates if c.plan.cuts} == set(choices.widths[:-1])


def test_a_model_without_room_says_so(open_search: Open) -> None:
    with pytest.raises(ModelError, match="nothing in this model can be pruned"), \
            open_search(space=Space("x", min_keep=1.0, recover=RECOVER)):
        pass


def test_one_trial_is_the_dense_model(open_search: Open) -> None:
    with open_search(trials=1, budget=None) as search:
        outcome = search.run()
    assert [c.origin for c in outcome.candidates] == [DENSE]
    assert outcome.budgets_ms == ()


def test_a_metric_where_less_is_better(open_search: Open, task: CountingTask) -> None:
    lower = CountingTask(task.model, train=task.split("train"), validation=task.split("validation"),
                         test=task.split("test"), metric=_error, name="tiny")
    with open_search(trials=5, task=lower) as search:
        outcome = search.run()
        study = optuna.load_study(study_name="autoprune", storage=search.folder.storage)
    assert study.directions[0].name == "MINIMIZE"
    front = pareto(outcome.candidates)
    values = [c.score.value for c in front if c.score is not None]
    assert values == sorted(values, reverse=True)


def _error(outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (outputs.argmax(1) != target).float().mean()


_error.higher_is_better = False  # type: ignore[attr-defined]


def test_the_users_model_is_never_changed(open_search: Open, task: CountingTask) -> None:
    before = {n: t.clone() for n, t in task.model.state_dict().items()}
    graph = trace(task.model, task.example_inputs)
    task.model.train()
    with open_search(trials=4, graph=graph) as search:
        score_on_test(search, search.run())
    for name, tensor in task.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(m.training for m in task.model.modules())


def test_the_test_split_is_read_once(open_search: Open, task: CountingTask) -> None:
    with open_search(trials=6) as search:
        outcome = search.run()
        assert task.evaluations == {"validation": 6, "test": 0}
        scored = score_on_test(search, outcome)
        wanted = {c.number for c in pareto(outcome.candidates)} | {0}
        assert task.evaluations["test"] == len(wanted)
        assert {c.number for c in scored.candidates if c.test is not None} == wanted
        assert scored.dense is not None
        assert scored.dense.test is not None
    with open_search(trials=6) as search:  # the same command on a finished run
        again = score_on_test(search, search.run())
    assert task.evaluations == {"validation": 6, "test": len(wanted)}
    assert [c.to_json() for c in again.candidates] == [c.to_json() for c in scored.candidates]


def test_a_test_score_lost_half_way_is_read_again_alone(
        open_search: Open, task: CountingTask, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_search(trials=4) as search:
        outcome = search.run()
        wanted = {c.number for c in pareto(outcome.candidates)} | {0}

        evaluate = task.evaluate

        def stop(*args: Any, **kwargs: Any) -> Any:
            if task.evaluations["test"] == 1:
                raise KeyboardInterrupt
            return evaluate(*args, **kwargs)
        with monkeypatch.context() as patch:
            patch.setattr(search.task, "evaluate", stop)
            with pytest.raises(KeyboardInterrupt):
                score_on_test(search, outcome)
    assert task.evaluations["test"] == 1
    with open_search(trials=4) as search:
        score_on_test(search, search.run())
    assert task.evaluations["test"] == len(wanted)


def test_first_plans_of_a_measured_device_are_priced_by_its_table(open_search: Open,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense and three uniform plans teach the table; after them only candidates are measured."""
    measured: list[str] = []

    def measure(self: MeasuredProfiler, onnx: bytes) -> Latency:
        nodes = nodes_for(onnx, load_device("x86-avx512"))
        found = predict(nodes, load_device("x86-avx512"))
        measured.append("")
        self.last = None
        return found
    monkeypatch.setattr(MeasuredProfiler, "latency", measure)
    with open_search(trials=1, device="cpu", budget="0.7x,0.5x", sampler="knapsack") as search:
        search.run()
        assert len(measured) == 4
    with open_search(trials=1, device="cpu", budget="0.7x,0.5x", sampler="knapsack") as search:
        search.run()
    assert len(measured) == 5  # resumed: the dense model is the reference


def test_it_aims_lower_where_candidates_take_longer_when_measured_again(open_search: Open,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(self: MeasuredProfiler, onnx: bytes) -> Latency:
        self.last = None
        return predict(nodes_for(onnx, load_device("x86-avx512")), load_device("x86-avx512"))

    def again(self: MeasuredProfiler, onnx: bytes, dense_ms: float) -> list[float]:
        return [measure(self, onnx).ms, 1.25 * measure(self, onnx).ms]
    monkeypatch.setattr(MeasuredProfiler, "latency", measure)
    monkeypatch.setattr(MeasuredProfiler, "measured_again", again)
    with open_search(trials=18, device="cpu", budget="0.9x", sampler="knapsack") as search:
        search.run()
        assert search.aims_ms == pytest.approx([0.97 / 1.25 * search.budgets_ms[0]])
        assert search.sampler is not None
        assert search.sampler._aims.top_ms == pytest.approx(search.aims_ms[0])
    with open_search(trials=18, device="cpu", budget="0.9x", sampler="knapsack") as search:
        search.run()  # resumed: it knows
        assert search.aims_ms == pytest.approx([0.97 / 1.25 * search.budgets_ms[0]])


@pytest.mark.parametrize("sampler", ["tpe", "knapsack"])
def test_every_budget_is_aimed_at(open_search: Open, sampler: str) -> None:
    with open_search(trials=14, budget="0.5x,0.8x,0.65x", sampler=sampler) as search:
        outcome = search.run()
        assert outcome.dense is not None
        shares = [ms / outcome.dense.ms for ms in outcome.budgets_ms]
        assert shares == pytest.approx([0.5, 0.8, 0.65])
        assert search.target_ms == max(outcome.budgets_ms)  # what is only within the largest counts, too
        origins = [t.user_attrs["origin"] for t in optuna.load_study(
            study_name="autoprune", storage=search.folder.storage).trials if "origin" in t.user_attrs]
        assert any(o.endswith(tuple(f" of {ms:.4g} ms" for ms in outcome.budgets_ms[1:])) for o in origins)
        for ms in outcome.budgets_ms:
            assert any(0.75 * ms <= c.ms <= ms for c in outcome.candidates)


def test_pareto_by_hand() -> None:
    def c(number: int, ms: float, value: float, status: str = "ok") -> Candidate:
        from autoprune.devices.latency import Latency
        from autoprune.tasks.score import Score

        latency = Latency(ms, ms, ms, "p50", "profile", "x", "r", "1", 1, 1)
        return Candidate(number, "search", Plan(), status, score=Score("accuracy", value, "validation", 10, 0.0),
                         latency=latency)
    found = pareto([c(0, 5, 0.9), c(1, 4, 0.9), c(2, 4, 0.9), c(3, 3, 0.8), c(4, 3, 0.7), c(5, 6, 0.95),
                    c(6, 1, 0.99, "failed"), c(7, 2, 0.8)])
    assert [p.number for p in found] == [7, 1, 5]
    assert pareto([]) == []


def test_seconds_add_up_over_sessions(open_search: Open) -> None:
    start = time.monotonic()
    with open_search(trials=2) as search:
        search.run()
        first = search.total_seconds()
    with open_search(trials=3) as search:
        search.run()
        both = search.total_seconds()
    assert all(both[k] >= v for k, v in first.items())
    assert sum(both.values()) <= time.monotonic() - start + 1
