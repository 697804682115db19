"""The contract of a criterion, and what it may look at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch

if TYPE_CHECKING:
    from autoprune.graph.graph import Graph, Slice

__all__ = ["Criterion", "GroupView", "Statistics"]


@dataclass(frozen=True)
class Statistics:
    """What one pass over calibration data left behind.

    gradients: by parameter name, the mean gradient of the loss, shaped like the parameter.
    samples: number of batches seen.
    """

    gradients: Mapping[str, torch.Tensor] = field(default_factory=dict)
    samples: int = 0


class GroupView:
    """What a criterion sees of one group.

    weights: slices of the parameters and buffers, each `[units, elements]`.
    gradients: slices of the gradients of the parameters in the same form; empty without statistics.
    seed: for criteria that draw numbers; the same for the same group and search seed.
    parameters: names of the tensors that are parameters; slopes: names of those that PReLU reads.
    """

    def __init__(self, graph: Graph, group: str, statistics: Statistics | None = None, seed: int = 0):
        self.name = group
        self.units = graph.groups[group].size
        self.seed = seed
        self.weights: list[Slice] = graph.slices(group)
        self.gradients: list[Slice] = graph.slices(group, statistics.gradients) if statistics else []
        self.parameters = graph.parameters
        self.slopes = graph.slopes

    def produced(self) -> list[Slice]:
        """Slices of weights that compute the units (the filters); all weights when nothing computes them."""
        weights = [s for s in self.weights if s.tensor in self.parameters and s.role != "vector"]
        return [s for s in weights if s.role == "out"] or weights or [
            s for s in self.weights if s.tensor in self.parameters]


class Criterion(ABC):
    """How important each unit of a group is.

    A criterion is created once per search without arguments and may be called for any group, any number of times, in
    any order and in any process; it keeps no state and changes nothing that it is given. Raising fails the candidate,
    never the search.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    needs_gradients: ClassVar[bool] = False

    @abstractmethod
    def score(self, group: GroupView) -> torch.Tensor:
        """Scores of shape `[group.units]`, higher is more important; any scale, all finite."""

    def applies(self, group: GroupView) -> bool:
        """Whether the criterion means anything for this group (norm scales need a norm)."""
        return True
