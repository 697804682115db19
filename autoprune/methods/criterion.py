"""The contract of a criterion, and what it may look at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch

from autoprune.errors import ConfigError
from autoprune.graph.dims import dims_of
from autoprune.graph.reads import is_rectified
from autoprune.methods.statistics import (
    ACTIVATIONS,
    FISHER,
    GRADIENTS,
    GRAM,
    HESSIAN,
    Gram,
    Statistics,
    UnitStatistics,
)

if TYPE_CHECKING:
    from autoprune.graph.graph import Graph, Slice
    from autoprune.graph.readers import Reader

__all__ = ["Criterion", "GroupView", "Statistics"]


class GroupView:
    """What a criterion sees of one group.

    weights: slices of the parameters and buffers, each `[units, elements]`.
    seed: for criteria that draw numbers; the same for the same group and search seed.
    graph: what it belongs to.
    parameters: names of the tensors that are parameters; slopes: names of those that PReLU reads.
    is_read, is_rectified: whether any operator sums over the units, and whether a ReLU or the like makes zeros of what
    one of these reads.
    saves: what removing one unit saves, in any unit that is the same for all groups (milliseconds, or MACs).

    What comes from data (`gradients`, `fisher`, `hessian`, `activations`, `grams`) raises `ConfigError` when it was not
    gathered; `statistics.gathered` tells.
    """

    def __init__(self, graph: Graph, group: str, statistics: Statistics | None = None, seed: int = 0,
                 saves: float = 1.0):
        self.name = group
        self.units = graph.groups[group].size
        self.seed = seed
        self.saves = saves
        self.statistics = statistics or Statistics()
        self.weights: list[Slice] = graph.slices(group)
        self.parameters = graph.parameters
        self.slopes = graph.slopes
        sources = [r.source for r in graph.reads if graph.groups[group].dim in r.dims and r.source is not None]
        self.is_read = bool(sources)
        self.is_rectified = any(is_rectified(s) for s in sources)
        self.graph = graph

    @cached_property
    def readers(self) -> list[Reader]:
        """The weights that sum over the units (`Graph.readers`)."""
        dim, graph = self.graph.groups[self.name].dim, self.graph
        return [r for r in graph.readers.values() if dim in dims_of(graph.axes(r.weight)[r.axis])]

    @property
    def gradients(self) -> list[Slice]:
        """Slices of the mean gradients of the parameters, in the form of `weights` (so are the next two)."""
        return self._slices(GRADIENTS, self.statistics.gradients)

    @property
    def fisher(self) -> list[Slice]:
        return self._slices(FISHER, self.statistics.fisher)

    @property
    def hessian(self) -> list[Slice]:
        return self._slices(HESSIAN, self.statistics.hessian)

    @property
    def activations(self) -> UnitStatistics:
        """Of the units where they are read; `ConfigError` also for a group that no operator reads."""
        self._require(ACTIVATIONS)
        if self.name not in self.statistics.units:
            raise ConfigError(f"no operator reads the units of {self.name}, so they have no activations",
                              given=self.name, fix="rank this group by its weights, e.g. l1")
        return self.statistics.units[self.name]

    @property
    def grams(self) -> dict[str, Gram]:
        """Second moments of what the weights that read the group read, by the weight's name."""
        self._require(GRAM)
        return {s.tensor: self.statistics.gram[s.tensor] for s in self.weights
                if s.role == "in" and s.tensor in self.statistics.gram}

    def produced(self) -> list[Slice]:
        """Slices of weights that compute the units (the filters); all weights when nothing computes them."""
        weights = [s for s in self.weights if s.tensor in self.parameters and s.role != "vector"]
        return [s for s in weights if s.role == "out"] or weights or [
            s for s in self.weights if s.tensor in self.parameters]

    def reading(self) -> list[Slice]:
        """Slices of the weights that read the units (the next layers' columns); empty when there are none."""
        return [s for s in self.weights if s.tensor in self.parameters and s.role == "in"]

    def weights_of(self, others: list[Slice]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Pairs of (weight, other), each `[units, elements]`, of the parameters that make the unit: what computes it,
        bias and norm included, not what reads it.
        """
        weights = {(s.tensor, s.axis): s.values for s in self.weights}
        made = [o for o in others if o.role != "in"] or others
        return [(weights[o.tensor, o.axis], o.values) for o in made]

    def total(self, others: list[Slice], term: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """`Σ term(weight, other)` of each unit, `[units]`, over the parameters that make it (`weights_of`)."""
        return sum((term(w, o).sum(1) for w, o in self.weights_of(others)), torch.zeros(()))

    def _slices(self, need: str, tensors: Mapping[str, torch.Tensor]) -> list[Slice]:
        self._require(need)
        return self.graph.slices(self.name, tensors)

    def _require(self, need: str) -> None:
        if need not in self.statistics.gathered:
            raise ConfigError(f"ranking {self.name} needs {need}", given=f"group {self.name} without {need}",
                              fix=f"from autoprune.methods.collect import collect; graph.prune(plan, statistics="
                                  f"collect(graph, batches, loss, needs={{{need!r}}}))")


class Criterion(ABC):
    """How important each unit of a group is.

    A criterion is created once per search without arguments and may be called for any group, any number of times, in
    any order and in any process; it keeps no state and changes nothing that it is given. Raising fails the candidate,
    never the search.

    needs: what has to be gathered from data before (names in `autoprune.methods.statistics`); empty for weights only.
    comparable: whether scores of different groups are on one scale (an estimate of how the loss changes), so that a
    global ranking takes them as they are.
    refits: whether the layers that read what goes are refitted by least squares (`autoprune.methods.refit`).
    per_saving: whether scores are divided by what a unit saves (`GroupView.saves`).
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    comparable: ClassVar[bool] = False
    refits: ClassVar[bool] = False
    per_saving: ClassVar[bool] = False

    @abstractmethod
    def score(self, group: GroupView) -> torch.Tensor:
        """Scores of shape `[group.units]`, higher is more important; any scale, all finite."""

    def applies(self, group: GroupView) -> bool:
        """Whether the criterion means anything for this group (norm scales need a norm); asked before any data is
        looked at. A search leaves the criterion out of the choices of groups where it does not apply.
        """
        return ACTIVATIONS not in self.needs or group.is_read
