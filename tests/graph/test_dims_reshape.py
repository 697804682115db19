"""Dimension expressions: reshaping and splitting axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.graph.dims import Concat, Dim, Expr, Product, dims_of, reshape, resolve, size_of, split

from .expressions import QUICK, expressions, frozen_of, random_kept

# -- reshape ------------------------------------------------------------------------------------------------------


def check_reshape(axes: Sequence[Expr], out_sizes: Sequence[int], seed: int) -> list[Expr]:
    """Slicing the input and then reshaping selects what the output's expressions say."""
    in_sizes = [size_of(a) for a in axes]
    out = reshape(axes, out_sizes, "reshape")
    assert [size_of(e) for e in out] == list(out_sizes)
    kept = random_kept([*axes, *out], seed)
    numbers = torch.arange(math.prod(in_sizes)).reshape(in_sizes)
    cut = numbers
    for i, e in enumerate(axes):
        cut = cut.index_select(i, torch.from_numpy(kept.indices(e)))
    expected = numbers.reshape(list(out_sizes))
    for i, e in enumerate(out):
        expected = expected.index_select(i, torch.from_numpy(kept.indices(e)))
    assert torch.equal(cut.reshape([kept.size(e) for e in out]), expected)
    return out


@st.composite
def factorisation(draw: st.DrawFn, total: int) -> list[int]:
    sizes = []
    while total > 1 and len(sizes) < 5:
        sizes.append(draw(st.sampled_from([k for k in range(1, total + 1) if total % k == 0])))
        total //= sizes[-1]
    return draw(st.permutations([*sizes, total])) if draw(st.booleans()) else [*sizes, total]


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[list[Expr], list[int]]:
    total = draw(st.sampled_from([1, 2, 4, 6, 8, 12, 18, 24, 30, 36, 48, 60, 64, 72]))
    pool: list[Dim] = []
    axes = [draw(expressions(n, pool)) for n in draw(factorisation(total))]
    return axes, draw(factorisation(total))


@settings(QUICK, max_examples=150)
@given(reshapes(), st.integers(0, 10**6))
def test_reshape_does_what_torch_does(case: tuple[list[Expr], list[int]], seed: int) -> None:
    check_reshape(*case, seed)


@pytest.mark.slow
@settings(deadline=None, max_examples=5000, derandomize=True)
@given(reshapes(), st.integers(0, 10**6))
def test_reshape_does_what_torch_does_often(case: tuple[list[Expr], list[int]], seed: int) -> None:
    check_reshape(*case, seed)


@QUICK
@given(reshapes(), st.data(), st.integers(0, 10**6))
def test_reshape_there_and_back(case: tuple[list[Expr], list[int]], data: st.DataObject, seed: int) -> None:
    axes, sizes = case
    original = [size_of(a) for a in axes]
    middle = check_reshape(axes, sizes, seed)
    back = check_reshape(middle, original, seed)
    kept = random_kept([*axes, *back], seed + 1)
    for a, b in zip(axes, back, strict=True):
        np.testing.assert_array_equal(kept.indices(a), kept.indices(b))


def test_reshape_to_heads_is_free_and_couples_nothing() -> None:
    features = Dim(12)
    batch = Dim(2, "input")
    out = reshape([batch, features], [2, 3, 4], "view")
    assert out[0] is batch
    assert resolve(features) == Product([out[1], out[2]])
    assert frozen_of(features) == [None, None]


def test_reshape_of_qkv_couples_the_three_parts() -> None:
    parts = [Dim(12), Dim(12), Dim(12)]
    out = reshape([Concat(parts)], [3, 4, 3], "view")
    assert len({tuple(map(id, dims_of(p))) for p in parts}) == 1
    assert frozen_of(out[0]) == ["view"]
    assert frozen_of(parts[0]) == [None, None]


def test_reshape_of_concat_with_unequal_parts_freezes() -> None:
    parts = [Dim(4), Dim(8)]
    reshape([Concat(parts)], [3, 4], "view")
    assert [p.frozen for p in parts] == ["view", "view"]


def test_reshape_freezes_only_the_run_that_does_not_fit() -> None:
    good, bad, other = Dim(8), Dim(6), Dim(4)
    out = reshape([good, bad, other], [2, 4, 8, 3], "view")
    assert set(frozen_of(good)) == {None}
    assert bad.frozen == other.frozen == "view"
    assert frozen_of(out[2]) == frozen_of(out[3]) == ["view"]


def test_flatten_multiplies_and_single_positions_vanish() -> None:
    channels, height, width = Dim(5), Dim(1), Dim(1)
    assert reshape([channels, height, width], [5], "flatten") == [channels]
    height = Dim(2)
    assert reshape([channels, height], [10], "flatten") == [Product([channels, height])]


@pytest.mark.parametrize("sizes", [[7], [2, 4], [0], [3, 0]])
def test_reshape_to_another_number_of_elements_freezes(sizes: list[int]) -> None:
    a = Dim(6)
    out = reshape([a], sizes, "broken")
    assert a.frozen == "broken"
    assert [size_of(e) for e in out] == sizes
    assert {f for e in out for f in frozen_of(e)} == {"broken"}


def test_reshape_of_a_scalar() -> None:
    assert [size_of(e) for e in reshape([], [1, 1], "view")] == [1, 1]
    assert reshape([Dim(1), Dim(1)], [], "view") == []


# -- split --------------------------------------------------------------------------------------------------------


@st.composite
def splits(draw: st.DrawFn) -> tuple[Expr, list[int]]:
    size = draw(st.integers(1, 24))
    e = draw(expressions(size, []))
    cuts = sorted(draw(st.sets(st.integers(0, size), max_size=4)) | {0, size})
    return e, [b - a for a, b in pairwise(cuts)]


@settings(QUICK, max_examples=80)
@given(splits(), st.integers(0, 10**6))
def test_split_cuts_what_torch_cuts(case: tuple[Expr, list[int]], seed: int) -> None:
    e, sizes = case
    parts = split(e, sizes, "split")
    assert [size_of(p) for p in parts] == sizes
    kept = random_kept([e, *parts], seed)
    dense = np.split(np.arange(size_of(e)), np.cumsum(sizes)[:-1])
    at = 0
    for part, positions in zip(parts, dense, strict=True):
        count = kept.size(part)
        np.testing.assert_array_equal(kept.indices(e)[at : at + count], positions[kept.indices(part)])
        at += count
    assert at == kept.size(e)


def test_split_into_one_is_the_expression_itself() -> None:
    e = Dim(4)
    assert split(e, [4], "split") == [e]


def test_split_with_an_empty_piece() -> None:
    e = Dim(8)
    parts = split(e, [3, 0, 5], "split")
    assert [size_of(p) for p in parts] == [3, 0, 5]
    assert resolve(e) == Concat(parts)


def test_split_that_does_not_add_up_freezes() -> None:
    e = Dim(8)
    parts = split(e, [3, 4], "split")
    assert e.frozen == "split"
    assert [f for p in parts for f in frozen_of(p)] == ["split", "split"]
