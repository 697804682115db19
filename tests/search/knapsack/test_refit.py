"""The fit of damage curves to candidates, on nets of which the truth is known."""

from __future__ import annotations

import numpy as np

from autoprune.search.knapsack.refit import Refit

GROUPS, LEVELS, METHODS = 8, 9, 2
SHARES = np.tile(np.linspace(0.8, 0.0, LEVELS), (GROUPS, 1))
EVEN = np.zeros(GROUPS)
SCAN = SHARES ** 2  # which takes all groups for equal


def candidates(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Levels, methods and losses of random plans: one group does ten times the damage, one method twice."""
    levels = random.integers(0, LEVELS, (count, GROUPS))
    methods = random.integers(0, METHODS, (count, GROUPS))
    damage = SCAN[np.arange(GROUPS), levels] * np.where(np.arange(GROUPS) == 0, 10.0, 1.0) * (1.0 + methods)
    return levels, methods, 0.05 * damage.sum(1) ** 1.3 * np.exp(random.normal(0, 0.02, count))


def test_the_most_probable_curves_are_near_the_truth() -> None:
    random = np.random.default_rng(0)
    damage, factors = Refit(SCAN, SHARES, EVEN, METHODS, *candidates(random, 120)).draw(random, 0.0)
    at_half = damage[:, 3] / np.median(damage[1:, 3])
    assert 6 < at_half[0] < 15
    assert ((at_half[1:] > 0.6) & (at_half[1:] < 1.6)).all()
    assert ((factors[:, 1] / factors[:, 0] > 1.5) & (factors[:, 1] / factors[:, 0] < 2.6)).all()
    assert (damage[:, -1] == 0).all()


def test_draws_spread_less_the_more_is_known() -> None:
    random = np.random.default_rng(0)
    spreads = []
    for count in (0, 20, 120):
        fit = Refit(SCAN, SHARES, EVEN, METHODS, *candidates(random, count))
        logs = [np.log(fit.draw(random, 1.0)[0][:, 2]) for _ in range(60)]
        spreads.append(float(np.std(logs, axis=0).mean()))
    assert spreads[0] > 1.5 * spreads[1] > 2 * spreads[2]


def test_dense_candidates_alone_say_nothing() -> None:
    whole = np.full((3, GROUPS), LEVELS - 1)
    fit = Refit(SCAN, SHARES, EVEN, METHODS, whole, np.zeros_like(whole), np.zeros(3))
    assert (fit.draw(np.random.default_rng(0), 0.0)[0] == SCAN).all()


def test_losses_below_zero_and_of_no_loss_do_not_break_it() -> None:
    random = np.random.default_rng(0)
    levels, methods, losses = candidates(random, 30)
    for odd in (np.zeros(30), losses - losses.max(), 1e6 * losses):
        damage, factors = Refit(SCAN, SHARES, EVEN, METHODS, levels, methods, odd).draw(random, 1.0)
        assert np.isfinite(damage).all()
        assert np.isfinite(factors).all()


def test_candidates_that_lost_nothing_do_not_hide_what_the_others_lost() -> None:
    """Where a budget is generous, most are as good as the dense model, or better."""
    random = np.random.default_rng(0)
    levels, methods, losses = candidates(random, 120)
    losses = np.where(losses < np.quantile(losses, 0.6), -0.001, losses)
    damage, _ = Refit(SCAN, SHARES, EVEN, METHODS, levels, methods, losses).draw(random, 0.0)
    assert damage[0, 3] > 3 * np.median(damage[1:, 3])


def test_levels_that_a_group_does_not_have_stay_out_of_reach() -> None:
    scan = SCAN.copy()
    scan[0, :3] = np.inf
    random = np.random.default_rng(0)
    levels, methods, losses = candidates(random, 30)
    levels[:, 0] = np.maximum(levels[:, 0], 3)
    damage, _ = Refit(scan, SHARES, EVEN, METHODS, levels, methods, losses).draw(random, 1.0)
    assert np.isinf(damage[0, :3]).all()
    assert np.isfinite(damage[1:]).all()


def test_a_scan_that_misleads_is_found_out() -> None:
    """The truth is what the direction leads to: one parameter for all groups."""
    random = np.random.default_rng(0)
    direction = np.linspace(-1.5, 1.5, GROUPS)
    levels, methods = random.integers(0, LEVELS, (12, GROUPS)), np.zeros((12, GROUPS), dtype=int)
    losses = 0.05 * (SCAN[np.arange(GROUPS), levels] * np.exp(direction)).sum(1)
    told, untold = (Refit(SCAN, SHARES, d, METHODS, levels, methods, losses).draw(random, 0.0)[0][:, 3]
                    for d in (direction, EVEN))
    errors = [np.std(np.log(found) - direction) for found in (told, untold)]
    assert errors[0] < 0.8 * errors[1]


def test_the_first_method_is_the_best_bet_until_candidates_say_otherwise() -> None:
    random = np.random.default_rng(0)
    none = np.zeros((0, GROUPS), dtype=int)
    _, before = Refit(SCAN, SHARES, EVEN, METHODS, none, none, np.zeros(0)).draw(random, 0.0)
    assert (before[:, :1] < before[:, 1:]).all()
    levels = random.integers(0, LEVELS - 1, (30, GROUPS))
    methods = np.repeat(np.arange(30)[:, None] % 2, GROUPS, axis=1)
    losses = 0.05 * SCAN[np.arange(GROUPS), levels].sum(1) * np.where(methods[:, 0] == 1, 0.5, 1.0)
    _, after = Refit(SCAN, SHARES, EVEN, METHODS, levels, methods, losses).draw(random, 0.0)
    assert (after[:, 1] < after[:, 0]).all()
