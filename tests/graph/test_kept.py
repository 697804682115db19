"""What is evaluated from dimension expressions: the positions that stay, sizes, and coordinates."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autoprune.graph.dims import Concat, Dim, Expr, Product, dims_of, resolve, size_of
from autoprune.graph.kept import Kept, coordinates

from .expressions import QUICK, equal_sized, random_kept


def test_kept_indices_by_hand() -> None:
    heads, width, other = Dim(3), Dim(4), Dim(2)
    kept = Kept({heads: np.array([0, 2]), width: np.array([1, 3])})
    assert kept.indices(Product([heads, width])).tolist() == [1, 3, 9, 11]
    assert kept.indices(Product([width, heads])).tolist() == [3, 5, 9, 11]
    assert kept.indices(Concat([other, heads])).tolist() == [0, 1, 2, 4]
    assert kept.size(Product([heads, width, other])) == 8
    assert kept.touches(Concat([other, heads]))
    assert not kept.touches(other)


@QUICK
@given(equal_sized(1), st.integers(0, 10**6))
def test_size_counts_the_indices_and_they_ascend(one: list[Expr], seed: int) -> None:
    kept = random_kept(one, seed)
    indices = kept.indices(one[0])
    assert kept.size(one[0]) == len(indices)
    assert (np.diff(indices) > 0).all()
    assert ((indices >= 0) & (indices < size_of(one[0]))).all()
    assert kept.touches(one[0]) or len(indices) == size_of(one[0])


@QUICK
@given(equal_sized(1), st.data(), st.integers(0, 10**6))
def test_before_counts_what_stays_in_front(one: list[Expr], data: st.DataObject, seed: int) -> None:
    kept = random_kept(one, seed)
    position = data.draw(st.integers(0, size_of(one[0])))
    assert kept.before(one[0], position) == sum(i < position for i in kept.indices(one[0]).tolist())


def test_coordinates_by_hand() -> None:
    heads, width, other = Dim(2), Dim(3), Dim(2)
    assert coordinates(Product([heads, width]), heads).tolist() == [0, 0, 0, 1, 1, 1]
    assert coordinates(Product([heads, width]), width).tolist() == [0, 1, 2, 0, 1, 2]
    assert coordinates(Concat([other, Product([heads, width])]), width).tolist() == [-1, -1, 0, 1, 2, 0, 1, 2]
    assert coordinates(Product([Concat([other, heads]), width]), heads).tolist() == [-1] * 6 + [0] * 3 + [1] * 3
    assert coordinates(other, heads).tolist() == [-1, -1]


@QUICK
@given(equal_sized(1), st.integers(0, 10**6))
def test_coordinates_agree_with_indices(one: list[Expr], seed: int) -> None:
    """A position goes exactly when its unit goes (for dimensions that no product names twice)."""
    e = one[0]
    for d in {id(d): d for d in dims_of(e)}.values():
        if d.frozen is not None or _twice_in_a_product(e, d):
            continue
        kept = random_kept([d], seed)
        units = coordinates(e, d)
        expected = np.flatnonzero((units < 0) | np.isin(units, kept.indices(d)))
        np.testing.assert_array_equal(kept.indices(e), expected)


def _twice_in_a_product(e: Expr, d: Dim) -> bool:
    e = resolve(e)
    if isinstance(e, Dim):
        return False
    inside = [any(x is d for x in dims_of(f)) for f in e]
    return (isinstance(e, Product) and sum(inside) > 1) or any(_twice_in_a_product(f, d) for f in e)
