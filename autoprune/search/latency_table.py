"""Prices of the nodes of one model at any widths, as long as its optimised graph keeps its nodes: `LatencyTable`.

A node's price depends on the widths of the groups that it touches (c_in × c_out); it is asked for once and kept, so
staircases stay as they are. What all nodes save together in a small net (calibrated kernels know its size) is a factor,
read off a few plans.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from autoprune.devices.device import Device
from autoprune.devices.node import Node
from autoprune.devices.prices import predict, prices_within
from autoprune.search.node_sizes import NodeSizes

__all__ = ["LatencyTable"]

_Key = tuple[int, ...]  # a node's place and the widths of the groups that it touches
_MOST_GROUPS = 2  # of a node whose prices are asked for beforehand; sums over many groups are when a plan needs them


class LatencyTable:
    """Made of a few probes: `widths` (plans, groups) are their kept counts, `nets` their optimised graphs; `levels` are
    widths from the largest net to the smallest; `block` is what channels may be padded to. Raises `CannotFollow` when
    the probes do not explain the sizes.
    """

    def __init__(self, device: Device, threads: int | None, widths: np.ndarray, nets: Sequence[Sequence[Node]],
                 levels: Sequence[Sequence[int]], block: int = 1):
        self._device, self._threads = device, threads
        self._sizes = NodeSizes(widths, nets, block)
        self._net = nets[0]
        self._prices: dict[_Key, tuple[float, int]] = {}
        self._offset_ms, self._levels = 0.0, (np.zeros(1), np.ones(1))
        if device.calibration is None:  # a call has a price of its own
            self._offset_ms = self._predicted_ms(nets[0]) - self._sum(widths[0].tolist())[0]
        else:
            self._levels = self._read_levels(levels)

    def total_ms(self, widths: Sequence[int]) -> float:
        """Milliseconds of one inference at these widths."""
        found = self._found(widths)
        return self._factor(found) * sum(ms for ms, _ in found) + self._offset_ms

    def nodes(self, widths: Sequence[int]) -> list[tuple[Node, float]]:
        """The first probe's nodes with what they cost (ms) at these widths; the price of a call is not among it."""
        found = self._found(widths)
        factor = self._factor(found)
        return [(node, factor * ms) for node, (ms, _) in zip(self._net, found, strict=True)]

    def prepare(self, options: Sequence[Sequence[int]], whole: Sequence[int], fits: Callable[[Sequence[int]], bool]
                ) -> int:
        """Ask for the prices of each node at `options` (widths of each group) that fit, the other groups at `whole`;
        how many prices are known afterwards.
        """
        missing = dict[_Key, Node]()
        for place, groups in enumerate(self._sizes.groups):
            if len(groups) > _MOST_GROUPS:
                continue
            for combination in itertools.product(*(options[g] for g in groups)):
                widths = list(whole)
                for group, width in zip(groups, combination, strict=True):
                    widths[group] = width
                key = place, *combination
                if key not in self._prices and fits(widths):
                    missing[key] = self._sizes.node(place, widths)
        self._ask(missing)
        return len(self._prices)

    def _read_levels(self, levels: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Sizes (log of elements) of these plans' nets, and whole nets' prices over the sums of their nodes'."""
        points = []
        for widths in levels:
            total_ms, volume = self._sum(widths)
            nodes = [self._sizes.node(place, widths) for place in range(len(self._net))]
            points.append((math.log(volume), self._predicted_ms(nodes) / total_ms))
        sizes, factors = np.array(sorted(points)).T
        return sizes, factors

    def _predicted_ms(self, nodes: Sequence[Node]) -> float:
        return predict(nodes, self._device, "p50", self._threads).ms

    def _factor(self, found: Sequence[tuple[float, int]]) -> float:
        return float(np.interp(math.log(1.0 + sum(volume for _, volume in found)), *self._levels))

    def _sum(self, widths: Sequence[int]) -> tuple[float, float]:
        """The nodes' prices in a net of the first probe's size (ms), and how many elements the net goes through."""
        found = self._found(widths)
        return sum(ms for ms, _ in found), 1.0 + sum(volume for _, volume in found)

    def _found(self, widths: Sequence[int]) -> list[tuple[float, int]]:
        """Price (ms) and volume (elements) of every node at these widths."""
        keys: list[_Key] = [(place, *(widths[g] for g in groups)) for place, groups in enumerate(self._sizes.groups)]
        self._ask({key: self._sizes.node(key[0], widths) for key in keys if key not in self._prices})
        return [self._prices[key] for key in keys]

    def _ask(self, missing: Mapping[_Key, Node]) -> None:
        if not missing:
            return
        nodes = list(missing.values())
        priced = prices_within(nodes, self._net, self._device, self._threads)
        self._prices.update({key: (ms, node.weights_read + node.out_elems)
                             for key, node, ms in zip(missing, nodes, priced, strict=True)})
