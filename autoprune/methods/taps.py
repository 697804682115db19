"""Taps on the activations of a graph: what a calibration pass sees of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from autoprune.graph.graph import Graph
from autoprune.graph.kept import unit_order
from autoprune.graph.module import PrunedModule, build
from autoprune.graph.reads import Read, batch_axis
from autoprune.methods.statistics import ACTIVATIONS, GRADIENTS, GRAM, Gram, UnitStatistics

if TYPE_CHECKING:
    from autoprune.graph.group import Group

__all__ = ["Taps"]

_BINS = 32  # of the histogram over samples (Luo & Wu 2017 do not say how many)


@dataclass
class _Units:
    """A group at one tap: which positions of the axis belong to which unit, and what was seen of them per sample."""

    order: torch.Tensor | None
    size: int
    pooled: list[torch.Tensor] = field(default_factory=list)  # [samples, units]
    taylor: torch.Tensor | None = None

    def fold(self, values: torch.Tensor) -> torch.Tensor:
        """`[…, positions]` → `[…, units, positions of the unit]`."""
        if self.order is not None:
            values = values.index_select(-1, self.order.to(values.device))
        return values.reshape(*values.shape[:-1], self.size, -1)


class _Tap:
    """Running sums over one axis of one activation; `samples` is the axis that samples lie along."""

    def __init__(self, axis: int, samples: int):
        self.axis, self.samples = axis, samples
        self.units: dict[str, _Units] = {}
        self.moments = self.products = self.gradients = False
        self.open = True
        self.count = 0
        self.total: Any = 0.0
        self.squares: Any = 0.0
        self.nonzero: Any = 0.0
        self.matrix: Any = 0.0

    def see(self, x: torch.Tensor) -> None:
        """Called by the graph with the activation just before it is first read."""
        if not x.is_floating_point():
            return
        rows = self._rows(x.detach().float())
        self.count += rows.shape[0] * rows.shape[2]
        pooled = rows.mean(2)
        self.total = self.total + pooled.double().sum(0) * rows.shape[2]
        if self.moments:
            self.squares = self.squares + torch.linalg.vector_norm(rows, dim=(0, 2)).double().square()
            self.nonzero = self.nonzero + torch.count_nonzero(rows, dim=(0, 2))
            for units in self.units.values():
                units.pooled.append(units.fold(pooled).mean(-1))
        if self.products:
            features = rows.transpose(0, 1).reshape(rows.shape[1], -1)
            self.matrix = self.matrix + (features @ features.T).double()
        if self.gradients and self.units and x.requires_grad:
            x.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: self._see_gradient(x.detach(), gradient))

    def _see_gradient(self, x: torch.Tensor, gradient: torch.Tensor) -> None:
        """The batch's loss is a mean, so that the sum over its samples is the mean of what each changes."""
        if not self.open:  # a second backward pass
            return
        per_sample = self._rows((x * gradient.detach()).float()).sum(2)
        for units in self.units.values():
            change = units.fold(per_sample).sum(-1).abs().double().sum(0)
            units.taylor = change if units.taylor is None else units.taylor + change

    def _rows(self, x: torch.Tensor) -> torch.Tensor:
        """`[samples, positions of the axis, all other positions]`."""
        if x.dim() == 1:
            return x.reshape(1, -1, 1)
        rows = x.movedim((self.samples, self.axis), (0, 1))
        return rows.reshape(*rows.shape[:2], -1)


class Taps:
    """A copy of a dense graph that shows its activations to the taps that the needs call for.

    `model` computes what the graph computes. `weights`: of which weights to gather Gram matrices; None for all.
    """

    def __init__(self, graph: Graph, needs: Collection[str], weights: Collection[str] | None = None):
        self._taps: dict[tuple[fx.Node, int], _Tap] = {}
        self._readers: dict[str, list[_Tap]] = {}
        self._products: dict[str, None] = {}
        by_dim = {g.dim: g for g in graph.groups.values()}
        axes: dict[str | None, set[int]] = {}
        for read in graph.reads:
            axes.setdefault(read.weight, set()).add(read.weight_axis)
        for read in graph.reads:
            if read.source is None or not {ACTIVATIONS, GRAM} & set(needs):
                continue
            alone = len(axes[read.weight]) == 1  # a tied weight that is read along both axes has no one set of features
            wide = read.weight is not None and alone and graph.captured.tensors[read.weight].shape[read.weight_axis] > 1
            products = GRAM in needs and wide and (weights is None or read.weight in weights)
            if ACTIVATIONS not in needs and not products:
                continue
            tap = self._tap(graph, read, [by_dim[d] for d in read.dims if d in by_dim])
            tap.moments |= ACTIVATIONS in needs
            tap.gradients |= {ACTIVATIONS, GRADIENTS} <= set(needs)
            tap.products |= products
            if read.weight is not None and alone:
                self._readers.setdefault(read.weight, []).append(tap)
            if products:
                self._products[str(read.weight)] = None
        self.model = self._tapped(graph)

    def _tap(self, graph: Graph, read: Read, groups: list[Group]) -> _Tap:
        assert read.source is not None
        key = read.source, read.axis
        if key not in self._taps:
            self._taps[key] = _Tap(read.axis, batch_axis(read.source, graph.typing, read.axis))
        for g in groups:
            e = graph.typing.of(read.source)[read.axis]
            self._taps[key].units.setdefault(g.name, _Units(unit_order(e, g.dim), g.size))
        return self._taps[key]

    def _tapped(self, graph: Graph) -> PrunedModule:
        """The graph with a call of each tap just before the first operator that reads what it watches."""
        dense = graph.dense()
        first: dict[fx.Node, list[tuple[fx.Node, _Tap]]] = {}
        waiting = dict(self._taps)
        for read in graph.reads:
            if read.source is not None and (tap := waiting.pop((read.source, read.axis), None)) is not None:
                first.setdefault(read.node, []).append((read.source, tap))
        out = fx.Graph()
        out._codegen = graph.captured.graph._codegen
        copies: dict[fx.Node, fx.Node] = {}
        for node in graph.captured.graph.nodes:
            for source, tap in first.get(node, ()):
                out.call_function(tap.see, (copies[source],))
            copies[node] = out.node_copy(node, copies.__getitem__)
        return build(out, dense.tensors(), dense.nested(), dense.plan, graph.name)

    def listen(self, on: bool) -> None:
        """Whether gradients that flow are seen."""
        for tap in self._taps.values():
            tap.open = on

    # -- what was seen --------------------------------------------------------------------------------------------

    def units(self, batches: int) -> dict[str, UnitStatistics]:
        """The statistics of every group that is read, means over its readers."""
        seen: dict[str, list[UnitStatistics]] = {}
        for tap in self._taps.values():
            for name, units in tap.units.items():
                if tap.moments and tap.count:
                    seen.setdefault(name, []).append(_unit_statistics(tap, units, batches))
        return {name: _mean(parts) for name, parts in seen.items()}

    def squares(self) -> dict[str, torch.Tensor]:
        """By reading weight, the mean square of each feature."""
        return {name: sum(t.squares for t in taps) / sum(t.count for t in taps)
                for name, taps in self._readers.items() if all(t.moments and t.count for t in taps)}

    def gram(self) -> dict[str, Gram]:
        """By reading weight, the second moments of its features."""
        out: dict[str, Gram] = {}
        for name in self._products:
            taps = self._readers[name]
            count = sum(t.count for t in taps)
            if count:
                out[name] = Gram(sum(t.matrix for t in taps) / count, sum(t.total for t in taps) / count, count)
        return out


def _unit_statistics(tap: _Tap, units: _Units, batches: int) -> UnitStatistics:
    mean = tap.total / tap.count
    variance = (tap.squares / tap.count - mean.square()).clamp(min=0.0)
    zeros = 1.0 - tap.nonzero.double() / tap.count
    taylor = None
    if tap.gradients:  # none arrives at an activation that the loss does not depend on
        taylor = torch.zeros(units.size).to(mean) if units.taylor is None else units.taylor / batches
    mean, variance, zeros = (units.fold(t).mean(-1) for t in (mean, variance, zeros))
    return UnitStatistics(mean, variance, zeros, _entropy(torch.cat(units.pooled)), taylor)


def _mean(parts: list[UnitStatistics]) -> UnitStatistics:
    def of(values: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(values).mean(0)

    taylor = [p.taylor for p in parts if p.taylor is not None]
    return UnitStatistics(of([p.mean for p in parts]), of([p.variance for p in parts]), of([p.zeros for p in parts]),
                          of([p.entropy for p in parts]), of(taylor) if taylor else None)


def _entropy(pooled: torch.Tensor) -> torch.Tensor:
    """`[samples, units]` → `[units]`: entropy of each unit's histogram between its own least and largest value."""
    low, high = pooled.amin(0), pooled.amax(0)
    width = torch.where(high > low, high - low, torch.ones_like(low))
    bins = ((pooled - low) / width * _BINS).long().clamp(max=_BINS - 1)
    counts = torch.zeros(_BINS, pooled.shape[1], dtype=torch.float64, device=pooled.device)
    counts.scatter_add_(0, bins, torch.ones_like(bins, dtype=torch.float64))
    entropy: torch.Tensor = torch.special.entr(counts / pooled.shape[0]).sum(0)
    return entropy
