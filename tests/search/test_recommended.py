from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from autoprune.devices.latency import Latency
from autoprune.devices.measurement import Measurement, RunStats
from autoprune.devices.profiler import MeasuredProfiler
from autoprune.search.finish import recommended

from .conftest import Open

pytestmark = pytest.mark.system


def timed(ratio: float) -> Measurement:
    """Two models in turns, the second in a millisecond."""
    first, second = (RunStats(ms, ms, ms, ms, ms, ms, 60) for ms in (ratio, 1.0))
    latency = Latency(ratio, ratio, ratio, "p50", "measured", "cpu", "onnxruntime", "1", 1, 60)
    return Measurement(latency, replace(latency, ms=1.0, lo_ms=1.0, hi_ms=1.0), first, second, 0.0, 1, (), ratio)


def test_a_point_that_is_over_the_budget_when_measured_again_is_passed_over(
        open_search: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one comes from the front: what the first one dominated has no weights any more."""
    from autoprune.front.front import Front

    with open_search(trials=8, budget="0.9x") as search:
        outcome = search.run()
        assert outcome.dense is not None
        front = Front(search.folder.path, "tiny", "accuracy", True, "rpi4", "0.9x", outcome.budgets_ms[0], None,
                      outcome.dense, outcome.candidates)
        fake: Any = MeasuredProfiler.__new__(MeasuredProfiler)
        asked: list[int] = []

        def measure(onnx: bytes, **_: Any) -> Measurement:
            asked.append(len(onnx))
            return timed(0.95)
        fake.close, fake.reference, fake.percentile = search.profiler.close, b"", "p50"
        fake.measurer = SimpleNamespace(restart=lambda: None, measure=measure)
        monkeypatch.setattr(search, "profiler", fake)
        assert recommended(search, front) == [None]  # every point is over, each was loaded once
        [budget_ms] = outcome.budgets_ms
        fitting = [p for p in front.points if p.candidate.ms <= budget_ms]
        assert len(asked) == 3 * len(fitting)  # the slowest of three counts
        assert recommended(search, front) == [None]
        assert len(asked) == 3 * len(fitting)  # kept with the study


def test_a_point_whose_weights_are_damaged_is_passed_over(open_search: Open) -> None:
    from autoprune.front.front import Front

    with open_search(trials=8, budget="0.9x") as search:
        outcome = search.run()
        assert outcome.dense is not None
        front = Front(search.folder.path, "tiny", "accuracy", True, "rpi4", "0.9x", outcome.budgets_ms[0], None,
                      outcome.dense, outcome.candidates)
        seen: list[int | None] = []
        while (found := recommended(search, front)[0]) is not None:
            seen.append(found)
            (search.folder.candidate(found) / "weights.safetensors").write_bytes(b"cut off")
        assert seen
        assert len(seen) == len({*seen})
        assert set(seen) == {p.number for p in front.points if p.candidate.ms <= outcome.budgets_ms[0]}


@pytest.mark.parametrize("unsteady", [False, True])
def test_a_point_that_is_over_the_budget_now_and_then_is_taken_where_no_other_is_left(
        open_search: Open, monkeypatch: pytest.MonkeyPatch, unsteady: bool) -> None:
    """The first one is within it two times of three; the next one always, or no more often."""
    from autoprune.front.front import Front

    with open_search(trials=8, budget="0.9x") as search:
        outcome = search.run()
        assert outcome.dense is not None
        front = Front(search.folder.path, "tiny", "accuracy", True, "rpi4", "0.9x", outcome.budgets_ms[0], None,
                      outcome.dense, outcome.candidates)
        best = front.pick().number
        second = replace(front, candidates=[p.candidate for p in front.points if p.number != best]).pick().number
        asked: list[int] = []

        def again(_: bytes, dense_ms: float) -> list[float]:
            asked.append(len(asked))
            return [0.5 * dense_ms, 0.5 * dense_ms, dense_ms if unsteady or len(asked) == 1 else 0.5 * dense_ms]
        monkeypatch.setattr(search.profiler, "measured_again", again)
        assert recommended(search, front) == [best if unsteady else second]


def test_what_is_recommended_is_measured_in_three_processes() -> None:
    profiler: Any = MeasuredProfiler.__new__(MeasuredProfiler)
    profiler.reference, profiler.percentile = b"", "p50"
    ratios, started = iter([0.48, 0.52, 0.49]), list[int]()
    profiler.measurer = SimpleNamespace(restart=lambda: started.append(1),
                                        measure=lambda *_, **__: timed(next(ratios)))
    assert profiler.measured_again(b"", 10.0) == pytest.approx([4.8, 5.2, 4.9])
    assert len(started) == 3
