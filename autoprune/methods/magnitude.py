"""Criteria that look at the weights only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from autoprune.methods.criterion import Criterion, GroupView
from autoprune.methods.noise import noise

if TYPE_CHECKING:
    from autoprune.graph.graph import Slice

__all__ = ["L1", "L2", "GeometricMedian", "Lamp", "NormScale", "Outgoing", "Random"]


class Random(Criterion):
    """Uniform noise: the control that every other criterion has to beat."""

    name = "random"
    summary = "random units; the control"
    source = "control"

    def score(self, group: GroupView) -> torch.Tensor:
        return noise(group.seed, group.name, [group.units])


class L1(Criterion):
    """Sum of absolute weights over all filters that compute the unit, `Σ|w|` (Li et al. 2017, arXiv:1608.08710).

    In a coupled group every producer counts, each divided by its number of elements per unit so that a wide kernel
    does not drown a narrow one.
    """

    name = "l1"
    summary = "mean absolute weight of the unit's filters"
    source = "Li et al. 2017, arXiv:1608.08710"

    def score(self, group: GroupView) -> torch.Tensor:
        return sum((_norms(s.values, 1) / s.values.shape[1] for s in group.produced()), torch.zeros(()))


class L2(Criterion):
    """Root mean square of the weights of all filters that compute the unit, `‖w‖₂` (Li et al. 2017)."""

    name = "l2"
    summary = "root mean square weight of the unit's filters"
    source = "Li et al. 2017, arXiv:1608.08710"

    def score(self, group: GroupView) -> torch.Tensor:
        return _root_mean_square(group.produced())


class Outgoing(Criterion):
    """Root mean square of the weights that read the unit, `‖w_out‖₂`: a unit that nobody listens to can go (He et al.
    2014, "Reshaping deep neural network for fast decoding by node-pruning").

    In a coupled group every reader counts, each divided by its number of elements per unit. Applies where weights read
    the unit (the head dimension of queries and keys is read by their product only).
    """

    name = "outgoing"
    summary = "root mean square of the next layers' weights on the unit"
    source = "He et al. 2014, Reshaping deep neural network for fast decoding by node-pruning"

    def applies(self, group: GroupView) -> bool:
        return bool(group.reading())

    def score(self, group: GroupView) -> torch.Tensor:
        return _root_mean_square(group.reading())


class Lamp(Criterion):
    """Layer-adaptive magnitude, `‖w‖² / Σ ‖w'‖²` over the units with a norm of at least the unit's own (Lee et al.
    2021, arXiv:2010.07611), for whole units.

    Orders the units of one group as `l2` does; what it adds is a scale on which units of different groups compare, so
    use it with `ranked`. Costs `units²`.
    """

    name = "lamp"
    summary = "share of the unit among the larger ones; compares across layers"
    source = "Lee et al. 2021, arXiv:2010.07611"
    comparable = True

    def score(self, group: GroupView) -> torch.Tensor:
        square = L2().score(group).square()
        larger = (square[None, :] >= square[:, None]).to(square) @ square
        return torch.where(larger > 0, square / larger, torch.zeros_like(square))


class NormScale(Criterion):
    """Absolute scale `|γ|` of the batch or layer norms on the unit (Liu et al. 2017 "slimming", arXiv:1708.06519).

    Norms of a coupled group add up. Applies where there is a norm.
    """

    name = "norm_scale"
    summary = "absolute scale of the norm layers behind the unit"
    source = "Liu et al. 2017, arXiv:1708.06519"

    def applies(self, group: GroupView) -> bool:
        return bool(self._scales(group))

    def score(self, group: GroupView) -> torch.Tensor:
        return sum((s.abs().mean(1) for s in self._scales(group)), torch.zeros(()))

    @staticmethod
    def _scales(group: GroupView) -> list[torch.Tensor]:
        return [s.values for s in group.weights
                if s.role == "vector" and s.tensor.endswith("weight") and s.tensor in group.parameters
                and s.tensor not in group.slopes]


class GeometricMedian(Criterion):
    """Sum of distances to the other units, `Σ_j ‖w_i − w_j‖₂` (He et al. 2019 "FPGM", arXiv:1811.00250).

    A unit near the geometric median of its group can be replaced by the others. In double precision, and distances
    that are no more than its rounding are none. Costs `units² × elements`.
    """

    name = "geometric_median"
    summary = "distance to the other units: the replaceable ones go first"
    source = "He et al. 2019, arXiv:1811.00250"

    def score(self, group: GroupView) -> torch.Tensor:
        rows = torch.cat([s.values / max(s.values.shape[1], 1) ** 0.5 for s in group.produced()], dim=1).double()
        distances = torch.cdist(rows, rows)
        return distances.masked_fill(distances < 1e-6 * rows.norm(dim=1).amax(), 0.0).sum(1)


def _root_mean_square(slices: list[Slice]) -> torch.Tensor:
    squares = (_norms(s.values, 2).square() / s.values.shape[1] for s in slices)
    return sum(squares, torch.zeros(())).sqrt()


def _norms(rows: torch.Tensor, order: int) -> torch.Tensor:
    """`‖row‖` of each row, added up in (at least) single precision."""
    precise = torch.float32 if rows.dtype in (torch.float16, torch.bfloat16) else None
    out: torch.Tensor = torch.linalg.vector_norm(rows, order, dim=1, dtype=precise)
    return out
