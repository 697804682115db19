"""Dimension expressions: unification, reshape, cutting, and what is evaluated from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.graph.dims import Concat, Dim, Expr, Product, dims_of, freeze, reshape, resolve, size_of, split, unify
from autoprune.graph.kept import Kept, coordinates

QUICK = settings(deadline=None, max_examples=60, derandomize=True)


def frozen_of(e: Expr) -> list[str | None]:
    return [d.frozen for d in dims_of(e)]


def random_kept(axes: Iterable[Expr], seed: int, probability: float = 0.6) -> Kept:
    """At least one unit of every free dimension in `axes` stays; frozen ones stay whole."""
    random = np.random.default_rng(seed)
    units = {}
    for d in {id(d): d for e in axes for d in dims_of(e)}.values():
        if d.frozen is None and d.size > 0:
            stay = random.random(d.size) < probability
            stay[random.integers(d.size)] = True
            units[d] = np.flatnonzero(stay)
    return Kept(units)


# -- resolve and size ---------------------------------------------------------------------------------------------


def test_resolve_flattens_products_and_drops_single_positions() -> None:
    a, b, one = Dim(2), Dim(3), Dim(1)
    assert resolve(Product([a, Product([one, b])])) == Product([a, b])
    assert resolve(Product([one, a])) is a
    assert size_of(resolve(Product([one, Dim(1)]))) == 1


def test_resolve_flattens_concats() -> None:
    a, b, c = Dim(2), Dim(3), Dim(4)
    assert resolve(Concat([Concat([a, b]), c])) == Concat([a, b, c])
    assert resolve(Concat([a])) is a


def test_resolve_follows_chains_of_links() -> None:
    a, b, c = Dim(6), Dim(6), Dim(6)
    unify(a, b, "")
    unify(b, c, "")
    assert resolve(a) is resolve(b) is resolve(c)


def test_sizes() -> None:
    assert size_of(Product([Dim(2), Concat([Dim(3), Dim(4)])])) == 14


# -- unify: the rows of the table ----------------------------------------------------------------------------------


def test_same_expression_changes_nothing() -> None:
    a, b = Dim(4), Dim(3)
    unify(a, a, "no")
    unify(Product([a, b]), Product([a, b]), "no")
    unify(Concat([a, b]), Concat([a, b]), "no")
    assert a.link is None is b.link
    assert a.frozen is None is b.frozen


@pytest.mark.parametrize("first", ["left", "right"])
def test_dim_and_dim_merge_and_frozen_wins(first: str) -> None:
    a, b = Dim(5, "input" if first == "left" else None), Dim(5, "input" if first == "right" else None)
    unify(a, b, "meeting")
    assert resolve(a) is resolve(b)
    assert frozen_of(a) == ["input"]


def test_two_free_dims_stay_free() -> None:
    a, b = Dim(5), Dim(5)
    unify(a, b, "meeting")
    assert resolve(a) is resolve(b)
    assert frozen_of(a) == [None]


def test_merging_keeps_a_name_whichever_side_has_it() -> None:
    for named in (0, 1):
        pair = [Dim(5), Dim(5)]
        pair[named].tag = "heads"
        unify(pair[0], pair[1], "")
        found = resolve(pair[0])
        assert isinstance(found, Dim)
        assert found.tag == "heads"


def test_dim_and_expression_substitute() -> None:
    for flip in (False, True):
        d, e = Dim(6), Product([Dim(2), Dim(3)])
        unify(*((e, d) if flip else (d, e)), "meeting")
        assert resolve(d) == e
        assert frozen_of(d) == [None, None]


def test_frozen_dim_freezes_the_expression_but_keeps_its_structure() -> None:
    d, e = Dim(6, "input"), Concat([Dim(2), Dim(4)])
    unify(d, e, "meeting")
    assert resolve(d) == e
    assert frozen_of(e) == ["input", "input"]


def test_occurs_check_freezes() -> None:
    d, empty = Dim(5), Dim(0)
    e = Concat([d, empty])
    unify(d, e, "endless")
    assert d.link is None
    assert d.frozen == "endless"


def test_dim_meets_a_product_with_itself_and_one_position() -> None:
    d = Dim(5)
    unify(d, Product([Dim(1), d]), "nothing")
    assert d.frozen is None


def test_products_with_equal_sizes_unify_factor_by_factor() -> None:
    a, b, c, d = Dim(2), Dim(3), Dim(2), Dim(3)
    unify(Product([a, b]), Product([c, d]), "")
    assert resolve(a) is resolve(c)
    assert resolve(b) is resolve(d)
    assert resolve(a) is not resolve(b)


def test_product_splits_the_larger_dim() -> None:
    twelve, two = Dim(12), Dim(2)
    three, eight = Dim(3), Dim(8)
    unify(Product([twelve, two]), Product([three, eight]), "")
    assert [size_of(x) for x in resolve(twelve)] == [3, 4]  # type: ignore[union-attr]
    assert resolve(eight) == Product([resolve(twelve)[1], resolve(two)])  # type: ignore[index]
    assert set(frozen_of(twelve)) == {None}


def test_products_that_do_not_divide_freeze() -> None:
    left, right = Product([Dim(4), Dim(3)]), Product([Dim(6), Dim(2)])
    unify(left, right, "meeting")
    assert frozen_of(left) == ["meeting", "meeting"]
    assert frozen_of(right) == ["meeting", "meeting"]


def test_concats_with_equal_parts_unify_part_by_part() -> None:
    a, b, c, d = Dim(2), Dim(3), Dim(2), Dim(3)
    unify(Concat([a, b]), Concat([c, d]), "")
    assert resolve(a) is resolve(c)
    assert resolve(b) is resolve(d)


def test_concat_splits_the_longer_dim() -> None:
    five, three = Dim(5), Dim(3)
    two, six = Dim(2), Dim(6)
    unify(Concat([five, three]), Concat([two, six]), "")
    first, rest = resolve(five)  # type: ignore[misc]
    assert (size_of(first), size_of(rest)) == (2, 3)
    assert resolve(six) == Concat([rest, resolve(three)])
    assert frozen_of(six) == [None, None]


def test_product_with_frozen_outer_is_a_concat_of_copies() -> None:
    hidden = Dim(5)
    gates = [Dim(5) for _ in range(4)]
    unify(Product([Dim(4, "gates"), hidden]), Concat(gates), "")
    assert len({id(resolve(g)) for g in [*gates, hidden]}) == 1
    assert frozen_of(hidden) == [None]


def test_product_and_concat_with_a_seam_inside_a_copy() -> None:
    """`[12 = 3 × 4]` against `[6, 6]`: a seam at 6 is in the middle of the second copy, so nothing may go."""
    product, parts = Product([Dim(3, "copies"), Dim(4)]), [Dim(6), Dim(6)]
    unify(product, Concat(parts), "seam")
    assert None not in frozen_of(product)
    assert None not in [f for p in parts for f in frozen_of(p)]


def test_product_with_free_outer_is_cut_where_the_seam_is() -> None:
    outer, inner = Dim(6), Dim(4)
    first, second = Dim(8), Dim(16)
    unify(Product([outer, inner]), Concat([first, second]), "")
    assert [size_of(x) for x in resolve(outer)] == [2, 4]  # type: ignore[union-attr]
    assert resolve(first)[1] is resolve(second)[1] is resolve(inner)  # type: ignore[index]
    assert set(frozen_of(first)) == {None}


@pytest.mark.parametrize(("left", "right"), [
    (Dim(3), Dim(4)),
    (Dim(6), Product([Dim(2), Dim(4)])),
    (Product([Dim(2), Dim(3)]), Product([Dim(2), Dim(4)])),
    (Concat([Dim(2), Dim(3)]), Dim(4)),
    (Concat([Dim(2), Dim(3)]), Product([Dim(2), Dim(3)])),
    (Dim(1), Dim(4)),
])
def test_sizes_that_differ_freeze_both_and_do_not_raise(left: Expr, right: Expr) -> None:
    unify(left, right, "sizes")
    assert set(frozen_of(left)) | set(frozen_of(right)) == {"sizes"}


def test_products_of_no_positions_do_not_raise() -> None:
    left, right = Product([Dim(0), Dim(3)]), Product([Dim(3), Dim(0)])
    unify(left, right, "empty")
    assert size_of(left) == size_of(right) == 0


def test_the_first_reason_is_kept() -> None:
    d = Dim(4)
    freeze(d, "first")
    freeze(d, "second")
    assert d.frozen == "first"
    other = Dim(4)
    unify(d, other, "third")
    assert frozen_of(other) == ["first"]
    outer = Product([Dim(2), Dim(2)])
    unify(other, outer, "fourth")
    assert frozen_of(outer) == ["first", "first"]


def test_splitting_a_frozen_dim_hands_the_reason_on() -> None:
    d = Dim(12, "model input")
    parts = split(d, [5, 7], "later")
    assert [f for p in parts for f in frozen_of(p)] == ["model input"] * 2
    e = Dim(12, "model input")
    unify(Product([e, Dim(2)]), Product([Dim(3), Dim(8)]), "later")
    assert frozen_of(e) == ["model input"] * 2


def test_a_symbolic_dim_is_never_cut() -> None:
    batch = Dim(6, "model input", symbolic=True)
    rest = Dim(2)
    unify(Concat([batch, rest]), Concat([Dim(2), Dim(6)]), "batch")
    assert batch.link is None
    assert rest.frozen == "batch"


sizes_small = st.integers(1, 4)


@st.composite
def expressions(draw: st.DrawFn, size: int, pool: list[Dim], depth: int = 2) -> Expr:
    """An expression of exactly `size` positions; dimensions may be shared through `pool`."""
    kinds = ["dim"]
    if depth and size > 1:
        kinds.append("concat")
        if any(size % k == 0 for k in range(2, size)):
            kinds.append("product")
    kind = draw(st.sampled_from(kinds))
    if kind == "dim":
        same = [d for d in pool if d.size == size]
        if same and draw(st.booleans()):
            return draw(st.sampled_from(same))
        d = Dim(size, draw(st.sampled_from([None, None, None, "fixed"])))
        pool.append(d)
        return d
    if kind == "concat":
        at = draw(st.integers(1, size - 1))
        return Concat([draw(expressions(at, pool, depth - 1)), draw(expressions(size - at, pool, depth - 1))])
    outer = draw(st.sampled_from([k for k in range(2, size) if size % k == 0]))
    return Product([draw(expressions(outer, pool, depth - 1)), draw(expressions(size // outer, pool, depth - 1))])


@st.composite
def equal_sized(draw: st.DrawFn, count: int = 2) -> list[Expr]:
    size = draw(st.integers(1, 24))
    pool: list[Dim] = []
    return [draw(expressions(size, pool)) for _ in range(count)]


@QUICK
@given(equal_sized(2), st.integers(0, 10**6))
def test_unified_expressions_keep_the_same_positions(pair: list[Expr], seed: int) -> None:
    """The one property that coupling rests on, for any two structures and any choice of units."""
    before = [size_of(e) for e in pair]
    unify(pair[0], pair[1], "together")
    assert [size_of(resolve(e)) for e in pair] == before
    kept = random_kept(pair, seed)
    np.testing.assert_array_equal(kept.indices(pair[0]), kept.indices(pair[1]))


@QUICK
@given(equal_sized(3), st.integers(0, 10**6))
def test_unification_is_transitive(three: list[Expr], seed: int) -> None:
    unify(three[0], three[1], "first")
    unify(three[1], three[2], "second")
    kept = random_kept(three, seed)
    np.testing.assert_array_equal(kept.indices(three[0]), kept.indices(three[2]))
    np.testing.assert_array_equal(kept.indices(three[0]), kept.indices(three[1]))


@QUICK
@given(equal_sized(2))
def test_frozen_dims_never_thaw(pair: list[Expr]) -> None:
    solid = [d for e in pair for d in dims_of(e) if d.frozen is not None]
    unify(pair[0], pair[1], "together")
    for d in solid:
        assert None not in frozen_of(d)


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


# -- evaluation ---------------------------------------------------------------------------------------------------


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
