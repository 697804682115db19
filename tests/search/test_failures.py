from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import CountingTask

from autoprune.errors import ConfigError, DeviceError, TaskError
from autoprune.methods.magnitude import L2
from autoprune.search.pipeline import Pipeline
from autoprune.search.propose import DENSE

from .conftest import Open, terminal

pytestmark = pytest.mark.system


def test_a_method_that_raises_fails_its_candidates_only(open_search: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: L2, group: Any) -> torch.Tensor:
        raise ValueError("no scores today")
    monkeypatch.setattr(L2, "score", broken)
    with open_search(trials=6) as search:
        candidates = search.run().candidates
        assert len(candidates) == 6
        failed = [c for c in candidates if c.status == "failed"]
        assert failed
        assert all(c.reason == "ValueError: no scores today" for c in failed)
        assert all("l2" in {cut.method for cut in c.plan.cuts.values()} for c in failed)
        assert any(c.status == "ok" and c.plan.cuts for c in candidates)
        assert [t.state.name for t in terminal(search)] == ["COMPLETE" if c.status == "ok" else "FAIL"
                                                            for c in candidates]


def test_a_loss_that_becomes_nan_fails_the_candidate(open_search: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    original = CountingTask.loss

    def loss(self: CountingTask, outputs: Any, target: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return original(self, outputs, target) * (float("nan") if calls == 2 else 1.0)
    monkeypatch.setattr(CountingTask, "loss", loss)
    with open_search(trials=4, methods=("l1",)) as search:
        candidates = search.run().candidates
    assert [c.status for c in candidates].count("failed") == 1
    failed = next(c for c in candidates if c.status == "failed")
    assert failed.reason is not None
    assert "not finite" in failed.reason
    assert failed.score is None


def test_a_setting_that_fails_every_candidate_ends_the_search(open_search: Open) -> None:
    def evaluate(self: Pipeline, *_: Any) -> None:
        raise ConfigError("the setting is wrong")
    with open_search(trials=2) as search, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pipeline, "evaluate", evaluate)
        with pytest.raises(ConfigError, match="the setting is wrong"):
            search.run()
    with open_search(trials=2) as search:
        assert search.run().candidates[0].origin == DENSE


@pytest.mark.parametrize("failing", [{3}, {3, 4}, {3, 4, 5}])
def test_data_that_fails_costs_a_candidate_and_three_in_a_row_stop_the_search(
        open_search: Open, monkeypatch: pytest.MonkeyPatch, failing: set[int]) -> None:
    evaluate = Pipeline.evaluate

    def sometimes(self: Pipeline, number: int, *rest: Any) -> Any:
        if number in failing:
            raise TaskError("your metric raised an exception", given="Input contains NaN")
        return evaluate(self, number, *rest)
    with open_search(trials=8) as search, monkeypatch.context() as patch:
        patch.setattr(Pipeline, "evaluate", sometimes)
        if len(failing) < 3:
            candidates = search.run().candidates
        else:
            with pytest.raises(TaskError, match="your metric raised"):
                search.run()
            candidates = search.study.candidates()
        assert {c.number for c in candidates if c.status == "failed"} == failing
    with open_search(trials=8) as search:  # what made it so is put right
        assert len(search.run().candidates) == 8


@pytest.mark.parametrize("problem", [RuntimeError("no luck"), TaskError("your metric raised an exception")])
def test_a_dense_model_that_fails_ends_the_search_which_tries_again(open_search: Open, monkeypatch: pytest.MonkeyPatch,
                                                                    problem: Exception) -> None:
    def fail(*_: Any) -> None:
        raise problem
    with open_search(trials=3) as search, monkeypatch.context() as patch:
        patch.setattr(Pipeline, "evaluate", fail)
        with pytest.raises(ConfigError, match=r"dense model itself.*\n.*no luck|your metric raised"):
            search.run()
        assert search.study.candidates() == []
    with open_search(trials=3) as search:
        assert [c.status for c in search.run().candidates] == ["ok"] * 3


def test_a_device_that_fails_costs_a_candidate_and_three_in_a_row_stop_the_search(
        open_search: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_search(trials=15) as search:
        latency, failed = search.profiler.latency, list[int]()

        def sometimes(model: Any) -> Any:
            done = len(search.study.candidates())
            if (done >= 5 and not failed) or done > 8:
                failed.append(done)
                raise DeviceError("the device was lost")
            return latency(model)

        monkeypatch.setattr(search.profiler, "latency", sometimes)
        with pytest.raises(DeviceError, match="3 candidates in a row") as caught:
            search.run()
        assert "resumes" in str(caught.value.fix)
        candidates = search.study.candidates()
        assert [c.status for c in candidates[-3:]] == ["failed"] * 3
        assert [c.status for c in candidates].count("failed") > 3
        stopped = len(candidates)
    with open_search(trials=15) as search:
        outcome = search.run()
        assert stopped < len(terminal(search)) == len(outcome.candidates) == 15
        assert outcome.candidates[-1].status == "ok"
