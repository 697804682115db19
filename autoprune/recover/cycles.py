"""Prune and train in cycles: how the widths of a plan are approached, and whether units can come back on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from autoprune.graph.kept import coordinates
from autoprune.graph.plan import Cut, Plan
from autoprune.recover.recovery import Recovery

if TYPE_CHECKING:
    from autoprune.graph.graph import Graph
    from autoprune.graph.module import PrunedModule
    from autoprune.methods.schedules import Schedule

__all__ = ["Work", "shrink", "silence"]


class Work(Protocol):
    """What the cycles ask of whoever runs them."""

    def choose(self, graph: Graph, plan: Plan, within: Plan | None) -> Plan:
        """`plan` resolved by the weights that `graph` has now, among the units that `within` keeps."""

    def cut(self, graph: Graph, plan: Plan) -> PrunedModule:
        """The model that a resolved plan leaves, with the weights that training starts from."""

    def recover(self, model: PrunedModule, steps: int, cycle: int) -> None:
        """Train `model` in place; `cycle` counts from 0."""


def shrink(graph: Graph, plan: Plan, recovery: Recovery, work: Work) -> PrunedModule:
    """The recovered model of `plan`: cut and trained `recovery.schedule.cuts` times, ranked anew each time. Masks are
    the last cut's.

    Hard: what is cut is gone, and cycles get cheaper. Later rankings look at the weights in their dense places with
    zeros where units are gone; data-dependent ones run that net, which differs from the pruned one where norms run over
    what is cut. Soft (He, Y. et al. 2018, arXiv:1808.06866): until the last cut the weights that compute the units are
    set to zero, all of the net is trained, and all units compete again; costs dense training steps.
    """
    schedule = recovery.schedule
    steps = _divided(recovery.tune.steps, schedule.cuts)
    source, within = graph, None
    for cycle in range(1, schedule.cuts):
        part = work.choose(source, _part(graph, plan, schedule, cycle), within)
        if recovery.soft:
            model = source.dense()
            silence(graph, model, part)
        else:
            model, within = work.cut(source, part), part
        work.recover(model, steps[cycle - 1], cycle - 1)
        source = graph.with_tensors(graph.spread(model))
    model = work.cut(source, work.choose(source, plan, within))
    work.recover(model, steps[-1], schedule.cuts - 1)
    return model


def silence(graph: Graph, model: PrunedModule, plan: Plan) -> None:
    """Set the weights that compute the units which `plan` (resolved) removes to zero, in place, in a dense model."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, cut in plan.cuts.items():
            gone = np.setdiff1d(np.arange(graph.groups[name].size), cut.kept or ())
            for s in graph.slices(name):
                if s.role == "out" and s.tensor in parameters:
                    units = coordinates(graph.axes(s.tensor)[s.axis], graph.groups[name].dim)
                    positions = torch.from_numpy(np.flatnonzero(np.isin(units, gone)))
                    weight = parameters[s.tensor]
                    weight.index_fill_(s.axis, positions.to(weight.device), 0.0)


def _part(graph: Graph, plan: Plan, schedule: Schedule, cycle: int) -> Plan:
    cuts = {n: Cut(schedule.count(cycle, c.keep, graph.groups[n].size), c.method) for n, c in plan.cuts.items()}
    return replace(plan, cuts=cuts, masks={})


def _divided(steps: int, parts: int) -> list[int]:
    """`steps` in equal parts; what is over goes to the last."""
    return [*[steps // parts] * (parts - 1), steps - steps // parts * (parts - 1)]
