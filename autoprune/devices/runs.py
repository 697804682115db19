"""How many neighbouring elements an operator handles at once: the price of broadcasts, transposes and copies.

A sum of two equal shapes is one run; a sum of (1, 900, 40) and (40,) is 900 runs of 40, each with a set-up of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["broadcast_run", "copied_run", "transpose_kind"]

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


def copied_run(one: Shape, other: Shape) -> int:
    """Length of the runs that stay together when part of the bigger shape becomes the smaller (split, slice, pad)."""
    small, big = sorted((one, other), key=math.prod)
    run = 1
    for a, b in zip(reversed(small), reversed(big), strict=False):
        run *= a
        if a != b:
            break
    return max(run, 1)


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
