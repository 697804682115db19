"""Evaluating dimension expressions once it is decided which units stay."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from autoprune.graph.dims import Concat, Dim, Expr, Product, dims_of, resolve, size_of

if TYPE_CHECKING:
    from autoprune.graph.literal import Literal

__all__ = ["Kept", "coordinates", "unit_order"]

Indices = NDArray[np.int64]


class Kept:
    """Which units of which `Dim` stay; a `Dim` that is not named keeps all of its units.

    Parameters
    ----------
    units: for each pruned `Dim`, the ascending indices that stay, shape `[kept]`.
    """

    def __init__(self, units: Mapping[Dim, Indices]):
        self._units = dict(units)
        self._positions: dict[tuple[type, Expr], torch.Tensor] = {}

    def only(self, dims: Collection[Dim]) -> Kept:
        """What stays when nothing but `dims` is pruned."""
        return Kept({d: units for d, units in self._units.items() if d in dims})

    def touches(self, e: Expr) -> bool:
        """Whether any position of `e` is removed."""
        return any(d in self._units for d in dims_of(e))

    def value(self, literal: Literal) -> int:
        """The number that a literal becomes."""
        return literal.value(self)

    def size(self, e: Expr) -> int:
        """Number of positions of `e` that stay."""
        e = resolve(e)
        if isinstance(e, Dim):
            units = self._units.get(e)
            return e.size if units is None else len(units)
        if isinstance(e, Product):
            return math.prod(self.size(x) for x in e)
        return sum(self.size(x) for x in e)

    def indices(self, e: Expr) -> Indices:
        """The ascending positions of `e` that stay, shape `[size(e)]`."""
        e = resolve(e)
        if isinstance(e, Dim):
            units = self._units.get(e)
            return np.arange(e.size) if units is None else units
        if isinstance(e, Product):
            out = np.zeros(1, dtype=np.int64)
            for x in e:
                out = (out[:, None] * size_of(x) + self.indices(x)[None, :]).reshape(-1)
            return out
        offset, parts = 0, []
        for x in e:
            parts.append(self.indices(x) + offset)
            offset += size_of(x)
        return np.concatenate(parts)

    def positions(self, e: Expr) -> torch.Tensor:
        """`indices(e)` as a tensor; made once for all the axes that share an expression."""
        e = resolve(e)
        key = (type(e), e)  # a product and a concat of the same parts are equal as tuples
        if key not in self._positions:
            self._positions[key] = torch.from_numpy(self.indices(e))
        return self._positions[key]

    def before(self, e: Expr, position: int) -> int:
        """How many of the positions of `e` before `position` stay."""
        return int(np.searchsorted(self.indices(e), position))


def coordinates(e: Expr, d: Dim) -> Indices:
    """For every position of `e` the unit of `d` that it belongs to, or -1; shape `[size_of(e)]`."""
    e = resolve(e)
    if e is d:
        return np.arange(d.size)
    if isinstance(e, Dim):
        return np.full(e.size, -1)
    if isinstance(e, Concat):
        return np.concatenate([coordinates(x, d) for x in e])
    out = np.full(1, -1)
    for x in e:  # a product names d in at most one factor (twice would be a diagonal: the typing never makes one)
        inner = coordinates(x, d)
        out = np.where(inner[None, :] >= 0, inner[None, :], out[:, None]).reshape(-1)
    return out


def unit_order(e: Expr, d: Dim) -> torch.Tensor | None:
    """Positions of `e` sorted by the unit of `d` that they belong to; None when that is all of them as they are."""
    units = coordinates(e, d)
    order = np.argsort(units, kind="stable")[int((units < 0).sum()) :]
    as_it_is = len(order) == len(units) and bool((np.diff(order) == 1).all())
    return None if as_it_is else torch.from_numpy(order)
