"""Which sizes of an optimised graph follow which groups: nodes of any plan without making its model.

The runtime's optimiser renames, fuses and reorders, so its graph cannot be typed as the traced one is. Instead a few
plans of random widths are really made, exported by slicing and optimised; a size that changes between them is found
again as a multiple of one group's width, of the product of two, of a sum over what a concatenation joins, of two
sizes of the same node, or as a sum of two of these. The caller checks the result on one more plan.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autoprune.devices.node import Node
from autoprune.search.node_rules import Rule, rule_of

__all__ = ["CannotFollow", "NodeSizes"]

_FIELDS = ("weights", "groups", "gather", "rows", "run")
_FINER = ("gather", "rows", "run")  # what `node_rules` cannot tell may jump with a size: the dense one's serves then


class CannotFollow(Exception):
    """A size that no group explains, or graphs of different structure."""


@dataclass(frozen=True)
class _Size:
    """`Σ factor · Π widths[group]` over `terms`; a constant has one term without groups."""

    terms: tuple[tuple[float, tuple[int, ...]], ...]

    def __call__(self, widths: Sequence[int]) -> int:
        total = 0.0
        for factor, groups in self.terms:
            for group in groups:
                factor *= widths[group]
            total += factor
        return round(total)

    def times(self, factor: float) -> _Size:
        return _Size(tuple((f * factor, g) for f, g in self.terms))

    def by(self, other: _Size) -> _Size:
        return _Size(tuple((a * b, tuple(sorted((*g, *h)))) for a, g in self.terms for b, h in other.terms))

    def plus(self, other: _Size) -> _Size:
        return _Size((*self.terms, *other.terms))

    @property
    def groups(self) -> frozenset[int]:
        return frozenset(g for _, groups in self.terms for g in groups)


class NodeSizes:
    """The nodes of a model as functions of its groups' widths.

    `widths` (plans, groups) are the probes' kept counts, the dense model's first; `nodes` their optimised graphs.
    `block`: channels may be padded to multiples of it. Raises `CannotFollow` when the graphs differ in structure or a
    size is not explained.
    """

    def __init__(self, widths: np.ndarray, nodes: Sequence[Sequence[Node]], block: int = 1):
        first = nodes[0]
        if any([n.op for n in other] != [n.op for n in first] for other in nodes[1:]):
            raise CannotFollow("the optimiser makes different graphs of different widths")
        self._block, self._padded = block, [g for g in range(widths.shape[1]) if (widths[:, g] % block).any()]
        self._widths = np.array([self._with_padded(row) for row in widths.tolist()], float)
        self._known: dict[tuple[float, ...], _Size] = {}
        self._products = self._all_products()
        self.nodes = list(first)
        self._recipes = [self._recipe([other[i] for other in nodes]) for i in range(len(first))]
        origin = [*range(widths.shape[1]), *self._padded]
        self.groups = [sorted({origin[g] for size in recipe[0] for g in size.groups}) for recipe in self._recipes]

    def node(self, index: int, widths: Sequence[int]) -> Node:
        """Node `index` at these widths (kept units per group, in the order of the probes' columns)."""
        sizes, build = self._recipes[index]
        if not sizes:
            return self.nodes[index]
        columns = self._with_padded(widths)
        return build([size(columns) for size in sizes])

    def _with_padded(self, widths: Sequence[int]) -> list[int]:
        """The widths, and behind them those that are padded to whole blocks."""
        return [*widths, *(-(-widths[g] // self._block) * self._block for g in self._padded)]

    def _recipe(self, seen: list[Node]) -> tuple[list[_Size], Callable[[list[int]], Node]]:
        """The sizes of one node that change, and how to build it from them."""
        dense, sizes, places = seen[0], list[_Size](), list[tuple[str, int, int]]()
        for attribute in ("in_shapes", "out_shapes"):
            shapes = [getattr(node, attribute) for node in seen]
            if len({tuple(len(s) for s in found) for found in shapes}) > 1:
                raise CannotFollow(f"{dense.name} has tensors of different rank")
            for t, shape in enumerate(shapes[0]):
                for axis in range(len(shape)):
                    values = [found[t][axis] for found in shapes]
                    if len(set(values)) > 1:
                        sizes.append(self._find(values, seen, sizes, attribute == "out_shapes"))
                        places.append((attribute, t, axis))
        inner = [node.macs / node.out_elems if node.out_elems else 0.0 for node in seen]
        rule = rule_of(seen)
        fitted = _FIELDS if rule is None else [f for f in _FIELDS if f not in _FINER]
        for name, values in [("inner", inner), *((f, [float(getattr(n, f)) for n in seen]) for f in fitted)]:
            if len(set(values)) > 1:
                try:
                    size = self._find(values, seen, sizes)
                except CannotFollow:
                    if name not in _FINER:
                        raise
                    continue
                sizes.append(size)
                places.append((name, 0, 0))
        return sizes, lambda values: _build(dense, places, values, rule)

    def _find(self, values: Sequence[float], seen: Sequence[Node], own: Sequence[_Size] = (),
              joined: bool = False) -> _Size:
        key = tuple(float(v) for v in values)
        if key not in self._known:
            self._known[key] = self._search(np.array(key), seen, own, joined)
        return self._known[key]

    def _search(self, values: np.ndarray, seen: Sequence[Node], own: Sequence[_Size], joined: bool) -> _Size:
        if seen[0].op == "Concat" and joined:
            return self._joined(values, seen)
        for groups, product in self._products:
            if factor := _factor(values, product):
                return _Size(((factor, groups),))
        for key, size in self._known.items():  # a multiple of a sum
            if factor := _factor(values, np.array(key)):
                return size.times(factor)
        single = [*own, *(a.by(b) for a, b in itertools.combinations_with_replacement(own, 2))]
        columns = [self._column(size) for size in single]
        for size, column in zip(single, columns, strict=True):
            if factor := _factor(values, column):
                return size.times(factor)
        one = _Size(((1.0, ()),))
        found = _two(values, [*single, one], [*columns, np.ones(len(values))]) \
            or _two(values, [_Size(((1.0, groups),)) for groups, _ in self._products], [c for _, c in self._products])
        if found is None:
            raise CannotFollow(f"no group explains the sizes {values[:4].tolist()} in {seen[0].name}")
        return found

    def _column(self, size: _Size) -> np.ndarray:
        return np.array([float(size([int(w) for w in row])) for row in self._widths])

    def _joined(self, values: np.ndarray, seen: Sequence[Node]) -> _Size:
        """The joined axis of a concatenation: the sum of its parts and a constant."""
        axis = next(a for a in range(len(seen[0].out_shapes[0]))
                    if [n.out_shapes[0][a] for n in seen] == values.tolist())
        terms: list[tuple[float, tuple[int, ...]]] = []
        for t in range(len(seen[0].in_shapes)):
            part = [float(n.in_shapes[t][axis]) for n in seen]
            terms += [(part[0], ())] if len(set(part)) == 1 else self._find(part, seen).terms
        rest = values[0] - _Size(tuple(terms))([int(w) for w in self._widths[0]])
        size = _Size((*terms, (float(rest), ())))
        if any(size([int(w) for w in row]) != v for row, v in zip(self._widths, values, strict=True)):
            raise CannotFollow("a concatenation whose parts do not explain its size")
        return size

    def _all_products(self) -> list[tuple[tuple[int, ...], np.ndarray]]:
        count = self._widths.shape[1]
        singles = [((g,), self._widths[:, g]) for g in range(count)]
        pairs = [((g, h), self._widths[:, g] * self._widths[:, h]) for g in range(count) for h in range(g, count)]
        return [*singles, *pairs]


def _factor(values: np.ndarray, product: np.ndarray) -> float:
    """`values / product` where that is one number, else 0."""
    if not product.all():
        return 0.0
    ratio = values / product
    return float(ratio[0]) if ratio[0] and np.allclose(ratio, ratio[0], rtol=1e-9, atol=0) else 0.0


def _two(values: np.ndarray, sizes: Sequence[_Size], columns: Sequence[np.ndarray]) -> _Size | None:
    """`a·x + b·y` with whole a and b, the first that fits; None when nothing does."""
    table = np.stack(columns, 1)
    for i in range(len(sizes) - 1):
        x, rest = table[:, i], table[:, i + 1:]
        xx, xy, yy = x @ x, x @ rest, (rest ** 2).sum(0)
        xv, yv, scale = x @ values, values @ rest, xx * (rest ** 2).sum(0) - (x @ rest) ** 2
        with np.errstate(divide="ignore", invalid="ignore"):
            a, b = (xv * yy - yv * xy) / scale, (yv * xx - xv * xy) / scale
        a, b = np.nan_to_num(np.round(a)), np.nan_to_num(np.round(b))
        fits = np.flatnonzero((np.abs(x[:, None] * a + rest * b - values[:, None]).max(0) < 0.5) & (a != 0) & (b != 0))
        if len(fits):
            k = int(fits[0])
            return sizes[i].times(float(a[k])).plus(sizes[i + 1 + k].times(float(b[k])))
    return None


def _build(dense: Node, places: Sequence[tuple[str, int, int]], values: Sequence[int], rule: Rule | None) -> Node:
    shapes: Mapping[str, list[list[int]]] = {"in_shapes": [list(s) for s in dense.in_shapes],
                                             "out_shapes": [list(s) for s in dense.out_shapes]}
    inner = dense.macs / dense.out_elems if dense.out_elems else 0.0
    numbers = {name: getattr(dense, name) for name in _FIELDS}
    for (name, tensor, axis), value in zip(places, values, strict=True):
        if name in shapes:
            shapes[name][tensor][axis] = value
        elif name == "inner":
            inner = value
        else:
            numbers[name] = value
    ins, outs = (tuple(tuple(s) for s in shapes[k]) for k in ("in_shapes", "out_shapes"))
    out_elems = sum(math.prod(s) for s in outs) if dense.out_elems else 0
    node = replace(dense, in_shapes=ins, out_shapes=outs, out_elems=out_elems, macs=round(inner * out_elems),
                   in_elems=sum(math.prod(s) for s in ins) if dense.in_elems else 0, **numbers)
    return node if rule is None else rule(node)
