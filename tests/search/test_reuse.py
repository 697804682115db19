from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from autoprune import api
from autoprune.config import Settings
from autoprune.devices.latency import Latency
from autoprune.errors import ConfigError, DeviceError
from autoprune.front.front import Front, load_front
from autoprune.graph.plan import Cut, Plan
from autoprune.search.candidate import Candidate
from autoprune.search.pipeline import Pipeline
from autoprune.search.propose import DENSE
from autoprune.search.reuse import Reused, require_same
from autoprune.search.space import Choices
from autoprune.tasks.score import Score

pytestmark = pytest.mark.system

STEPS = 1


@pytest.fixture
def run(user_file: Path, tmp_path: Path) -> Callable[..., Front]:
    """A search on a device; its folder has the device's name."""
    def make(device: str, **values: Any) -> Front:
        settings = Settings(model=f"{user_file}:make", data=f"{user_file}:loaders", device=device,
                            run=str(tmp_path / device), **{"budget": "0.7x", "steps": STEPS, "workers": 0, **values})
        return api.run_settings(settings)[0]
    return make


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Digests of the plans that were trained and evaluated."""
    seen: list[str] = []
    evaluate = Pipeline.evaluate

    def counting(self: Pipeline, number: int, origin: str, plan: Plan, latency: Latency) -> Any:
        seen.append(plan.digest)
        return evaluate(self, number, origin, plan, latency)

    monkeypatch.setattr(Pipeline, "evaluate", counting)
    return seen


def test_a_second_device_takes_the_scores_over(run: Callable[..., Front], trained: list[str], tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    first = run("rpi4", trials=8)
    assert len(trained) == 8
    tuned = {c.plan.digest: c for c in first.candidates}
    trained.clear()
    monkeypatch.setattr("autoprune.search.begin.scan", lambda *_: pytest.fail("nothing is proposed"))
    second = run("pixel4", reuse=str(tmp_path / "rpi4"))
    assert len(second.candidates) == 8  # one of them is just below the budget
    assert second.dense.origin == DENSE
    known = {p.candidate.plan.digest for p in first.points}
    assert {c.plan.digest for c in second.candidates} >= tuned.keys()
    for c in second.candidates:
        before = tuned.get(c.plan.digest)
        if before is not None and c.number != second.recommended:
            assert c.score == before.score
            assert c.latency is not None
            assert before.latency is not None
            assert c.latency.device != before.latency.device
    # trained: what is new, and what is on the front only here
    assert {d for d in trained if d in tuned}.isdisjoint(known)
    assert len(trained) <= 4
    tests = {p.candidate.plan.digest: p.candidate.test for p in first.points}
    assert any(p.candidate.plan.digest in tests for p in second.points)
    for point in second.points:
        here = point.candidate
        if here.plan.digest in tests and here.plan.digest not in trained and here.number != second.recommended:
            assert here.test == tests[here.plan.digest]
        assert point.load().plan.digest == point.candidate.plan.digest
    digests = [c.plan.digest for c in second.candidates]
    assert len(set(digests)) == len(digests)


def test_a_budget_that_nothing_is_near_gets_candidates_of_its_own(run: Callable[..., Front], tmp_path: Path) -> None:
    first = run("rpi4", trials=3)
    assert len(run("pixel4", reuse=str(tmp_path / "rpi4"), budget="0.3x").candidates) == len(first.candidates) + 2


def test_near(tmp_path: Path) -> None:
    reused = Reused.of([candidate(0, 4, 0.8, 5.0), candidate(1, 8, 0.9, 9.0)], tmp_path, ["fp32"])

    def latency(plan: Plan) -> Latency:
        return latency_of(5.0 if plan.cuts else 9.0)

    assert reused.meets([], latency)
    assert reused.meets([5.0, 10.0], latency)
    assert not reused.meets([5.0, 4.9], latency)  # all are above it
    assert not reused.meets([7.0], latency)  # far below it


def test_what_a_device_cannot_run_is_no_obstacle(tmp_path: Path) -> None:
    reused = Reused.of([candidate(0, 8, 0.9, 9.0), candidate(1, 4, 0.8, 5.0), candidate(2, 2, 0.7, 3.0)], tmp_path,
                       ["fp32"])

    def latency(plan: Plan) -> Latency:
        keep = next((c.keep for c in plan.cuts.values()), 8)
        if keep == 4:
            raise DeviceError("too slow for this device")
        return latency_of(float(keep))

    assert [c.number for c in reused.in_order(latency)] == [0, 2, 1]
    assert reused.meets([2.0], latency)
    assert not reused.meets([4.0], latency)

    def lost(_: Plan) -> Latency:
        raise DeviceError("the device was lost")
    with pytest.raises(DeviceError, match="was lost"):
        reused.in_order(lost)


def test_a_study_that_has_begun_takes_all_of_them_by_default(run: Callable[..., Front], tmp_path: Path) -> None:
    first = {c.plan.digest for c in run("rpi4", trials=5).candidates}
    own = {c.plan.digest for c in run("pixel4", trials=5, seed=7).candidates}
    both = run("pixel4", reuse=str(tmp_path / "rpi4"), seed=7)
    assert {c.plan.digest for c in both.candidates} >= first | own
    assert len(both.candidates) - len(first | own) in (0, 2)
    assert len(run("pixel4", reuse=str(tmp_path / "rpi4"), seed=7).candidates) == len(both.candidates)


def test_other_methods_than_the_study_began_with_are_refused(run: Callable[..., Front], tmp_path: Path) -> None:
    first = run("rpi4", trials=12, methods="l1,l2")
    assert {cut.method for c in first.candidates for cut in c.plan.cuts.values()} == {"l1", "l2"}
    run("pixel4", trials=13, methods="l1", reuse=str(tmp_path / "rpi4"))
    with pytest.raises(ConfigError, match="other methods to choose from"):
        run("pixel4", trials=14, methods="l1")


def test_a_study_that_has_begun_takes_scores_over_too(run: Callable[..., Front], tmp_path: Path) -> None:
    first = run("rpi4", trials=6)
    run("pixel4", trials=2)
    more = run("pixel4", reuse=str(tmp_path / "rpi4"), trials=7)
    known = {c.plan.digest: c.score for c in first.candidates if c.number != first.recommended}
    over = [c for c in more.candidates if c.origin.startswith("reused") and c.number != more.recommended]
    scores = {c.plan.digest: c.score for c in over if c.plan.digest in known}
    assert scores
    assert scores.items() <= known.items()
    assert len({c.plan.digest for c in more.candidates}) == len(more.candidates) == 7


@pytest.mark.slow
def test_it_resumes_with_and_without_naming_the_run(run: Callable[..., Front], tmp_path: Path) -> None:
    run("rpi4", trials=2)
    assert len(run("pixel4", reuse=str(tmp_path / "rpi4"), trials=3).candidates) == 3
    assert len(run("pixel4", trials=4).candidates) == 4
    assert len(run("pixel4", reuse=str(tmp_path / "rpi4"), trials=5).candidates) == 5


@pytest.mark.slow
def test_what_needed_no_proposals_goes_on_with_some(run: Callable[..., Front], tmp_path: Path) -> None:
    run("rpi4", trials=8)
    assert len(run("pixel4", reuse=str(tmp_path / "rpi4")).candidates) == 8
    more = run("pixel4", reuse=str(tmp_path / "rpi4"), trials=12)
    assert len(more.candidates) == 12
    assert len({c.plan.digest for c in more.candidates}) == 12


def test_runs_of_something_else_are_refused(run: Callable[..., Front], tmp_path: Path) -> None:
    run("rpi4", trials=1)
    with pytest.raises(ConfigError, match=rf"steps {STEPS} there and {STEPS + 1} here") as caught:
        run("pixel4", reuse=str(tmp_path / "rpi4"), steps=STEPS + 1)
    assert caught.value.fix == f"--steps {STEPS}"
    with pytest.raises(ConfigError, match="has no front"):
        run("pixel4", reuse=str(tmp_path / "nowhere"))
    assert not (tmp_path / "pixel4" / "study.db").exists()
    assert load_front(tmp_path / "rpi4").settings["recovery_digest"]


@pytest.mark.parametrize(("change", "given", "fix"), [
    ({"recovery_digest": "2", "steps": 8}, "steps not given there and 8 here", "leave --steps out"),
    ({"recovery_digest": "2"}, "another recovery", "leave --reuse out"),
    ({"recovery_digest": "2", "space": "deep"}, "space default there and deep here", "leave --reuse out"),
    ({"metric": "f1", "model_fingerprint": "x"}, "another model; metric accuracy there and f1 here", "leave --reuse")])
def test_what_differs_is_named_with_both_values(change: dict[str, Any], given: str, fix: str) -> None:
    there = {"model_fingerprint": "m", "task_fingerprint": "t", "metric": "accuracy", "recovery_digest": "1",
             "space": "default"}
    require_same(Path("run"), there, there | {"steps": None})
    with pytest.raises(ConfigError) as caught:
        require_same(Path("run"), there, there | change)
    assert caught.value.given == f"run: {given}"
    assert str(caught.value.fix).startswith(fix)


def latency_of(ms: float) -> Latency:
    return Latency(ms, ms, ms, "p50", "profile", "x", "onnxruntime", "1", 1, 1)


def candidate(number: int, keep: int, value: float, ms: float, precision: str = "fp32") -> Candidate:
    plan = Plan({"a": Cut(keep, "l2")} if keep < 8 else {}, "m", precision=precision)
    return Candidate(number, "search" if keep < 8 else DENSE, plan,
                     score=Score("accuracy", value, "validation", 100, 0.01),
                     latency=latency_of(ms))


@pytest.mark.parametrize("damage", ["weights.safetensors", "graph.json"])
def test_damaged_weights_are_trained_again(run: Callable[..., Front], trained: list[str], tmp_path: Path,
                                           damage: str) -> None:
    first = run("rpi4", trials=6)
    for file in (tmp_path / "rpi4" / "candidates").glob(f"*/{damage}"):
        file.write_bytes(b"")
    trained.clear()
    second = run("pixel4", reuse=str(tmp_path / "rpi4"))
    assert trained
    assert all(p.load().plan.digest == p.candidate.plan.digest for p in second.points)
    assert {c.plan.digest for c in first.candidates} <= {c.plan.digest for c in second.candidates}


def test_order_widths_and_precisions(tmp_path: Path) -> None:
    rows = [candidate(0, 4, 0.8, 5.0), candidate(1, 8, 0.9, 9.0), candidate(2, 3, 0.7, 4.0),
            candidate(3, 4, 0.8, 5.0), candidate(4, 3, 0.7, 2.0, "int8"),
            replace(candidate(5, 2, 0.1, 1.0), status="failed")]
    (tmp_path / "0002").mkdir()
    assert Reused.of(rows, tmp_path, ["fp32"]).weights(rows[2]) is None  # an empty folder
    for name in ("graph.json", "plan.json"):
        (tmp_path / "0002" / name).write_text("{}")
    save_file({"x": torch.ones(1)}, tmp_path / "0002" / "weights.safetensors")
    reused = Reused.of(rows, tmp_path, ["fp32"])
    assert [c.number for c in reused.candidates.values()] == [0, 1, 2]
    assert reused.weights(rows[2]) == tmp_path / "0002"
    assert reused.weights(rows[0]) is None
    assert reused.choices({"a": Choices((4, 8), ("l1",)), "b": Choices((1, 2), ("l1",))}) == {
        "a": Choices((3, 4, 8), ("l1", "l2")), "b": Choices((1, 2), ("l1",))}

    def here(plan: Plan) -> Latency:  # where narrow is slow
        assert rows[0].latency is not None
        return rows[0].latency.scaled({4: 1.0, 3: 2.0}.get(plan.cuts["a"].keep, 1.0) if plan.cuts else 1.5)

    assert [c.number for c in reused.in_order(here)] == [1, 0, 2]
