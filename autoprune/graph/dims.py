"""Dimension expressions: what the positions of a tensor axis are made of, and when two axes must agree.

Every axis of every tensor has an expression:

- `Dim(n)`: n positions, each one removable unit, unless frozen;
- `Product(outer, …, inner)`: row-major mixed radix, e.g. `heads × head_dim`, or `C × H × W` after a flatten;
- `Concat(a, b, …)`: laid end to end, e.g. `torch.cat`, or the four gates of an LSTM.

Operators *unify* expressions, as type inference does (Hindley-Milner): two axes that must keep the same positions end
up with the same `Dim`, so coupling is identity. Where two structures cannot be matched, both are frozen; freezing is
always sound, it only gives up an opportunity.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Concat", "Dim", "Expr", "Product", "dims_of", "freeze", "reshape", "resolve", "size_of", "split", "unify"]


class Dim:
    """`size` positions; `frozen` holds the reason once no position may be removed; `link` what it turned out to be."""

    __slots__ = ("frozen", "link", "size", "symbolic", "tag")

    def __init__(self, size: int, frozen: str | None = None, *, symbolic: bool = False):
        self.size = size
        self.frozen = frozen
        self.symbolic = symbolic
        self.link: Expr | None = None
        self.tag: str | None = None

    def __repr__(self) -> str:
        return f"{'!' if self.frozen else ''}{self.tag or 'd'}{self.size}"


class Product(tuple["Expr", ...]):
    """Factors from the outermost to the innermost."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "(" + " × ".join(map(repr, self)) + ")"


class Concat(tuple["Expr", ...]):
    """Parts in the order in which they lie."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "[" + ", ".join(map(repr, self)) + "]"


Expr = Dim | Product | Concat


def size_of(e: Expr) -> int:
    """Number of positions of `e` before pruning."""
    if isinstance(e, Dim):
        return e.size
    if isinstance(e, Product):
        return math.prod(size_of(x) for x in e)
    return sum(size_of(x) for x in e)


def resolve(e: Expr) -> Expr:
    """`e` with links followed, nested products and concats flattened and factors of one position dropped."""
    if isinstance(e, Dim):
        if e.link is None:
            return e
        target = resolve(e.link)
        e.link = target
        return target
    if isinstance(e, Product):
        factors: list[Expr] = []
        for x in e:
            x = resolve(x)
            if isinstance(x, Product):
                factors.extend(x)
            elif size_of(x) != 1:
                factors.append(x)
        if not factors:
            return Dim(1, "one position")
        return factors[0] if len(factors) == 1 else Product(factors)
    parts: list[Expr] = []
    for x in e:
        x = resolve(x)
        if isinstance(x, Concat):
            parts.extend(x)
        else:
            parts.append(x)
    return parts[0] if len(parts) == 1 else Concat(parts)


def dims_of(e: Expr) -> Iterator[Dim]:
    """The `Dim`s of `e` from left to right, repeated ones repeated."""
    e = resolve(e)
    if isinstance(e, Dim):
        yield e
    else:
        for x in e:
            yield from dims_of(x)


def freeze(e: Expr, why: str) -> None:
    """Forbid removing any position of `e`; the first reason given is the one that is kept."""
    for d in dims_of(e):
        if d.frozen is None:
            d.frozen = why


def _same(a: Expr, b: Expr) -> bool:
    if a is b:
        return True
    if type(a) is not type(b) or isinstance(a, Dim) or isinstance(b, Dim) or len(a) != len(b):
        return False
    return all(_same(x, y) for x, y in zip(a, b, strict=True))


def _substitute(d: Dim, e: Expr, why: str) -> None:
    if any(x is d for x in dims_of(e)):  # occurs check: a dimension cannot contain itself
        freeze(e, why)
        return
    if d.frozen is not None:
        freeze(e, d.frozen)
    if isinstance(e, Dim):
        e.tag = e.tag or d.tag
        e.symbolic = e.symbolic or d.symbolic
    d.link = e


def _give_up(a: Expr, b: Expr, why: str) -> None:
    freeze(a, why)
    freeze(b, why)


def unify(a: Expr, b: Expr, why: str) -> None:
    """Make `a` and `b` keep the same positions from now on; `why` becomes the reason of whatever has to be frozen."""
    a, b = resolve(a), resolve(b)
    if _same(a, b) or size_of(a) == 1 == size_of(b):
        return
    if size_of(a) != size_of(b):
        _give_up(a, b, why)
    elif isinstance(a, Dim) and isinstance(b, Dim):
        keep, drop = (b, a) if a.frozen is None or b.frozen is not None else (a, b)
        _substitute(drop, keep, why)
    elif isinstance(a, Dim):
        _substitute(a, b, why)
    elif isinstance(b, Dim):
        _substitute(b, a, why)
    elif isinstance(a, Product) and isinstance(b, Product):
        _unify_products(a, b, why)
    else:
        _unify_concats(a, b, why)


def _unify_products(a: Product, b: Product, why: str) -> None:
    left, right = list(a), list(b)
    while left and right:
        x, y = resolve(left.pop(0)), resolve(right.pop(0))
        if isinstance(x, Product) or isinstance(y, Product):
            left[:0] = x if isinstance(x, Product) else [x]
            right[:0] = y if isinstance(y, Product) else [y]
            continue
        if size_of(x) == size_of(y):
            unify(x, y, why)
            continue
        if size_of(x) < size_of(y):
            left, right, x, y = right, left, y, x
        factors = _factor(x, size_of(y), why)
        if factors is None:
            _give_up(a, b, why)
            return
        unify(factors[0], y, why)
        left.insert(0, factors[1])


def _unify_concats(a: Expr, b: Expr, why: str) -> None:
    """At least one side is a `Concat`; cut the other wherever this one has a seam."""
    left, right = [a], [b]
    while left and right:
        x, y = resolve(left.pop(0)), resolve(right.pop(0))
        if isinstance(x, Concat) and not _same(x, y):
            left[:0] = x
            right.insert(0, y)
        elif isinstance(y, Concat) and not _same(x, y):
            right[:0] = y
            left.insert(0, x)
        elif size_of(x) == size_of(y):
            unify(x, y, why)
        else:
            if size_of(x) < size_of(y):
                left, right, x, y = right, left, y, x
            halves = _cut(x, size_of(y))
            if halves is None:
                _give_up(a, b, why)
                return
            unify(halves[0], y, why)
            left.insert(0, halves[1])


def _cut(e: Expr, at: int) -> tuple[Expr, Expr] | None:
    """`e` as what lies before and from position `at`, or None when no seam can be made there."""
    e = resolve(e)
    if isinstance(e, Dim):
        if e.symbolic:
            return None
        first, second = Dim(at, e.frozen), Dim(e.size - at, e.frozen)
        e.link = Concat([first, second])
        return first, second
    if isinstance(e, Concat):
        before: list[Expr] = []
        for i, part in enumerate(e):
            n = size_of(part)
            if at == 0:
                return Concat(before), Concat(e[i:])
            if at < n:
                halves = _cut(part, at)
                if halves is None:
                    return None
                return Concat([*before, halves[0]]), Concat([halves[1], *e[i + 1 :]])
            before.append(part)
            at -= n
        return None
    outer, inner = e[0], Product(e[1:])
    step = size_of(inner)
    if at % step:
        return None
    if isinstance(outer, Dim) and outer.frozen is not None:  # copies of the inner part: no need to remember the seam
        n = at // step
        return Product([Dim(n, outer.frozen), inner]), Product([Dim(outer.size - n, outer.frozen), inner])
    halves = _cut(outer, at // step)
    return None if halves is None else (Product([halves[0], inner]), Product([halves[1], inner]))


def _factor(e: Expr, outer: int, why: str) -> tuple[Expr, Expr] | None:
    """`e` as `outer × rest`, or None when it has no such structure."""
    e = resolve(e)
    if outer == 0 or size_of(e) % outer:
        return None
    if isinstance(e, Dim):
        if e.symbolic:
            return None
        first, second = Dim(outer, e.frozen), Dim(e.size // outer, e.frozen)
        e.link = Product([first, second])
        return first, second
    if isinstance(e, Concat):  # equal parts become an axis of their own, so they have to keep the same positions
        period = _equal_parts(e, why)
        if period is None:
            return None
        count = size_of(e) // size_of(period)
        copies = Dim(count, why)
        if outer % count == 0:
            if outer == count:
                return copies, period
            deeper = _factor(period, outer // count, why)
            return None if deeper is None else (Product([copies, deeper[0]]), deeper[1])
        if count % outer == 0:
            return Dim(outer, why), Product([Dim(count // outer, why), period])
    return None


def _equal_parts(e: Concat, why: str) -> Expr | None:
    """Unify the parts of `e` when all have the same size, and return the one that stands for all."""
    if len({size_of(p) for p in e}) != 1:
        return None
    for part in e[1:]:
        unify(e[0], part, why)
    return resolve(e[0])


def split(e: Expr, sizes: Sequence[int], why: str) -> list[Expr]:
    """Cut `e` into consecutive pieces of the given sizes (their sum is the size of `e`)."""
    if len(sizes) == 1:
        return [e]
    parts: list[Expr] = [Dim(n) for n in sizes]
    unify(e, Concat(parts), why)
    return [resolve(p) for p in parts]


def reshape(axes: Sequence[Expr], out_sizes: Iterable[int], why: str) -> list[Expr]:
    """Types of the axes after a row-major reshape to `out_sizes`.

    The two shapes are cut into the smallest runs of axes with equal products; a run that does not fit freezes only
    its own axes.
    """
    sizes = list(out_sizes)
    if math.prod(size_of(a) for a in axes) != math.prod(sizes) or 0 in sizes:
        for a in axes:
            freeze(a, why)
        return [Dim(n, why) for n in sizes]
    out: list[Expr] = []
    i = j = 0
    while i < len(axes) or j < len(sizes):
        run_in, run_out = i, j
        have = want = 1
        while True:
            if have <= want and i < len(axes) and (have < want or want == 1):
                have *= size_of(axes[i])
                i += 1
            elif j < len(sizes):
                want *= sizes[j]
                j += 1
            else:
                have *= size_of(axes[i])
                i += 1
            if have == want:
                break
        out.extend(_reshape_run(axes[run_in:i], sizes[run_out:j], why))
    return out


def _reshape_run(axes: Sequence[Expr], sizes: Sequence[int], why: str) -> list[Expr]:
    if len(axes) == 1 == len(sizes):
        return [axes[0]]
    whole = resolve(Product(axes))
    factors: list[Expr] = list(whole) if isinstance(whole, Product) else [whole]
    out: list[Expr] = []
    for size in sizes:
        taken: list[Expr] = []
        need = size
        while need > 1:
            if not factors:
                break
            f = resolve(factors.pop(0))
            if isinstance(f, Product):
                factors[:0] = f
            elif need % size_of(f) == 0:
                taken.append(f)
                need //= size_of(f)
            else:
                pair = _factor(f, need, why)
                if pair is None:
                    break
                taken.append(pair[0])
                factors.insert(0, pair[1])
                need = 1
        if need > 1:
            for a in axes:
                freeze(a, why)
            return [Dim(n, why) for n in sizes]
        out.append(resolve(Product(taken)) if taken else Dim(1, "one position"))
    return out
