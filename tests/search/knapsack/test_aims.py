"""Which latencies proposals aim at."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from autoprune.search.knapsack.aims import Aims
from autoprune.search.knapsack.decoder import Decoder
from autoprune.search.knapsack.past import Past, Scale

DENSE_MS, LEAST_MS = 100.0, 20.0
BEARABLE = 0.69


def decoder(*damage: float) -> Decoder:
    """Of one group: the damage of its levels, the fastest first."""
    return cast(Decoder, SimpleNamespace(damage=np.array([damage]), dense_ms=DENSE_MS, least_ms=LEAST_MS))


def past(*candidates: tuple[int, float, float]) -> Past:
    """Of (level, loss, ms)."""
    levels, losses, ms = (np.array(column) for column in zip(*candidates, strict=True))
    return Past(frozenset(), levels[:, None], 0 * levels[:, None], losses, ms, [{}] * len(ms), BEARABLE, len(ms))


def aimed_at(aims: Aims, seen: Past) -> Any:
    random = np.random.default_rng(0)
    return np.array([aims.next_ms(seen, random) for _ in range(300)])


@pytest.mark.parametrize(("most", "reach"), [(2.0, 1.0), (10.0, 0.877), (500.0, 0.325), (1e6, 0.3)])
def test_it_goes_as_far_at_once_as_the_scan_says_is_bearable(most: float, reach: float) -> None:
    """One plan at 60 ms has lost 0.05 of 0.69 that are bearable: with damage to the power 1.3 the rest is used up by
    7.5 times the damage, which is where the log of the damage gets to at `reach` of the way to the fastest plan. At
    least 0.3 of it are looked into.
    """
    found = aimed_at(Aims(decoder(most, 1.0, 0.0), ()), past((1, 0.05, 60.0), (2, 0.0, 100.0)))
    edge_ms = 60 - reach * (60 - LEAST_MS)
    assert found.min() >= edge_ms - 0.05
    assert (found < (60 + edge_ms) / 2 + 1).mean() > 0.2


def test_how_the_loss_grows_is_learnt() -> None:
    """Where five times the damage lost ten times as much, the edge is nearer than where it lost twice as much."""
    steep = aimed_at(Aims(decoder(25.0, 5.0, 1.0, 0.0), ()), past((1, 0.2, 60.0), (2, 0.02, 80.0), (3, 0.0, 100.0)))
    gentle = aimed_at(Aims(decoder(25.0, 5.0, 1.0, 0.0), ()), past((1, 0.2, 60.0), (2, 0.1, 80.0), (3, 0.0, 100.0)))
    assert gentle.min() < steep.min() - 2


def test_an_unbearable_plan_does_not_hide_the_steep_end() -> None:
    """A fast plan that lost nearly everything, next to a good one: what lies below is still the place to look."""
    found = aimed_at(Aims(decoder(4.0, 1.0, 0.0), ()), past((1, 2.0, 80.0), (1, 0.2, 81.0), (2, 0.0, 100.0)))
    assert (found < 81).mean() > 0.5


def test_a_budget_that_no_plan_meets_is_aimed_at_from_above_the_fastest_plan() -> None:
    """At it everything decodes to the same widths, and soon no plan is new."""
    found = aimed_at(Aims(decoder(4.0, 1.0, 0.0), (5.0,)), past((0, 0.3, 20.5), (2, 0.0, 100.0)))
    above = found[found >= LEAST_MS]
    assert 0.4 < len(above) / len(found) < 0.6
    assert (above <= 1.15 * LEAST_MS).all()
    assert above.std() > 0.2


def test_of_budgets_and_of_what_lies_below_them() -> None:
    found = aimed_at(Aims(decoder(4.0, 1.0, 0.0), (50.0, 80.0)), past((1, 0.05, 60.0), (2, 0.0, 100.0)))
    near = ((found > 42) & (found <= 50)) | ((found > 68) & (found <= 80))
    assert near.mean() > 0.5
    assert found.max() <= 80


@pytest.mark.parametrize("candidates", [[(2, 0.0, 100.0)], [(1, 0.9, 60.0)], [(1, 0.0, 60.0), (2, 0.0, 100.0)],
                                        [(0, 0.1, 20.0), (2, 0.0, 100.0)], [(0, 0.1, 30.0), (2, 0.0, 100.0)],
                                        [(1, 0.9, 40.0), (1, 0.1, 60.0), (2, -0.1, 100.0)]])
def test_whatever_is_known(candidates: list[tuple[int, float, float]]) -> None:
    found = aimed_at(Aims(decoder(4.0, 1.0, 0.0), ()), past(*candidates))
    assert (found >= LEAST_MS - 1e-9).all()
    assert (found <= DENSE_MS).all()
    assert found.std() > 0


def test_without_any_candidate() -> None:
    empty = Past(frozenset(), np.zeros((0, 1), dtype=int), np.zeros((0, 1), dtype=int), np.zeros(0), np.zeros(0), [],
                 BEARABLE)
    found = aimed_at(Aims(decoder(4.0, 1.0, 0.0), ()), empty)
    assert (found >= LEAST_MS).all()
    assert (found <= DENSE_MS).all()


def test_what_there_is_to_win_is_counted_in_the_metric() -> None:
    """Logs of losses are turned back before gaps are compared: of the two here, 2.9 and 3.0 by logs, 1.7 and 2.3 by the
    metric.
    """
    scale = Scale(whole=0.8)
    assert scale.lost(scale.losses(np.array([0.8, 0.6, 0.2]))) == pytest.approx([0.0, 0.25, 0.75])
    assert Scale(sign=-1.0, whole=2.0, logs=False).lost(np.array([0.5])) == pytest.approx([0.5])
    seen = past((1, 0.69, 30.0), (2, 0.4, 40.0), (3, 0.15, 52.0), (4, 0.0, 100.0))
    found = aimed_at(Aims(decoder(9.0, 8.0, 4.0, 1.0, 0.0), ()), seen)
    steep, flat = ((found > a) & (found < b) for a, b in ((30, 40), (40, 52)))
    assert flat.mean() > 1.4 * steep.mean()
