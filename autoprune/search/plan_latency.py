"""Latency of a plan on a predicted device, without making the model: `PlanLatency(graph, device).latency(plan)`.

The optimised graph's sizes are functions of the groups' widths (`node_sizes.py`), its nodes' prices are kept in a table
(`latency_table.py`). Where channels are laid out in blocks, a group of one block that loses channels gets other nodes:
there is one table for each such state, made when it is first asked for.
"""

from __future__ import annotations

import difflib
import itertools
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from autoprune.devices.calibration.calibrated import without_overhead
from autoprune.devices.calibration.correction import Correction
from autoprune.devices.device import Device, load_device
from autoprune.devices.latency import Latency
from autoprune.devices.measurement import Measurement
from autoprune.devices.node import Node
from autoprune.devices.prices import nodes_for, predict, predict_table
from autoprune.errors import ConfigError
from autoprune.graph.graph import Graph
from autoprune.graph.onnx_maker import OnnxMaker
from autoprune.graph.plan import Cut, Plan
from autoprune.search.latency_table import LatencyTable
from autoprune.search.node_sizes import CannotFollow
from autoprune.search.variants import random_plan

__all__ = ["PlanLatency"]

_State = tuple[bool, ...]  # of each group that is one block of channels: whether some of them are gone
_PROBES, _MOST_PROBES, _DRAWS = 4, 10, 40
_LEVELS = (1.0, 0.8, 0.6, 0.4, 0.25, 0.12)
_TRUST = 0.02
_RENUMBERED = ("ReorderInput", "ReorderOutput")  # whose names are others in every session of the runtime
_CHECKS = (10_000, 10_001, 10_002, 10_003)  # seeds of plans that are no probes


class PlanLatency:
    """Prices plans of one traced model on one predicted device.

    Made once per model and device (a few exports by slicing). `exact` says that plans are priced by really making and
    optimising their ONNX (about half a second each), because sizes could not be followed; `why` says what stood in
    the way. maker: one that is at hand for the graph. Raises `ConfigError` for a device that is measured.
    """

    def __init__(self, graph: Graph, device: Device | str, *, threads: int | None = None, percentile: str = "p50",
                 maker: OnnxMaker | None = None):
        self.device = load_device(device)
        if self.device.is_measured:
            raise ConfigError(f"{self.device.name!r} is measured, so a plan's latency cannot be told without its model",
                              fix="autoprune devices calibrate, or a profile such as rpi4")
        self.graph, self.threads, self.percentile = graph, threads, percentile
        self._names = list(graph.groups)
        blocked = self.device.calibration is not None and self.device.calibration.layout
        self._align = self.device.alignment() if blocked else 1  # channels that fill no block have other kernels
        self._blocks = [i for i, g in enumerate(graph.groups.values()) if blocked and g.size * g.width == self._align]
        self._tables: dict[_State, LatencyTable | None] = {}
        self._branches: dict[tuple[str, _State], np.ndarray] = {}
        self._correction = Correction()
        self._maker = maker or OnnxMaker(graph)
        self._dense = self._predict(self._nodes(Plan()))
        self.why = self._maker.why
        self.exact = bool(self.why) or self._table(self._widths(Plan())) is None

    def latency(self, plan: Plan) -> Latency:
        """Latency of one inference of the pruned model, as the device's prediction of its ONNX would be.

        The interval is as wide as the dense model's, as a ratio, and the notes are that one's. Once `learn` was called,
        it is what the measured plans make of that.

        Which units stay does not matter, only how many. Raises `ConfigError` for a plan of another model or in int8.
        """
        self.graph.check(plan)
        plan.require_fp32()
        widths = self._widths(plan)
        table = None if self.exact or plan.dropped else self._table(widths)
        if table is not None and not len(self._correction):
            return self._dense.scaled(table.total_ms(widths) / self._dense.ms)
        if table is not None:
            return self._dense.scaled(self._correction.total_ms(table.nodes(widths)) / self._dense.ms)
        nodes = self._nodes(plan)
        found = self._predict(nodes)
        if not len(self._correction):
            return found
        return found.scaled(self._correction.total_ms(predict_table(nodes, self.device, self.threads)) / found.ms)

    def ms(self, plan: Plan) -> float:
        """The same in milliseconds; of a plan without some branches near it, and as quick as for one with all of them:
        what a branch saves is read off once, and goes with the prices of the nodes that go with it.
        """
        if not plan.dropped or self.exact:
            return self.latency(plan).ms
        whole_ms, widths = self.latency(replace(plan, dropped=())).ms, self._widths(plan)
        table = self._table(widths)
        if table is None:
            return self.latency(plan).ms
        worth = np.max([self._branch(name, self._state(widths)) for name in plan.dropped], axis=0)
        saved_ms = float(worth @ [ms for _, ms in table.nodes(widths)])
        return whole_ms * (1 - saved_ms / table.total_ms(widths))

    def _branch(self, name: str, state: _State) -> np.ndarray:
        """For each node of a state's table what is saved, per millisecond of its price, when the branch goes."""
        if (name, state) not in self._branches:
            plan, table = self._in_state(Plan(), state, 0), self._tables[state]
            assert table is not None  # who asks has one
            inside = self.graph.branches[name].tensors
            cuts = {n: c for n, c in plan.cuts.items() if any(t not in inside for t, _ in self.graph.groups[n].tensors)}
            left = self._nodes(Plan(cuts, dropped=(name,)))
            widths = self._widths(plan)
            saved_ms, nodes = table.total_ms(widths) - self._predict(left).ms, table.nodes(widths)
            gone = _missing([node for node, _ in nodes], left)
            self._branches[name, state] = gone * saved_ms / max(float(gone @ [ms for _, ms in nodes]), 1e-12)
        return self._branches[name, state]

    def learn(self, plan: Plan, measured: Measurement) -> None:
        """Learn from a plan that was measured, on this device or on one that this is a stand-in for.

        Each node that was timed gets a factor, and so does the whole (`Correction`). What the profiler itself took is
        spread evenly over the nodes.
        """
        widths = self._widths(plan)
        table = None if self.exact or plan.dropped else self._table(widths)
        nodes = (predict_table(self._nodes(plan), self.device, self.threads) if table is None
                 else table.nodes(widths))
        total_ms = measured.latency.ms
        extra_ms = max(0.0, sum(n.ms for n in measured.nodes) - total_ms) / max(1, len(measured.nodes))
        taken = without_overhead((n.ms for n in measured.nodes), extra_ms)
        timed = {n.name: ms for n, ms in zip(measured.nodes, taken, strict=True) if n.op not in _RENUMBERED}
        self._correction.learn(nodes, timed, total_ms)

    def prepare(self, choices: Mapping[str, Sequence[int]]) -> int:
        """Ask for the prices that plans of these widths (units kept) per group can need; how many are known afterwards.

        Raises `ConfigError` for a group that the model does not have, or a width that it cannot have.
        """
        for name, widths in choices.items():
            for width in widths:
                self.graph.check(Plan({name: Cut(width, "random")}))
        whole = self._widths(Plan())
        options = [choices.get(name, (size,)) for name, size in zip(self._names, whole, strict=True)]
        return sum(table.prepare(options, whole, partial(self._is_in, state))
                   for state, table in self._tables.items() if table is not None)

    # -- tables -----------------------------------------------------------------------------------------------------

    def _state(self, widths: Sequence[int]) -> _State:
        return tuple(widths[g] < self.graph.groups[self._names[g]].size for g in self._blocks)

    def _is_in(self, state: _State, widths: Sequence[int]) -> bool:
        return self._state(widths) == state

    def _table(self, widths: Sequence[int]) -> LatencyTable | None:
        """The table for graphs like the one of these widths; None when its sizes could not be followed."""
        state = self._state(widths)
        if state not in self._tables:
            try:
                self._tables[state] = self._follow(state)
            except CannotFollow as error:
                self._tables[state], self.why = None, str(error)
        return self._tables[state]

    def _follow(self, state: _State) -> LatencyTable:
        """Find out how sizes follow widths, and check it on plans that were not asked for that."""
        probes = self._probes(state)
        levels = [self._uniform(state, level) for level in _LEVELS]
        widths, nets = np.array([self._widths(plan) for plan in probes]), [self._nodes(plan) for plan in probes]
        table = LatencyTable(self.device, self.threads, widths, nets, [self._widths(plan) for plan in levels],
                             self._align)
        off = self._off(table, state, _CHECKS[0])
        if off > _TRUST:  # by how much is asked of more plans
            off = float(np.mean([off, *(self._off(table, state, seed) for seed in _CHECKS[1:])]))
        if off > _TRUST:
            raise CannotFollow(f"the table is {off:.1%} off the latencies of plans that were made")
        return table

    def _off(self, table: LatencyTable, state: _State, seed: int) -> float:
        plan = self._random(state, seed)
        return abs(table.total_ms(self._widths(plan)) / self._predict(self._nodes(plan)).ms - 1)

    def _probes(self, state: _State) -> list[Plan]:
        """The largest plan and random ones, of many draws those that tell most groups apart: two groups of one width in
        every probe would be taken for each other. More probes where it takes them.
        """
        best: tuple[int, list[Plan]] | None = None
        changing = [g for g in range(len(self._names)) if g not in self._blocks]
        for count, draw in itertools.product(range(_PROBES, _MOST_PROBES), range(_DRAWS)):
            others = [self._random(state, draw * count + i) for i in range(count)]
            plans = [self._in_state(Plan(), state, draw), *others]
            alike = _alike(np.array([self._widths(plan) for plan in plans])[:, changing])
            if best is None or alike < best[0]:
                best = alike, plans
            if not alike:
                return plans
        assert best is not None
        return best[1]

    def _uniform(self, state: _State, level: float) -> Plan:
        """That share of every group, also of those that are one block."""
        plan = Plan.uniform(self.graph, level, "random", self.device.alignment())
        return self._with_blocks(plan, state, lambda size: min(size - 1, max(1, round(level * size))))

    def _random(self, state: _State, seed: int) -> Plan:
        return self._in_state(random_plan(self.graph, seed, self._align), state, seed)

    def _in_state(self, plan: Plan, state: _State, seed: int) -> Plan:
        """The plan with all channels of each block, or with some of them."""
        rng = random.Random(seed)
        return self._with_blocks(plan, state, lambda size: rng.randint(1 + size // 4, size - 1))

    def _with_blocks(self, plan: Plan, state: _State, some: Callable[[int], int]) -> Plan:
        """The plan with all channels of each block, or with `some` of so many."""
        cuts = dict(plan.cuts)
        for g, cut in zip(self._blocks, state, strict=True):
            size = self.graph.groups[self._names[g]].size
            cuts[self._names[g]] = Cut(some(size) if cut else size, "random")
        return replace(plan, cuts=cuts)

    # -- plans ------------------------------------------------------------------------------------------------------

    def _predict(self, nodes: Sequence[Node]) -> Latency:
        return predict(nodes, self.device, self.percentile, self.threads)

    def _widths(self, plan: Plan) -> list[int]:
        return [plan.cuts[name].keep if name in plan.cuts else self.graph.groups[name].size for name in self._names]

    def _nodes(self, plan: Plan) -> list[Node]:
        """The optimised graph of a plan's model, by way of its ONNX."""
        return nodes_for(self._maker.of(plan), self.device)


def _alike(widths: np.ndarray) -> int:
    """How many columns of `widths` (plans, groups) never change or are multiples of another one."""
    shares = np.column_stack([widths / widths[:1], np.ones(len(widths))])
    return int(shares.shape[1] - np.unique(shares.round(9), axis=1).shape[1])


def _missing(nodes: Sequence[Node], left: Sequence[Node]) -> np.ndarray:
    """1 for each of `nodes` that is not among those left, 0 for the others. By their order and their names, without the
    numbers that the runtime gives to the nodes it makes itself: they are other ones in another graph.
    """
    before, after = ([re.sub(r"_token_\d+", "", node.name) for node in some] for some in (nodes, left))
    gone = np.ones(len(before))
    for block in difflib.SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks():
        gone[block.a:block.a + block.size] = 0.0
    return gone
