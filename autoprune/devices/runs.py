"""How many neighbouring elements an operator handles at once: the price of broadcasts, transposes and copies.

A sum of two equal shapes is one run; a sum of (1, 900, 40) and (40,) is 900 runs of 40, each with a set-up of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

__all__ = ["broadcast_kind", "broadcast_run", "copied_run", "reduce_kind", "transpose_kind"]

Shape = tuple[int, ...]


def broadcast_run(shapes: Sequence[Shape], out: Shape) -> int:
    """Length of the runs in which each operand either goes along with `out` or stands still; all of `out` at most."""
    run = 1
    padded = [(1,) * (len(out) - len(s)) + s for s in shapes]
    modes: tuple[bool, ...] | None = None
    for axis in reversed(range(len(out))):
        if out[axis] == 1:
            continue
        here = tuple(s[axis] == out[axis] for s in padded)
        if modes is not None and here != modes:
            break
        modes, run = here, run * out[axis]
    return run


def broadcast_kind(cls: str, shapes: Sequence[Shape], out: Shape) -> tuple[str, int]:
    """Price class ("broadcast" instead of "add" where there is more than one run) and run."""
    run = broadcast_run(shapes, out)
    return ("broadcast" if cls == "add" and run < math.prod(out) else cls), run


def copied_run(parts: Iterable[Shape], whole: Shape) -> int:
    """Length of the shortest runs that stay together when a tensor is taken apart into parts, or put together from
    them (concatenation, split, slice, pad); 0 for scalars.
    """
    return min((_run_between(part, whole) for part in parts if part and whole), default=0)


def _run_between(one: Shape, other: Shape) -> int:
    """The same for one of the two shapes that becomes a part of the other."""
    small, big = sorted((one, other), key=math.prod)
    run = 1
    for a, b in zip(reversed(small), reversed(big), strict=False):
        run *= a
        if a != b:
            break
    return max(run, 1)


def reduce_kind(read: Shape, out: Shape) -> str:
    """Price class of a reduction: "reduce_middle" where the last axis stays, so that sums are not of neighbours."""
    return "reduce_middle" if read and out and read[-1] != 1 and out[-1] == read[-1] else "reduce"


def transpose_kind(shape: Shape, perm: Sequence[int]) -> tuple[str, int]:
    """Price class and run of a transpose.

    Axes of length 1 do not count and axes that stay neighbours are one. Then: nothing moves ("copy"), the last axis
    stays ("transpose_rows", runs of its length; "transpose_pairs" up to 2), two last axes change places ("transpose"),
    or anything else ("transpose_any", element by element).
    """
    moved = [axis for axis in perm if shape[axis] != 1]
    groups: list[list[int]] = []
    for axis in moved:
        before = [a for a in range(axis) if shape[a] != 1]
        if groups and before and before[-1] == groups[-1][-1]:
            groups[-1].append(axis)
        else:
            groups.append([axis])
    order = sorted(range(len(groups)), key=lambda g: groups[g][0])
    sizes = [math.prod(shape[a] for a in group) for group in groups]
    if order == list(range(len(groups))):
        return "copy", math.prod(shape)
    if order[-1] == len(groups) - 1:
        return ("transpose_rows" if sizes[-1] > 2 else "transpose_pairs"), sizes[-1]  # a pair moves as one word
    if order == [*range(len(groups) - 2), len(groups) - 1, len(groups) - 2]:
        return "transpose", 1
    return "transpose_any", 1
