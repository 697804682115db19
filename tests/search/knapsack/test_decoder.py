"""A latency becomes levels, though layers lose inputs and outputs at once."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.search.knapsack.curves import Curve, Levels
from autoprune.search.knapsack.decoder import Decoder, pairs

WIDTHS = tuple(range(2, 17, 2))
KEPT = np.array(WIDTHS) / 16
LAYERS = [(g, g + 1, 4.0) for g in range(5)]  # of six groups in a chain: reads, writes, milliseconds


def latency_ms(levels: Levels) -> float:
    return 1.0 + sum(ms * KEPT[levels[a]] * KEPT[levels[b]] for a, b, ms in LAYERS)


DENSE_MS = latency_ms(np.full(6, 7))


def curves() -> dict[str, Curve]:
    out = {}
    for g in range(6):
        saved = []
        for level in range(8):
            levels = np.full(6, 7)
            levels[g] = level
            saved.append(DENSE_MS - latency_ms(levels))
        out[f"g{g}"] = Curve(WIDTHS, tuple((1 + g) * (1 - KEPT) ** 2), tuple(saved))
    return out


def test_pairs_are_the_groups_that_share_a_layer() -> None:
    found = pairs(curves(), DENSE_MS, latency_ms)
    assert {(g, h) for g, h, _ in found} == {(a, b) for a, b, _ in LAYERS}
    assert [ms for _, _, ms in found] == pytest.approx([1.0] * 5)  # 4 ms · ½ · ½


def test_with_pairs_the_first_answer_is_close_and_without_them_the_aim_is_corrected() -> None:
    for target_ms in (16.0, 11.0, 6.0):
        for shared in (pairs(curves(), DENSE_MS, latency_ms), []):
            levels = Decoder(curves(), DENSE_MS, latency_ms, shared).at(target_ms)
            assert 0.9 * target_ms <= latency_ms(levels) <= target_ms


def damage(levels: Levels) -> float:
    return float(sum(c.damage[k] for c, k in zip(curves().values(), levels, strict=True)))


def test_pairs_lead_to_less_damage() -> None:
    shared = pairs(curves(), DENSE_MS, latency_ms)
    targets = np.linspace(3, 18, 12)
    decoders = [Decoder(curves(), DENSE_MS, latency_ms, s) for s in (shared, [])]
    with_pairs, without = (np.mean([damage(d.at(t, d.trusting(1.0))) for t in targets]) for d in decoders)
    assert with_pairs < without


def test_without_trust_in_the_scan_groups_lose_the_same_share() -> None:
    """Curves of an equal saving per unit: damage in proportion to savings is least where all shares are the same."""
    flat = {f"g{g}": Curve(WIDTHS, tuple(2.0 ** g * (1 - KEPT) ** 2), tuple(4 * (1 - KEPT))) for g in range(4)}
    dense_ms = 20.0

    def ms(levels: Levels) -> float:
        return dense_ms - sum(c.saved[k] for c, k in zip(flat.values(), levels, strict=True))
    decoder = Decoder(flat, dense_ms, ms)
    even, half, scanned = (decoder.at(15.0, decoder.trusting(trust)) for trust in (0.0, 0.5, 1.0))
    assert np.ptp(KEPT[even]) <= 0.13
    assert np.ptp(KEPT[even]) < np.ptp(KEPT[half]) < np.ptp(KEPT[scanned])
    assert (decoder.at(15.0) == half).all()


def test_the_ends_of_the_range() -> None:
    decoder = Decoder(curves(), DENSE_MS, latency_ms)
    assert decoder.at(2 * DENSE_MS).tolist() == decoder.at(DENSE_MS).tolist() == [7] * 6
    assert decoder.at(0.5).tolist() == [0] * 6
    assert decoder.least_ms == latency_ms(np.zeros(6, dtype=int))


def test_groups_of_fewer_widths_keep_to_theirs() -> None:
    some = curves()
    some["g0"] = Curve((8, 16), (0.01, 0.0), (some["g0"].saved[3], 0.0))
    decoder = Decoder(some, DENSE_MS, lambda levels: latency_ms(np.array([3 + 4 * levels[0], *levels[1:]])))
    assert decoder.at(0.5).tolist() == [0] * 6
    assert decoder.at(DENSE_MS).tolist() == [1, 7, 7, 7, 7, 7]


@pytest.mark.parametrize("exact", [True, False])
def test_many_groups_meet_their_target(exact: bool) -> None:
    many = {f"g{g}": Curve(WIDTHS, tuple((1 + g % 7) * (1 - KEPT) ** 2), tuple((1 + g % 3) * (1 - KEPT)))
            for g in range(60)}
    worth = np.array([1 + g % 3 for g in range(60)])
    ms = float(worth.sum())
    decoder = Decoder(many, ms, lambda levels: float((worth * KEPT[levels]).sum()))
    for share in (0.3, 0.55, 0.8):
        found = decoder.latency_ms(decoder.at(share * ms, exact=exact))
        assert (share - 0.01) * ms <= found <= share * ms
