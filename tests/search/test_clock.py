from __future__ import annotations

from types import SimpleNamespace

import pytest

from autoprune.search.clock import Clock


def test_the_clock_counts_nested_activities_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([10.0, 12.0, 15.0, 16.0])
    monkeypatch.setattr("autoprune.search.clock.time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    clock = Clock()
    with clock.time("outer"), clock.time("inner"):
        pass
    assert clock.seconds == {"inner": 3.0, "outer": 3.0}
