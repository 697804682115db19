"""Random dimension expressions, and what the tests of `dims.py` and `kept.py` ask about them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from autoprune.graph.dims import Concat, Dim, Expr, Product, dims_of
from autoprune.graph.kept import Kept

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
