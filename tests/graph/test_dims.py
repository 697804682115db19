"""Dimension expressions: resolving and unifying them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.graph.dims import Concat, Dim, Expr, Product, dims_of, freeze, resolve, size_of, split, unify

from .expressions import QUICK, equal_sized, frozen_of, random_kept

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
