"""New weights for the layers that read what a plan removes: the units that stay stand in for those that go."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import torch

from autoprune.errors import ConfigError
from autoprune.graph.kept import coordinates
from autoprune.methods.selection import Reading
from autoprune.methods.statistics import Gram, Statistics

if TYPE_CHECKING:
    from autoprune.graph.graph import Graph
    from autoprune.graph.plan import Plan
    from autoprune.graph.readers import Reader
    from autoprune.methods.criterion import GroupView

__all__ = ["DAMPING", "damped", "readings", "refit", "refitted"]

DAMPING = 1e-4
"""Added to the diagonal of a Gram matrix, as a multiple of its mean: keeps the fit from leaning on noise."""


def refit(graph: Graph, plan: Plan, statistics: Statistics, groups: Collection[str] | None = None,
          damping: float = DAMPING) -> dict[str, torch.Tensor]:
    """New values of the weights and biases that read units which `plan` (resolved) removes, in their dense shapes.

    groups: only the units that these lose are made up for; None for all that the plan cuts. With K the kept and D the
    dropped positions of a reader's input, A is the ridge solution of X_D ≈ X_K·A and the new weight is W_K + A·W_D;
    where the reader has a bias, means are taken off first and added to the bias. For a convolution A works on channels:
    a 1×1 convolution, folded in (Polyak & Wolf 2015, doi:10.1109/ACCESS.2015.2494536). Every reader is fitted to its
    input in the dense net. Solved in double precision; units that are always zero do no harm. Costs O(positions³) for
    each reader. Raises `ConfigError` when the statistics hold no Gram matrix of a reader that loses units.
    """
    kept = graph.kept(plan)
    dims = {graph.groups[n].dim for n in (plan.cuts if groups is None else groups)}
    out: dict[str, torch.Tensor] = {}
    for name, reader in graph.readers.items():
        axis = graph.axes(name)[reader.axis]
        here = kept.only(dims)
        if not here.touches(axis):
            continue
        stay = torch.from_numpy(kept.indices(axis))
        gone = torch.from_numpy(np.setdiff1d(np.arange(graph.captured.tensors[name].shape[reader.axis]),
                                             here.indices(axis)))
        out.update(_refitted(graph, reader, gram_of(statistics, name), stay, gone, damping))
    return out


def refitted(graph: Graph, plan: Plan, statistics: Statistics | None, *, all_groups: bool = False) -> Graph:
    """The graph with readers refitted: those of the groups whose method does that, or of all that `plan` cuts."""
    from autoprune.methods.registry import refitted_groups

    groups = tuple(plan.cuts) if all_groups else refitted_groups(plan)
    return graph.with_tensors(refit(graph, plan, statistics or Statistics(), groups)) if groups else graph


def readings(group: GroupView, damping: float = DAMPING) -> list[Reading]:
    """How each of the group's readers reads it, by the readers' second moments (centred where there is a bias)."""
    grams, out = group.grams, []
    for reader in group.readers:
        gram = grams[reader.weight]
        moments = gram.matrix.double()
        centred = moments - torch.outer(gram.mean.double(), gram.mean.double())
        units = coordinates(group.graph.axes(reader.weight)[reader.axis], group.graph.groups[group.name].dim)
        rest = int((units < 0).sum())
        order = torch.from_numpy(np.roll(np.argsort(units, kind="stable"), -rest)).to(moments.device)
        rows = group.graph.captured.tensors[reader.weight].detach().double().movedim(reader.axis, 0)
        matrix = damped(centred if reader.bias else moments, damping)
        out.append(Reading(matrix[order][:, order], rows[order].reshape(len(order), -1), rest,
                           centred.diagonal()[order][: len(order) - rest].clamp_min(0)))
    return out


def gram_of(statistics: Statistics, weight: str) -> Gram:
    """The second moments of what `weight` reads, or a `ConfigError` that says how to gather them."""
    if weight not in statistics.gram:
        raise ConfigError("a least-squares fit needs data", given=f"no second moments of what {weight} reads",
                          fix="from autoprune.methods.collect import collect; graph.prune(plan, statistics=collect("
                              'graph, batches, loss, needs={"gram"}))')
    return statistics.gram[weight]


def damped(gram: torch.Tensor, damping: float) -> torch.Tensor:
    """`gram` + damping · mean diagonal, and a little more where that is not positive definite in double precision."""
    gram = gram.double()
    scale = float(gram.diagonal().mean())
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    if scale <= 0:
        return eye  # nothing ever comes in: any fit is as good
    while True:
        out = gram + damping * scale * eye
        if int(torch.linalg.cholesky_ex(out)[1]) == 0:
            return out
        damping = max(10 * damping, 1e-12)


def _refitted(graph: Graph, reader: Reader, gram: Gram, stay: torch.Tensor, gone: torch.Tensor,
              damping: float) -> dict[str, torch.Tensor]:
    weight = graph.captured.tensors[reader.weight].detach()
    second, mean = (t.to(weight.device, torch.float64) for t in (gram.matrix, gram.mean))
    stay, gone = stay.to(weight.device), gone.to(weight.device)
    if reader.bias is not None:
        second = second - torch.outer(mean, mean)
    fit = torch.linalg.solve(damped(second[stay][:, stay], damping), second[stay][:, gone])  # [kept, dropped]
    rows = weight.double().movedim(reader.axis, 0)
    new = rows.clone()
    new[stay] = rows[stay] + torch.tensordot(fit, rows[gone], 1)
    out = {reader.weight: new.movedim(0, reader.axis).to(weight.dtype)}
    if reader.bias is not None:
        bias = graph.captured.tensors[reader.bias].detach()
        shift = torch.tensordot(mean[gone] - mean[stay] @ fit, rows[gone], 1)  # the weight's other axes
        summed = [i for i in range(shift.dim()) if i != (reader.out if reader.out < reader.axis else reader.out - 1)]
        out[reader.bias] = (bias.double() + (shift.sum(summed) if summed else shift)).to(bias.dtype)
    return out
