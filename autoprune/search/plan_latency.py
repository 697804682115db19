"""Latency of a plan on a predicted device, without making the model: `PlanLatency(graph, device).latency(plan)`.

The optimised graph's sizes are functions of the groups' widths (`node_sizes.py`). A node's price depends on the widths
of the groups that it touches (c_in × c_out); it is asked for once and kept, so staircases stay as they are. What all
nodes save together in a small net (calibrated kernels know its size) is a factor, read off a few uniform plans.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from autoprune.devices.calibration.correction import Correction
from autoprune.devices.device import Device, load_device
from autoprune.devices.latency import Latency
from autoprune.devices.measurement import Measurement
from autoprune.devices.node import Node
from autoprune.devices.prices import nodes_for, predict, predict_table, prices_within
from autoprune.errors import ConfigError
from autoprune.graph.graph import Graph
from autoprune.graph.plan import Cut, Plan
from autoprune.search.node_sizes import CannotFollow, NodeSizes
from autoprune.search.variants import OnnxMaker, random_plan

__all__ = ["PlanLatency"]

_Key = tuple[int, ...]  # a node's place and the widths of the groups that it touches
_PROBES, _DRAWS = 4, 40
_LEVELS = (1.0, 0.8, 0.6, 0.4, 0.25, 0.12)
_TRUST = 0.02


class PlanLatency:
    """Prices plans of one traced model on one predicted device.

    Made once per model and device (a few exports by slicing). `exact` says that plans are priced by really making and
    optimising their ONNX (about half a second each), because sizes could not be followed; `why` says what stood in
    the way. Raises `ConfigError` for a device that is measured.
    """

    def __init__(self, graph: Graph, device: Device | str, *, threads: int | None = None, percentile: str = "p50"):
        self.device = load_device(device) if isinstance(device, str) else device
        if self.device.is_measured:
            raise ConfigError(f"{self.device.name!r} is measured, so a plan's latency cannot be told without its model",
                              fix="autoprune devices calibrate, or a profile such as rpi4")
        self.graph, self.threads, self.percentile = graph, threads, percentile
        self._names = list(graph.groups)
        blocked = self.device.calibration is not None and self.device.calibration.layout
        self._align = self.device.alignment() if blocked else 1  # channels that fill no block have other kernels
        self._prices: dict[_Key, tuple[float, int]] = {}
        self._correction = Correction()
        self._maker = OnnxMaker(graph)
        self.exact, self.why = bool(self._maker.why), self._maker.why
        if not self.exact:
            try:
                self._follow()
            except CannotFollow as error:
                self.exact, self.why = True, str(error)

    def latency(self, plan: Plan) -> Latency:
        """Latency of one inference of the pruned model, as the device's prediction of its ONNX would be.

        The interval is as wide as the dense model's, as a ratio, and the notes are that one's. Once `learn` was called,
        it is what the measured plans make of that.

        Which units stay does not matter, only how many. Raises `ConfigError` for a plan of another model or in int8.
        """
        self.graph.check(plan)
        plan.require_fp32()
        if self.exact or plan.dropped:
            nodes = self._nodes(plan)
            found = self._predict(nodes)
            if not len(self._correction):
                return found
            table = predict_table(nodes, self.device, self.threads)
            return found.scaled(self._correction.total_ms(table) / found.ms)
        widths = self._widths(plan)
        if len(self._correction):
            return self._dense.scaled(self._correction.total_ms(self._table(widths)) / self._dense.ms)
        return self._dense.scaled(self._total_ms(widths) / self._dense.ms)

    def learn(self, plan: Plan, measured: Measurement) -> None:
        """Learn from a plan that was measured, on this device or on one that this is a stand-in for.

        Each node that was timed gets a factor, and so does the whole (`Correction`). What the profiler itself took is
        spread evenly over the nodes.
        """
        widths = self._widths(plan)
        table = (predict_table(self._nodes(plan), self.device, self.threads) if self.exact or plan.dropped
                 else self._table(widths))
        total_ms = measured.latency.ms
        extra_ms = max(0.0, sum(n.ms for n in measured.nodes) - total_ms) / max(1, len(measured.nodes))
        self._correction.learn(table, {n.name: max(n.ms - extra_ms, n.ms / 100) for n in measured.nodes}, total_ms)

    def prepare(self, choices: Mapping[str, Sequence[int]]) -> int:
        """Ask for the prices that plans of these widths (units kept) per group can need; how many are known afterwards.

        Raises `ConfigError` for a group that the model does not have, or a width that it cannot have.
        """
        for name, widths in choices.items():
            for width in widths:
                self.graph.check(Plan({name: Cut(width, "random")}))
        if not self.exact:
            dense, missing = self._widths(Plan()), dict[_Key, Node]()
            for place, groups in enumerate(self._sizes.groups):
                options = [choices.get(self._names[g], (dense[g],)) for g in groups]
                if len(groups) > 2:  # sums over many groups: asked for when a plan needs them
                    continue
                for combination in itertools.product(*options):
                    widths = list(dense)
                    for group, width in zip(groups, combination, strict=True):
                        widths[group] = width
                    missing[place, *combination] = self._sizes.node(place, widths)
            self._ask({key: node for key, node in missing.items() if key not in self._prices})
        return len(self._prices)

    # -- the table --------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Find out how sizes follow widths, and check it on one more plan."""
        probes = self._probes()
        found = [self._nodes(plan) for plan in probes]
        self._sizes = NodeSizes(np.array([self._widths(plan) for plan in probes]), found)
        self._net = found[0]
        self._dense = self._predict(self._net)
        self._offset_ms, self._levels = 0.0, (np.zeros(1), np.ones(1))
        if self.device.calibration is None:  # a call has a price of its own
            self._offset_ms = self._dense.ms - self._sum(self._widths(Plan()))[0]
        else:
            self._levels = self._read_levels()
        check = random_plan(self.graph, -1, self._align)
        there, here = self._predict(self._nodes(check)).ms, self.latency(check).ms
        if abs(here / there - 1) > _TRUST:
            raise CannotFollow(f"the table says {here:.3g} ms for a plan whose model says {there:.3g} ms")

    def _read_levels(self) -> tuple[np.ndarray, np.ndarray]:
        """Sizes (log of elements) of uniform plans' nets, and whole nets' prices over the sums of their nodes'."""
        points = []
        for level in _LEVELS:
            widths = self._widths(Plan.uniform(self.graph, level, align=self.device.alignment()))
            total_ms, volume = self._sum(widths)
            nodes = [self._sizes.node(place, widths) for place in range(len(self._net))]
            points.append((math.log(volume), self._predict(nodes).ms / total_ms))
        sizes, factors = np.array(sorted(points)).T
        return sizes, factors

    def _total_ms(self, widths: Sequence[int]) -> float:
        found = self._found(widths)
        return self._factor(found) * sum(ms for ms, _ in found) + self._offset_ms

    def _table(self, widths: Sequence[int]) -> list[tuple[Node, float]]:
        """The dense model's nodes with what they cost (ms) at these widths."""
        found = self._found(widths)
        factor = self._factor(found)
        return [(node, factor * ms) for node, (ms, _) in zip(self._net, found, strict=True)]

    def _factor(self, found: Sequence[tuple[float, int]]) -> float:
        return float(np.interp(math.log(1.0 + sum(volume for _, volume in found)), *self._levels))

    def _sum(self, widths: Sequence[int]) -> tuple[float, float]:
        """The nodes' prices in a net of the dense model's size (ms), and how many elements the net goes through."""
        found = self._found(widths)
        return sum(ms for ms, _ in found), 1.0 + sum(volume for _, volume in found)

    def _found(self, widths: Sequence[int]) -> list[tuple[float, int]]:
        """Price (ms) and volume (elements) of every node at these widths."""
        keys: list[_Key] = [(place, *(widths[g] for g in groups)) for place, groups in enumerate(self._sizes.groups)]
        missing = {key: self._sizes.node(key[0], widths) for key in keys if key not in self._prices}
        if missing:
            self._ask(missing)
        return [self._prices[key] for key in keys]

    def _ask(self, missing: Mapping[_Key, Node]) -> None:
        nodes = list(missing.values())
        priced = prices_within(nodes, self._net, self.device, self.threads)
        self._prices.update({key: (ms, node.weights + node.out_elems)
                             for key, node, ms in zip(missing, nodes, priced, strict=True)})

    # -- plans ------------------------------------------------------------------------------------------------------

    def _predict(self, nodes: Sequence[Node]) -> Latency:
        return predict(nodes, self.device, self.percentile, self.threads)

    def _probes(self) -> list[Plan]:
        """The dense plan and random ones, of many draws those that tell most groups apart: two groups of one width in
        every probe would be taken for each other. More probes, and unaligned ones, where it takes them.
        """
        best: tuple[int, list[Plan]] | None = None
        for align, count in itertools.product(dict.fromkeys((self._align, 1)), range(_PROBES, 2 * _PROBES)):
            for draw in range(_DRAWS):
                plans = [Plan(), *(random_plan(self.graph, draw * count + i, align) for i in range(count))]
                alike = _alike(np.array([self._widths(plan) for plan in plans]))
                if best is None or alike < best[0]:
                    best = alike, plans
                if not alike:
                    return plans
        assert best is not None
        return best[1]

    def _widths(self, plan: Plan) -> list[int]:
        return [plan.cuts[name].keep if name in plan.cuts else self.graph.groups[name].size for name in self._names]

    def _nodes(self, plan: Plan) -> list[Node]:
        """The optimised graph of a plan's model, by way of its ONNX."""
        return nodes_for(self._maker.onnx(plan), self.device)


def _alike(widths: np.ndarray) -> int:
    """How many columns of `widths` (plans, groups) never change or are multiples of another one."""
    shares = np.column_stack([widths / widths[:1], np.ones(len(widths))])
    return int(shares.shape[1] - np.unique(shares.round(9), axis=1).shape[1])
