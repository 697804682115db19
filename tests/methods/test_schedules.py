"""Schedules against values worked out by hand, and what holds for all of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.errors import ConfigError
from autoprune.methods.schedules import Schedule, gradual, iterative, one_shot


def test_one_shot_cuts_all_at_once() -> None:
    assert one_shot(0.0, 1.0, 0.1) == 1.0
    assert one_shot(0.01, 1.0, 0.1) == one_shot(1.0, 1.0, 0.1) == 0.1
    assert [Schedule().kept(cut, 0.25) for cut in (0, 1)] == [1.0, 0.25]


def test_iterative_keeps_an_equal_share_per_cycle() -> None:
    assert iterative(0.5, 1.0, 0.25) == pytest.approx(0.5)
    assert [Schedule("iterative", 3).kept(cut, 0.125) for cut in range(4)] == pytest.approx([1, 0.5, 0.25, 0.125])


def test_gradual_is_zhu_and_guptas_cubic() -> None:
    """Half way, one eighth of the way is left: sparsity 0.8 · (1 − 1/8) = 0.7."""
    assert gradual(0.5, 1.0, 0.2) == pytest.approx(0.3)
    assert 1 - gradual(0.5, 1.0, 0.2) == pytest.approx(0.8 + (0.0 - 0.8) * (1 - 0.5) ** 3)
    assert gradual(0.5, 1.0, 0.2, power=1) == pytest.approx(0.6)
    assert Schedule("gradual", 4, power=1).kept(1, 0.2) == pytest.approx(0.8)


def test_counts_are_rounded() -> None:
    assert [Schedule("iterative", 4).count(cut, 8, 64) for cut in range(5)] == [64, 38, 23, 13, 8]
    assert [Schedule("gradual", 2).count(cut, 4, 64) for cut in range(3)] == [64, round(4 + 60 / 8), 4]


@given(kind=st.sampled_from(["iterative", "gradual"]), cuts=st.integers(1, 20), target=st.integers(1, 500),
       more=st.integers(0, 500))
def test_what_is_kept_never_rises_and_ends_at_the_target(kind: str, cuts: int, target: int, more: int) -> None:
    schedule, start = Schedule(kind, cuts), target + more
    counts = [schedule.count(cut, target, start) for cut in range(cuts + 1)]
    assert counts[0] == start
    assert counts[-1] == target
    assert counts == sorted(counts, reverse=True)
    shares = [schedule.kept(cut, target / start) for cut in range(cuts + 1)]
    assert shares[-1] == target / start
    assert all(a >= b - 1e-12 for a, b in pairwise(shares))


def test_steps_are_spaced_and_leave_time_to_settle() -> None:
    assert Schedule().steps(10) == (0,)
    assert Schedule("iterative", 4).steps(100, settle=0.25) == (0, 25, 50, 75)
    assert Schedule("gradual", 3).steps(3, settle=0.0) == (0, 1, 2)


@given(cuts=st.integers(1, 30), total=st.integers(1, 300), settle=st.floats(0, 0.9))
def test_every_cut_has_a_step_of_its_own_or_it_is_an_error(cuts: int, total: int, settle: float) -> None:
    schedule = Schedule("gradual", cuts)
    if min(total - 1, floor(total * (1 - settle))) < cuts - 1 and cuts > 1:
        with pytest.raises(ConfigError, match="never reaches its target"):
            schedule.steps(total, settle)
        return
    steps = schedule.steps(total, settle)
    assert len(set(steps)) == cuts
    assert list(steps) == sorted(steps)
    assert steps[0] == 0
    assert steps[-1] < total


@pytest.mark.parametrize(("make", "words"), [
    (lambda: Schedule("cubic"), "unknown schedule"),
    (lambda: Schedule("gradual", 0), "out of range"),
    (lambda: Schedule("one-shot", 2), "out of range"),
    (lambda: Schedule("gradual", 2, power=0.5), "out of range"),
    (lambda: Schedule("gradual", 2).kept(3, 0.5), "no such cut"),
    (lambda: Schedule("gradual", 2).kept(1, 0.0), "cannot reach"),
    (lambda: Schedule("gradual", 2).kept(1, 0.9, start=0.5), "cannot reach"),
    (lambda: Schedule("gradual", 2).count(1, 5, 4), "cannot reach"),
    (lambda: Schedule("gradual", 8).steps(9), "never reaches"),
    (lambda: Schedule("gradual", 2).steps(9, settle=2), "out of range"),
])
def test_bad_input_is_one_clear_error(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()
