"""Choosing units one by one by what they do to a least-squares fit, without solving it anew each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Reading", "backward_order", "forward_order", "lasso_order"]

Array = NDArray[np.float64]

_LAMBDAS = 60  # points of the LASSO path, each 0.85 times the one before
_SWEEPS = 20  # of coordinate descent for each of them, at most
_TOLERANCE = 1e-3  # of the largest change that a sweep has to make to be followed by another


@dataclass(frozen=True)
class Reading:
    """How one weight reads the units of a group; all float64.

    gram: `[positions, positions]`, mean of x·xᵀ over the calibration data, damped, so that it can be inverted.
    weight: `[positions, elements]`. Both are ordered by unit: positions are the first unit's, the second's, … and at
    the end those that belong to no unit of the group (`rest` of them). variance: of the units' positions, `[positions −
    rest]`; only what ranks by it needs it.
    """

    gram: torch.Tensor
    weight: torch.Tensor
    rest: int = 0
    variance: torch.Tensor = field(default_factory=lambda: torch.zeros(0))


def forward_order(readings: Sequence[Reading], units: int) -> list[int]:
    """Units in the order in which greedy forward selection takes them: always the one that lowers the error of the
    readers' outputs most when their weights are refitted to what is taken (orthogonal least squares).

    With R the Gram matrix of what the taken units do not explain, unit j lowers the error by `‖R_j· W‖² / R_jj`; the
    errors of several readers are added, each divided by the energy of its output. Costs O(positions³) in all.
    """
    states = []
    for r in readings:
        whole, n = r.gram, len(r.gram) - r.rest
        gram = whole[:n, :n]
        if r.rest:  # what is not the group's is always there
            gram = gram - whole[:n, n:] @ torch.linalg.solve(whole[n:, n:], whole[n:, :n])
        seen = gram @ r.weight[:n]
        states.append(_Eliminator(gram, seen @ seen.T, units, _energy(r)))
    return _eliminate(states, units, largest=True)


def backward_order(readings: Sequence[Reading], units: int) -> list[int]:
    """Units in the reverse order of removal: always the one goes that raises the error least when the weights of all
    others make up for it, `w²/[H⁻¹]_jj` of Optimal Brain Surgeon with H the Gram matrix and w all that reads the unit.

    The errors of several readers are added as in `forward_order`. Costs O(positions³) in all.
    """
    states = []
    for r in readings:
        n = len(r.gram) - r.rest
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(r.gram))[:n, :n]
        states.append(_Eliminator(inverse, r.weight[:n] @ r.weight[:n].T, units, _energy(r)))
    return _eliminate(states, units, largest=False)[::-1]


def lasso_order(readings: Sequence[Reading], units: int) -> list[int]:
    """Units from the last to leave to the first, as the penalty λ grows in `min ½‖Y − Σ_j β_j Y_j‖² + λ‖β‖₁`.

    Y_j is what unit j adds to the readers' outputs, Y their sum. The problem needs only `Q_ij = Y_i·Y_j`, which is
    `Σ gram ∘ (W Wᵀ)` over the positions of both units. Solved by coordinate descent for 60 values of λ; among units
    that leave together the larger `|β_j|·‖Y_j‖` stays longer. Costs O(60 · units²).
    """
    q = np.zeros((units, units))
    for r in readings:
        n = len(r.gram) - r.rest
        both = r.gram[:n, :n] * (r.weight[:n] @ r.weight[:n].T)
        q += (both.reshape(units, n // units, units, n // units).sum((1, 3)) / _energy(r)).numpy()
    norms = np.sqrt(np.clip(np.diag(q), 1e-300, None))
    target = q.sum(1)
    beta, left = np.zeros(units), target.copy()
    entered = np.full(units, -1.0)
    penalty = float(np.abs(target).max())
    for step in range(_LAMBDAS):
        penalty *= 0.85
        _descend(q, beta, left, penalty)
        new = (beta != 0) & (entered < 0)
        share = np.abs(beta) * norms
        entered[new] = (_LAMBDAS - step) + share[new] / (1 + share.max())
    strength = np.where(entered < 0, np.abs(left) / (1 + np.abs(left).max()) - 1, entered)
    return [int(i) for i in np.argsort(-strength, kind="stable")]


def _descend(q: Array, beta: Array, left: Array, penalty: float) -> None:
    """Coordinate descent in place; `left` is `Q·1 − Q·β`."""
    diagonal = np.diag(q)
    for _ in range(_SWEEPS):
        largest = 0.0
        for j in np.flatnonzero(((beta != 0) | (np.abs(left) > penalty)) & (diagonal > 0)):
            pull = left[j] + diagonal[j] * beta[j]
            new = np.sign(pull) * max(abs(pull) - penalty, 0.0) / diagonal[j]
            change = new - beta[j]
            if change != 0.0:
                beta[j] = new
                left -= q[:, j] * change
                largest = max(largest, abs(change) * diagonal[j] ** 0.5)
        if largest <= _TOLERANCE * float(np.max(np.abs(beta) * np.sqrt(np.clip(diagonal, 0, None)), initial=1e-300)):
            return


def _energy(reading: Reading) -> float:
    """Mean square of the reader's output, over all elements."""
    return max(float((reading.weight * (reading.gram @ reading.weight)).sum()), 1e-300)


class _Eliminator:
    """Symmetric R and P while blocks J are eliminated: R ← R − c R_J·, P ← (1 − c e_J) P (1 − c e_J)ᵀ, c = R_·J R_JJ⁻¹.

    Both are kept as they were, with the factors L and Z of what has been taken off (R − L Lᵀ, P − L Zᵀ − Z Lᵀ), so that
    a step reads and never rewrites a matrix.
    """

    def __init__(self, r: torch.Tensor, p: torch.Tensor, units: int, energy: float):
        self.r, self.p, self.energy = r, p, energy
        self.width = len(r) // units
        self.low, self.z = torch.zeros_like(r), torch.zeros_like(r)
        self.done = 0
        blocks = r.view(units, self.width, units, self.width), p.view(units, self.width, units, self.width)
        self.r_blocks, self.p_blocks = (b.diagonal(dim1=0, dim2=2).permute(2, 0, 1).clone() for b in blocks)
        self._floor = 1e-12 * float(r.diagonal().mean().clamp_min(1e-300))

    def gains(self) -> torch.Tensor:
        """`tr(R_JJ⁻¹ P_JJ)` of every block, `[units]`."""
        if self.width == 1:
            gains = (self.p_blocks / self.r_blocks.clamp_min(self._floor)).reshape(-1)
        else:
            eye = self._floor * torch.eye(self.width, dtype=self.r.dtype)
            gains = torch.linalg.solve(self.r_blocks + eye, self.p_blocks).diagonal(dim1=1, dim2=2).sum(1)
        return gains / self.energy

    def take(self, unit: int) -> None:
        j = slice(unit * self.width, (unit + 1) * self.width)
        low, z = self.low[:, : self.done], self.z[:, : self.done]
        r = self.r[:, j] - low @ low[j].T
        p = self.p[:, j] - low @ z[j].T - z @ low[j].T
        pivot = r[j] + self._floor * torch.eye(self.width, dtype=r.dtype)
        root = torch.linalg.cholesky_ex((pivot + pivot.T) / 2)[0]
        new_low = torch.linalg.solve_triangular(root, r.T, upper=False).T  # r · root⁻ᵀ
        c = torch.linalg.solve_triangular(root.T, new_low.T, upper=True).T
        new_z = torch.linalg.solve_triangular(root, (p - 0.5 * c @ p[j]).T, upper=False).T
        self.low[:, self.done : self.done + self.width] = new_low
        self.z[:, self.done : self.done + self.width] = new_z
        self.done += self.width
        a, b = (x.reshape(-1, self.width, self.width) for x in (new_low, new_z))
        cross = a @ b.mT
        self.r_blocks -= a @ a.mT
        self.p_blocks -= cross + cross.mT


def _eliminate(states: list[_Eliminator], units: int, largest: bool) -> list[int]:
    order: list[int] = []
    taken = torch.zeros(units, dtype=torch.bool)
    for _ in range(units):
        gains = torch.stack([s.gains() for s in states]).sum(0)
        gains = gains.masked_fill(taken, -torch.inf if largest else torch.inf)
        unit = int(gains.argmax() if largest else gains.argmin())
        order.append(unit)
        taken[unit] = True
        for s in states:
            s.take(unit)
    return order
