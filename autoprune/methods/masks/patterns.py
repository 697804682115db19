"""Which weights go together: single ones, N of M, blocks, kernels, rows."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

import torch

from autoprune.errors import ConfigError
from autoprune.methods.masks.weights import Maskable

__all__ = ["PATTERNS", "Block", "Kernel", "NofM", "Pattern", "Row", "Single", "check_pattern", "parse_pattern",
           "skipping"]

PATTERNS = "weight, N:M (2:4), block:RxC (block:4x4), kernel, row"


class Pattern(ABC):
    """Cells of a weight that go or stay as one. text: how it is written on the command line."""

    text: str
    multiple: int = 1
    """Widths have to be a multiple of this."""

    @abstractmethod
    def problem(self, weight: Maskable) -> str | None:
        """Why the pattern does not fit a weight; None when it does."""

    @abstractmethod
    def pool(self, scores: torch.Tensor, weight: Maskable) -> torch.Tensor:
        """Scores shaped like the weight → the mean score of each cell, in any shape."""

    @abstractmethod
    def spread(self, cells: torch.Tensor, weight: Maskable) -> torch.Tensor:
        """One value per cell, in the shape of `pool` → the same, shaped like the weight."""


class Single(Pattern):
    """Every weight for itself (Han et al. 2015, arXiv:1506.02626)."""

    text = "weight"

    def problem(self, weight: Maskable) -> str | None:
        return None

    def pool(self, scores: torch.Tensor, weight: Maskable) -> torch.Tensor:
        return scores

    def spread(self, cells: torch.Tensor, weight: Maskable) -> torch.Tensor:
        return cells


class NofM(Single):
    """At most N of every M weights that follow each other along the input axis (Zhou et al. 2021, arXiv:2102.04010).

    The share that stays is N/M; which weights of an M compete is fixed, so there is no scope.
    """

    def __init__(self, n: int, m: int):
        self.n, self.m, self.multiple, self.text = n, m, m, f"{n}:{m}"

    def problem(self, weight: Maskable) -> str | None:
        if weight.input_axis is None:
            return "is an embedding, and has no inputs to sum over"
        return f"{weight.inputs} inputs are no multiple of {self.m}" if weight.inputs % self.m else None

    def mask(self, scores: torch.Tensor, weight: Maskable, n: int) -> torch.Tensor:
        """Boolean, shaped like the weight: the `n` best of each M; ties go to the first."""
        assert weight.input_axis is not None
        last = scores.movedim(weight.input_axis, -1)
        rows = last.reshape(-1, self.m)
        best = torch.argsort(rows, dim=1, descending=True, stable=True)[:, :n]
        mask = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, best, True)
        return mask.reshape(last.shape).movedim(-1, weight.input_axis)


class Block(Pattern):
    """R outputs × C inputs; of a convolution at each position of the kernel (Gray et al. 2017, blocksparse)."""

    def __init__(self, rows: int, columns: int):
        self.rows, self.columns, self.text = rows, columns, f"block:{rows}x{columns}"
        self.multiple = math.lcm(rows, columns)

    def problem(self, weight: Maskable) -> str | None:
        if len(weight.shape) - weight.spatial != 2:
            return "has more than two axes that are no kernel"
        out, into = (weight.shape[a] for a in _matrix_axes(weight))
        misfit = out % self.rows or into % self.columns
        return f"{out} × {into} is no multiple of {self.rows} × {self.columns}" if misfit else None

    def pool(self, scores: torch.Tensor, weight: Maskable) -> torch.Tensor:
        moved = scores.movedim(_matrix_axes(weight), (-2, -1))
        rows, columns = moved.shape[-2] // self.rows, moved.shape[-1] // self.columns
        return moved.reshape(*moved.shape[:-2], rows, self.rows, columns, self.columns).mean((-3, -1))

    def spread(self, cells: torch.Tensor, weight: Maskable) -> torch.Tensor:
        moved = cells.repeat_interleave(self.rows, -2).repeat_interleave(self.columns, -1)
        return moved.movedim((-2, -1), _matrix_axes(weight))


class Kernel(Pattern):
    """The whole kernel between one input and one output channel (Mao et al. 2017, arXiv:1705.08922)."""

    text = "kernel"

    def problem(self, weight: Maskable) -> str | None:
        return None if weight.spatial else "is no convolution"

    def pool(self, scores: torch.Tensor, weight: Maskable) -> torch.Tensor:
        return scores.flatten(2).mean(2)

    def spread(self, cells: torch.Tensor, weight: Maskable) -> torch.Tensor:
        return cells.reshape(*cells.shape, *[1] * weight.spatial).expand(weight.shape)


class Row(Pattern):
    """All weights at one index of the first axis: the vectors of an embedding, filters, neurons."""

    text = "row"

    def problem(self, weight: Maskable) -> str | None:
        return None

    def pool(self, scores: torch.Tensor, weight: Maskable) -> torch.Tensor:
        return scores.flatten(1).mean(1)

    def spread(self, cells: torch.Tensor, weight: Maskable) -> torch.Tensor:
        return cells.reshape(-1, *[1] * (len(weight.shape) - 1)).expand(weight.shape)


def parse_pattern(text: str) -> Pattern:
    """The pattern that `text` names; `ConfigError` otherwise."""
    for whole in (Single(), Kernel(), Row()):
        if text == whole.text:
            return whole
    numbers = [int(n) for n in re.findall(r"\d+", text)]
    if re.fullmatch(r"\d+:\d+", text) and 1 <= numbers[0] < numbers[1]:
        return NofM(*numbers)
    if re.fullmatch(r"block:\d+x\d+", text) and min(numbers) >= 1:
        return Block(*numbers)
    raise ConfigError("unknown pattern of masks", given=repr(text), allowed=f"{PATTERNS}; 1 ≤ N < M",
                      fix="--pattern weight")


def check_pattern(pattern: Pattern, weights: Mapping[str, Maskable]) -> None:
    """One `ConfigError` that lists the weights that the pattern does not fit."""
    problems = {n: p for n, w in weights.items() if (p := pattern.problem(w)) is not None}
    if problems:
        listed = "".join(f"\n  - {n}: {p}" for n, p in problems.items())
        raise ConfigError(f"the pattern {pattern.text} does not fit {len(problems)} of {len(weights)} weights:{listed}",
                          allowed="another pattern, or leave these weights dense",
                          fix=skipping(problems))


def skipping(weights: Iterable[str]) -> str:
    """What leaves weights dense, on the command line and in a space file."""
    first = next(iter(weights))
    return (f'--skip-unfit for all of them, or --skip {first} …; in a space file [masks] skip_unfit = true, or '
            f'skip = ["{first}", …]')


def _matrix_axes(weight: Maskable) -> tuple[int, int]:
    """The axes of outputs and of inputs; an embedding's rows are its outputs."""
    into = 1 if weight.input_axis is None else weight.input_axis
    return 1 - into, into
