"""Decoding a latency into widths, beside the best of all plans where these can be enumerated."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.search.knapsack import Curve, decode

WIDTHS = (4, 8, 12, 16)


def curve(damage: list[float], saved: list[float]) -> Curve:
    return Curve(WIDTHS, tuple(damage), tuple(saved))


EQUAL = {name: curve([9.0, 4.0, 1.0, 0.0], [3.0, 2.0, 1.0, 0.0]) for name in ("a", "b", "c")}


def total(curves: dict[str, Curve], widths: dict[str, int], what: str) -> float:
    return sum(getattr(c, what)[c.widths.index(widths[n])] for n, c in curves.items())


def test_nothing_to_save_keeps_everything() -> None:
    assert decode(EQUAL, 0.0) == {"a": 16, "b": 16, "c": 16}


def test_equal_groups_share_the_saving() -> None:
    assert decode(EQUAL, 3.0) == {"a": 12, "b": 12, "c": 12}
    assert decode(EQUAL, 6.0) == {"a": 8, "b": 8, "c": 8}


def test_more_than_there_is_gives_all_that_can_be_saved() -> None:
    assert decode(EQUAL, 100.0) == {"a": 4, "b": 4, "c": 4}


def test_a_weight_spares_its_group() -> None:
    assert decode(EQUAL, 4.0, {"a": 100.0})["a"] == 16


def test_a_group_that_slows_down_when_narrower_stays_whole() -> None:
    stairs = {"a": curve([3.0, 2.0, 1.0, 0.0], [-1.0, -0.5, -0.1, 0.0]), "b": EQUAL["b"]}
    assert decode(stairs, 2.0) == {"a": 16, "b": 8}


@given(st.lists(st.tuples(st.lists(st.floats(0, 5), min_size=3, max_size=3),
                          st.lists(st.floats(0.01, 2), min_size=3, max_size=3)), min_size=1, max_size=4),
       st.floats(0.05, 0.95))
def test_the_target_is_met_with_nearly_the_least_damage(parts: list[tuple[list[float], list[float]]],
                                                        share: float) -> None:
    curves = {}
    for i, (damage, saved) in enumerate(parts):
        falls = np.cumsum(damage)[::-1].tolist()
        curves[f"g{i}"] = curve([*falls, 0.0], [*np.cumsum(saved)[::-1].tolist(), 0.0])
    goal = share * sum(c.saved[0] for c in curves.values())
    found = decode(curves, goal)
    assert total(curves, found, "saved") >= goal - 1e-9
    plans = (dict(zip(curves, choice, strict=True)) for choice in product(WIDTHS, repeat=len(curves)))
    best = min(total(curves, p, "damage") for p in plans if total(curves, p, "saved") >= goal)
    # the relaxation is off by at most one group's step
    step = max(c.damage[0] for c in curves.values())
    assert total(curves, found, "damage") <= best + step + 1e-9


def test_curves_pass_through_what_is_known() -> None:
    c = Curve.through((4, 8, 12, 16), {12: 0.1, 8: 0.4}, {12: 1.0, 8: 2.0})
    assert c.damage == pytest.approx((0.9, 0.4, 0.1, 0.0))
    assert c.saved == pytest.approx((3.0, 2.0, 1.0, 0.0))
    assert Curve.from_json(c.to_json()) == c
    assert c.plus(1.6).damage == pytest.approx((1.8, 0.8, 0.2, 0.0))


def test_a_curve_through_noise_does_not_fall() -> None:
    c = Curve.through((4, 8, 12, 16), {12: 0.3, 8: 0.1, 4: 0.6}, {4: 1.0})
    assert list(c.damage) == sorted(c.damage, reverse=True)


def test_a_group_about_which_nothing_is_known_costs_and_saves_nothing() -> None:
    c = Curve.through((4, 8), {}, {})
    assert (c.damage, c.saved) == ((0.0, 0.0), (0.0, 0.0))
