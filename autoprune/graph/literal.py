"""Literals of the graph that depend on how many units stay."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.graph.dims import Expr
from autoprune.graph.kept import Kept

__all__ = ["Literal", "Offset", "Quotient", "Size"]


@dataclass(frozen=True)
class Size:
    """A literal that is the number of positions of an axis."""

    axis: Expr

    def value(self, kept: Kept) -> int:
        return kept.size(self.axis)


@dataclass(frozen=True)
class Offset:
    """A literal that is a position on an axis: it counts the positions before it that stay."""

    axis: Expr
    position: int

    def value(self, kept: Kept) -> int:
        return kept.before(self.axis, self.position)


@dataclass(frozen=True)
class Quotient:
    """A literal that is one axis' size divided by another's (the `groups` of a convolution)."""

    axis: Expr
    by: Expr

    def value(self, kept: Kept) -> int:
        return kept.size(self.axis) // kept.size(self.by)


Literal = Size | Offset | Quotient
