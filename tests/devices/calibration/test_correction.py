from __future__ import annotations

import math

import pytest

from autoprune.devices.calibration.correction import Correction
from autoprune.devices.node import Node

A, B = Node("a", "Conv", "conv"), Node("b", "Gemm", "gemm")


def table(a_ms: float, b_ms: float) -> list[tuple[Node, float]]:
    return [(A, a_ms), (B, b_ms)]


def test_nothing_learnt_changes_nothing() -> None:
    correction = Correction()
    assert len(correction) == 0
    assert correction.total_ms(table(1.25, 2.5)) == 3.75


def test_prices_that_are_right_stay() -> None:
    correction = Correction()
    for a, b in ((1.0, 2.0), (0.5, 1.5), (0.25, 0.5)):
        correction.learn(table(a, b), {"a": a, "b": b}, a + b)
    assert len(correction) == 3
    assert correction.total_ms(table(3.0, 7.0)) == pytest.approx(10.0)


@pytest.mark.parametrize("k", [0.5, 1.7, 3.0])
def test_variants_that_are_k_times_their_price_teach_k(k: float) -> None:
    """What the pull towards 1 leaves off the nodes' factors (one variant's weight), the whole's factor makes up for."""
    correction = Correction()
    for i in range(8):
        size = 1.0 + 0.3 * i
        correction.learn(table(size, 2 * size), {"a": k * size, "b": k * 2 * size}, k * 3 * size)
    for size in (1.0, 2.0, 3.0):
        assert correction.total_ms(table(size, 2 * size)) == pytest.approx(k * 3 * size, rel=0.02)


def test_one_variant_by_hand() -> None:
    """a took four times its price, b was not timed: a's factor is 4 ** (1 / 2), that of the whole (7 / 3) ** (2 / 3)
    of what is left; one variant has no slope.
    """
    correction = Correction()
    correction.learn(table(1.0, 1.0), {"a": 4.0}, 7.0)
    rest = (7.0 / 3.0) ** (1 / 1.5)
    assert correction.total_ms(table(1.0, 1.0)) == pytest.approx(3.0 * rest)
    assert correction.total_ms(table(10.0, 0.0)) == pytest.approx(20.0 * rest)
    assert correction.total_ms([(B, 5.0)]) == pytest.approx(5.0 * rest)


def test_two_sizes_by_hand() -> None:
    """No node is timed: 1 ms took 1, e² ms took twice that. The slope, over a spread of ±1: (ln 2) / (2 + 2)."""
    correction = Correction()
    large = math.e ** 2
    correction.learn([(A, 1.0)], {}, 1.0)
    correction.learn([(A, large)], {}, 2 * large)
    mean, slope = math.log(2) / 2.5, math.log(2) / 2.5
    for size, away in ((math.e, 0.0), (1.0, -1.0), (large, 1.0)):
        assert correction.total_ms([(A, size)]) == pytest.approx(size * math.exp(mean + slope * away))


def test_nodes_apart_from_each_other() -> None:
    """One node is three times as slow as its price, the other right: variants of more of the one cost more."""
    correction = Correction()
    for i in range(8):
        a, b = 1.0 + 0.2 * i, 3.0 - 0.3 * i
        correction.learn(table(a, b), {"a": 3 * a, "b": b}, 3 * a + b)
    assert correction.total_ms(table(2.0, 0.1)) == pytest.approx(6.1, rel=0.12)
    assert correction.total_ms(table(0.1, 2.0)) == pytest.approx(2.3, rel=0.12)


def test_times_and_prices_of_nothing_are_passed_over() -> None:
    correction = Correction()
    correction.learn(table(0.0, 2.0), {"a": 1.0, "b": 0.0, "elsewhere": 5.0}, 2.0)
    assert correction.total_ms(table(0.0, 4.0)) == pytest.approx(4.0)


def test_arguments_are_left_alone() -> None:
    prices, timed = table(1.0, 2.0), {"a": 2.0}
    correction = Correction()
    correction.learn(prices, timed, 4.0)
    before = correction.total_ms(prices)
    assert (prices, timed) == (table(1.0, 2.0), {"a": 2.0})
    prices.append((A, 100.0))
    correction.learn(table(1.0, 2.0), timed, 4.0)
    assert correction.total_ms(table(1.0, 2.0)) == pytest.approx(4.0, rel=0.2)
    assert before == pytest.approx(4.0, rel=0.2)
