"""Decoding a latency into widths, beside the best of all plans where these can be enumerated."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.search.knapsack.curves import Curve, Levels, Values, decode, nearly, relax

EQUAL = (np.array([[9.0, 4.0, 1.0, 0.0]] * 3), np.array([[3.0, 2.0, 1.0, 0.0]] * 3))


def total(values: Values, levels: Levels) -> float:
    return float(values[np.arange(len(levels)), levels].sum())


def test_nothing_to_save_keeps_everything() -> None:
    assert decode(*EQUAL, 0.0).tolist() == [3, 3, 3]


def test_equal_groups_share_the_saving() -> None:
    assert decode(*EQUAL, 3.0).tolist() == [2, 2, 2]
    assert decode(*EQUAL, 6.0).tolist() == [1, 1, 1]


def test_more_than_there_is_gives_all_that_can_be_saved() -> None:
    assert decode(*EQUAL, 100.0).tolist() == [0, 0, 0]


def test_a_costly_group_is_spared() -> None:
    damage, saved = EQUAL
    assert decode(damage * np.array([[100.0], [1.0], [1.0]]), saved, 4.0)[0] == 3


def test_a_group_that_slows_down_when_narrower_stays_whole() -> None:
    damage = np.array([[3.0, 2.0, 1.0, 0.0], EQUAL[0][0]])
    saved = np.array([[-1.0, -0.5, -0.1, 0.0], EQUAL[1][0]])
    assert decode(damage, saved, 2.0).tolist() == [3, 1]


def test_a_level_that_a_group_does_not_have_is_never_chosen() -> None:
    damage, saved = EQUAL[0].copy(), EQUAL[1].copy()
    damage[0, :2], saved[0, :2] = np.inf, 50.0
    assert decode(damage, saved, 100.0).tolist() == [2, 0, 0]


@given(st.lists(st.tuples(st.lists(st.floats(0, 5), min_size=3, max_size=3),
                          st.lists(st.floats(-1, 4), min_size=3, max_size=3)), min_size=1, max_size=4),
       st.floats(0.05, 0.95))
def test_the_damage_is_the_least_of_all_plans_that_save_enough(parts: list[tuple[list[float], list[float]]],
                                                               share: float) -> None:
    damage, saved = (np.array([[*part[i], 0.0] for part in parts]) for i in (0, 1))  # stairs of any shape
    goal = share * float(saved.max(1).sum())
    found = decode(damage, saved, goal)
    assert total(saved, found) >= goal - 1e-9
    plans = (np.array(choice) for choice in product(range(4), repeat=len(parts)))
    assert total(damage, found) <= min(total(damage, p) for p in plans if total(saved, p) >= goal) + 1e-9


def test_many_groups_are_decoded_within_a_thousandth_of_the_bound() -> None:
    """The Lagrangian bound, which no plan beats."""
    random = np.random.default_rng(0)
    kept = np.linspace(1, 0, 16)
    damage = random.exponential(size=(100, 1)) * kept ** 2
    saved = random.lognormal(size=(100, 1)) * kept
    goal = 0.5 * float(saved.max(1).sum())
    found = decode(damage, saved, goal)
    price, _ = relax(damage, saved, goal)
    bound = float((damage - price * saved).min(1).sum()) + price * goal
    assert total(saved, found) >= goal
    assert bound <= total(damage, found) <= 1.001 * bound


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


def random_tables(groups: int, seed: int) -> tuple[Values, Values]:
    random = np.random.default_rng(seed)
    kept = np.linspace(0.1, 1.0, 10)
    damage = np.exp(random.normal(0, 1, groups))[:, None] * (1 - kept) ** 2
    return damage, random.uniform(0.5, 2.0, groups)[:, None] * (1 - kept)


@pytest.mark.parametrize("groups", [3, 60])
def test_nearly_saves_enough_with_hardly_more_damage(groups: int) -> None:
    for seed in range(20):
        damage, saved = random_tables(groups, seed)
        goal = (0.2 + 0.03 * seed) * float(saved[:, 0].sum())
        relaxed, near, best = relax(damage, saved, goal)[1], nearly(damage, saved, goal)[1], decode(damage, saved, goal)
        assert total(saved, near) >= goal - 1e-9
        assert total(damage, best) - 1e-9 <= total(damage, near) <= total(damage, relaxed)
        assert groups < 10 or total(damage, near) < 1.02 * total(damage, best)


def test_damage_that_is_no_number_ends_the_decoding() -> None:
    damage, saved = EQUAL[0].copy(), EQUAL[1]
    damage[1] = np.nan
    assert nearly(damage, saved, 4.0)[1].shape == (3,)
