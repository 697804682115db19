"""Learned sparsity: penalties under which units fade while the dense net trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import fx

from autoprune.graph.kept import unit_order
from autoprune.graph.typing import Call
from autoprune.recover.recovery import Penalty

if TYPE_CHECKING:
    from autoprune.graph.graph import Graph
    from autoprune.graph.module import PrunedModule

__all__ = ["penalty_of"]


def penalty_of(graph: Graph, model: PrunedModule, settings: Penalty) -> Callable[[], torch.Tensor]:
    """The weighted penalties as a function of the parameters of `model` (`graph.dense()`), a scalar.

    Norm scales are those that batch, layer or group norms multiply units with; a net without them has none to pay for.
    Frozen parameters count nothing. Costs one pass over the parameters.
    """
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    read_by_norms = _scales(graph.captured.graph)
    scales = [p for n, p in parameters.items() if n in read_by_norms]
    groups = [(g.size, [(parameters[n], axis, unit_order(graph.axes(n)[axis], g.dim)) for n, axis in g.tensors
                        if n in parameters]) for g in graph.groups.values()]

    def penalty() -> torch.Tensor:
        total = torch.zeros((), device=next(model.parameters()).device)
        if settings.l1_norms:
            total = total + settings.l1_norms * sum((s.abs().sum() for s in scales), total)
        if settings.group_lasso:
            total = total + settings.group_lasso * sum(
                (_group_norms(parts, units) for units, parts in groups if parts), 0 * total)
        return total

    return penalty


def _scales(graph: fx.Graph) -> set[str]:
    """Names of the tensors that norms multiply with."""
    norms = [Call(n) for n in graph.nodes if isinstance(n.target, torch._ops.OpOverload)
             and "norm" in n.target._schema.name]
    sources = [call.get("weight") for call in norms]
    return {str(s.target) for s in sources if isinstance(s, fx.Node) and s.op == "get_attr"}


def _group_norms(parts: Sequence[tuple[torch.Tensor, int, torch.Tensor | None]], units: int) -> torch.Tensor:
    """`√elements · Σ ‖unit‖₂` over all slices of the units of one group."""
    squares, elements = torch.zeros(units, device=parts[0][0].device), 0
    for parameter, axis, order in parts:
        rows = parameter.movedim(axis, 0)
        rows = (rows if order is None else rows.index_select(0, order.to(rows.device))).reshape(units, -1)
        squares = squares + rows.float().square().sum(1)
        elements += rows.shape[1]
    norms: torch.Tensor = (squares + 1e-12).sqrt()  # the gradient of ‖0‖ would be NaN
    return math.sqrt(elements) * norms.sum()
