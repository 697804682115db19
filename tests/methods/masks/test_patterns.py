"""Which weights go together, by hand; what does not fit is one error."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autoprune.errors import ConfigError
from autoprune.methods.masks.choose import choose_masks
from autoprune.methods.masks.patterns import check_pattern, parse_pattern
from autoprune.methods.masks.weights import Maskable

LINEAR = Maskable("w", (4, 4), 1)
CONV = Maskable("c", (4, 8, 3, 3), 1, spatial=2)
TURNED = Maskable("t", (8, 4, 3, 3), 0, spatial=2)
EMBEDDING = Maskable("e", (8, 4), None)


def mask(pattern: str, scores: Tensor, kept: float, weight: Maskable = LINEAR) -> Tensor:
    return choose_masks({"x": scores}, {"x": weight}, parse_pattern(pattern), kept)["x"]


def test_single_weights_by_hand() -> None:
    scores = torch.tensor([[4.0, 1.0], [2.0, 3.0]])
    assert mask("weight", scores, 0.5, Maskable("w", (2, 2), 1)).tolist() == [[True, False], [False, True]]


def test_two_of_four_by_hand() -> None:
    scores = torch.tensor([[1.0, 9.0, 3.0, 2.0, 5.0, 5.0, 5.0, 5.0]])
    got = mask("2:4", scores, 0.5, Maskable("w", (1, 8), 1))
    assert got.int().tolist() == [[0, 1, 1, 0, 1, 1, 0, 0]]


def test_n_of_m_runs_along_the_inputs_wherever_they_are() -> None:
    scores = torch.rand(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    straight = mask("1:4", scores.movedim(0, 1), 0.25, Maskable("c", (4, 8, 3, 3), 1, 2))
    turned = mask("1:4", scores, 0.25, TURNED)
    assert torch.equal(turned, straight.movedim(1, 0))
    assert bool((straight.unflatten(1, (2, 4)).sum(2) == 1).all())


def test_a_gradual_n_of_m_goes_down_by_one() -> None:
    scores = torch.rand(4, 8)
    counts = [int(mask("2:4", scores, kept, Maskable("w", (4, 8), 1)).sum()) for kept in (1.0, 0.8, 0.6, 0.5)]
    assert counts == [32, 32, 24, 16]


def test_blocks_by_hand() -> None:
    scores = torch.tensor([[1.0, 1, 5, 0], [1, 1, 0, 0], [0, 0, 2, 2], [0, 0, 2, 2]])
    assert mask("block:2x2", scores, 0.25).int().tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert mask("block:1x2", scores, 0.25).int().tolist() == [[0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]


def test_blocks_of_a_convolution_are_channels_at_a_position() -> None:
    scores = torch.zeros(CONV.shape)
    scores[2:4, 4:8, 1, 2] = 1
    got = mask("block:2x4", scores, 1 / (2 * 2 * 9), CONV)
    assert torch.equal(got, scores.bool())


def test_kernels_and_rows_by_hand() -> None:
    scores = torch.zeros(CONV.shape)
    scores[1, 3, 0, 0] = 1
    got = mask("kernel", scores, 1 / 32, CONV)
    assert bool(got[1, 3].all())
    assert int(got.sum()) == 9
    rows = mask("row", torch.arange(32.0).reshape(8, 4), 0.25, EMBEDDING)
    assert rows.all(1).tolist() == [False] * 6 + [True] * 2


@given(kept=st.floats(0.01, 1), seed=st.integers(0, 99),
       case=st.sampled_from([("weight", LINEAR, 1), ("weight", EMBEDDING, 1), ("block:2x2", CONV, 4),
                             ("block:2x2", TURNED, 4), ("kernel", CONV, 9), ("row", CONV, 72)]))
def test_the_share_is_exact_and_masks_of_larger_shares_hold_smaller_ones(kept: float, seed: int,
                                                                         case: tuple[str, Maskable, int]) -> None:
    pattern, weight, size = case
    scores = torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed))
    cells = scores.numel() // size
    small, large = mask(pattern, scores, kept, weight), mask(pattern, scores, min(1.0, 1.5 * kept), weight)
    assert small.shape == weight.shape
    assert int(small.sum()) == size * max(1, round(kept * cells))
    assert not bool((small & ~large).any())


def test_global_is_one_ranking_that_leaves_every_weight_a_cell() -> None:
    scores = {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor([[9.0, 8.0], [0.0, 7.0]]),
              "c": torch.full((2, 2), -5.0)}
    weights = {n: Maskable(n, (2, 2), 1) for n in scores}
    got = choose_masks(scores, weights, parse_pattern("weight"), 5 / 12, "global")
    assert {n: m.int().tolist() for n, m in got.items()} == {
        "a": [[0, 0], [0, 1]], "b": [[1, 1], [0, 1]], "c": [[1, 0], [0, 0]]}


@pytest.mark.parametrize("text", ["2:2", "0:4", "5:4", "block:0x4", "block:4", "blocks", "2:4:8", "", "block:-1x4"])
def test_unknown_patterns(text: str) -> None:
    with pytest.raises(ConfigError, match="unknown pattern") as info:
        parse_pattern(text)
    assert "2:4" in str(info.value)


@pytest.mark.parametrize(("pattern", "shape", "word"), [
    ("2:4", (4, 6), "multiple of 4"), ("block:4x4", (10, 8), "10 × 8"), ("kernel", (4, 4), "no convolution")])
def test_what_does_not_fit_is_named_with_the_way_out(pattern: str, shape: tuple[int, ...], word: str) -> None:
    weights = {"fits": Maskable("fits", (8, 8, 3, 3), 1, 2), "head.weight": Maskable("head.weight", shape, 1)}
    with pytest.raises(ConfigError, match="does not fit 1 of 2") as info:
        check_pattern(parse_pattern(pattern), weights)
    assert word in str(info.value)
    assert info.value.fix == ('--skip-unfit for all of them, or --skip head.weight …; in a space file [masks] '
                              'skip_unfit = true, or skip = ["head.weight", …]')


@pytest.mark.parametrize(("kept", "scope"), [(0.0, "layer"), (1.1, "layer"), (0.5, "net")])
def test_shares_and_scopes_out_of_range(kept: float, scope: str) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        choose_masks({"w": torch.rand(4, 4)}, {"w": LINEAR}, parse_pattern("weight"), kept, scope)


def test_scores_that_are_no_numbers_are_an_error() -> None:
    with pytest.raises(ConfigError, match="not numbers"):
        mask("weight", torch.full((4, 4), torch.nan), 0.5)
