"""A synthetic net to prune: groups in residual stages, damage that is nearly a sum, latency that is a sum over layers.

Ten groups make a stage: the first is the stage's residual width, the others are the inner widths of its blocks; a layer
reads one group and writes another, so its latency depends on both. What is known in advance is what the product knows:
a scan of single groups (wrong by `proxy`) and the latency of any plan.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoprune.graph.plan import Plan
from autoprune.search.knapsack.curves import Curve
from autoprune.search.space import Choices

__all__ = ["METHODS", "SETTINGS", "Landscape", "Setting", "hypervolume"]

METHODS = ("l1", "taylor", "random")
_LEVELS, _STAGE = 16, 10
_DENSE_MS = 30.0
_QUALITY = 0.8  # metric of the dense net
REFERENCE = (_DENSE_MS, 0.5 * _QUALITY)  # milliseconds and metric: what hypervolume is counted from, fixed beforehand
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """proxy: standard deviation of the log of a group's damage in the scan over its true damage, None for a scan that
    says (nearly) nothing; coupling: damage of pairs of groups beside that of groups; noise: of the metric.
    """

    groups: int = 50
    proxy: float | None = 0.4
    coupling: float = 0.15
    noise: float = 0.003


SETTINGS = {
    "default": Setting(),
    "bad proxy": Setting(proxy=None),
    "strong interactions": Setting(coupling=1.5),
    "few groups": Setting(groups=10),
    "many groups": Setting(groups=100),
}


class Landscape:
    """One net of a setting, by its seed. `levels` are indices into widths, [groups]; `methods` indices into METHODS."""

    def __init__(self, setting: Setting, seed: int):
        self.setting, count = setting, setting.groups
        self._random = random = np.random.default_rng(seed)
        self.names = [f"stage{g // _STAGE}.{g % _STAGE:02d}" for g in range(count)]
        self.sizes = np.array([64 * 2 ** min(3, g // _STAGE) for g in range(count)])
        levels = np.arange(1, _LEVELS + 1)
        self.widths = [tuple(int(w) for w in size * levels[1:] // _LEVELS) for size in self.sizes]
        self.shares = 1 - levels[1:] / _LEVELS  # removed, [levels]
        self._make_latency(random)
        depth = np.cumsum(random.normal(0, 0.25, count))  # neighbours resemble each other
        self.damage = np.exp(depth - depth.mean() + random.normal(0, 0.9, count))
        self.power = random.uniform(1.5, 3.0, count)
        self.factors = np.exp(random.normal(0, 0.1, (count, 3))) * np.array([1.0, 0.95, 1.7])  # by method
        self.pairs = np.zeros((count, count))
        for g, h in self.layers[:, :2].astype(int):
            self.pairs[g, h] = self.pairs[h, g] = setting.coupling * np.sqrt(self.damage[g] * self.damage[h])
        self.scale = 1.0
        uniform = np.full(count, _LEVELS // 2 - 1)
        self.scale = -np.log(0.75) / self.loss(uniform, np.zeros(count, dtype=int))

    def _make_latency(self, random: np.random.Generator) -> None:
        """Layers (reads, writes, milliseconds at full width); shares of the time by level as reader and as writer."""
        layers = []
        for g in range(self.setting.groups):
            stage = g - g % _STAGE
            if g != stage:
                layers += [(stage, g), (g, stage)]
            elif g:
                layers.append((stage - _STAGE, stage))
        cost = np.exp(random.normal(0, 0.5, len(layers)))
        # what does not shrink: a tenth
        self.layers = np.column_stack([np.array(layers), 0.9 * _DENSE_MS * cost / cost.sum()])
        kept = 1 - self.shares
        count = self.setting.groups
        self.reads = np.tile(kept, (count, 1))
        steps = np.ceil(kept * _LEVELS / 2) * 2 / _LEVELS  # kernels write channels in blocks of two levels
        bump = 1 + 0.05 * ((np.arange(len(kept)) % 2 == 0) & (kept < 1))  # a half-filled block costs extra
        self.writes = np.tile(steps * bump, (count, 1)) ** random.uniform(0.85, 1.0, (count, 1))

    def latency_ms(self, levels: NDArray[np.int64]) -> float:
        reads, writes = self.layers[:, 0].astype(int), self.layers[:, 1].astype(int)
        parts = self.layers[:, 2] * self.reads[reads, levels[reads]] * self.writes[writes, levels[writes]]
        return float(0.1 * _DENSE_MS + parts.sum())

    def loss(self, levels: NDArray[np.int64], methods: NDArray[np.int64]) -> float:
        """`−ln(A/A0)`."""
        share = self.shares[levels]
        each = self.damage * self.factors[np.arange(len(levels)), methods] * share ** self.power
        return float(self.scale * (each.sum() + share @ self.pairs @ share / 2) ** 1.2)

    def metric(self, levels: NDArray[np.int64], methods: NDArray[np.int64]) -> float:
        return _QUALITY * float(np.exp(-self.loss(levels, methods)))

    # -- what the product sees ------------------------------------------------------------------------------------

    def choices(self) -> dict[str, Choices]:
        return {n: Choices(w, METHODS) for n, w in zip(self.names, self.widths, strict=True)}

    def read(self, plan: Plan) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Levels and methods of a plan."""
        levels, methods = np.full(len(self.names), _LEVELS - 2), np.zeros(len(self.names), dtype=int)
        for g, name in enumerate(self.names):
            if name in plan.cuts:
                levels[g] = self.widths[g].index(plan.cuts[name].keep)
                methods[g] = METHODS.index(plan.cuts[name].method)
        return levels, methods

    def plan_ms(self, plan: Plan) -> float:
        return self.latency_ms(self.read(plan)[0])

    def curves(self) -> dict[str, Curve]:
        """What a scan finds: as many widths per group as the product's scan affords, latency at all widths."""
        shares = (0.25, 0.5, 0.75) if len(self.names) <= 20 else (0.6,)
        out, log = {}, np.log(self.damage)
        spread = self.setting.proxy
        if spread is None:  # as wide as the truth, and hardly related to it
            seen = 0.2 * log + np.sqrt(0.96) * self._random.permutation(log)
        else:
            seen = log + self._random.normal(0, spread, len(log))
        whole = np.full(len(self.names), _LEVELS - 2)
        for g, name in enumerate(self.names):
            damage, saved = {}, {}
            for level, width in enumerate(self.widths[g][:-1]):
                levels = whole.copy()
                levels[g] = level
                saved[width] = _DENSE_MS - self.latency_ms(levels)
            for share in shares:
                level = int(np.abs(self.shares - share).argmin())
                noise = np.exp(self._random.normal(0, 0.1))
                damage[self.widths[g][level]] = float(np.exp(seen[g]) * self.shares[level] ** self.power[g] * noise)
            out[name] = Curve.through(self.widths[g], damage, saved)
        return out

    # -- the best there is ------------------------------------------------------------------------------------------

    def oracle(self, prices: int = 250) -> list[tuple[float, float]]:
        """Latency and metric of (nearly) the best plans: for many prices of a millisecond, the best level of every
        group given the others', until nothing changes; from the dense end and from the other.
        """
        methods = self.factors.argmin(1)
        own = (self.damage * self.factors.min(1))[:, None] * self.shares ** self.power[:, None]
        points = []
        grid = np.exp(np.linspace(np.log(1e-4), np.log(1e4), prices)) * own.max(1).sum() / _DENSE_MS
        for start, order in ((_LEVELS - 2, grid), (0, grid[::-1])):
            levels = np.full(len(self.names), start)
            for price in order:
                levels = self._descend(levels, own, float(price))
                points.append((self.latency_ms(levels), self.metric(levels, methods)))
        return points

    def _descend(self, levels: NDArray[np.int64], own: Array, price: float) -> NDArray[np.int64]:
        levels = levels.copy()
        reads, writes, cost = self.layers[:, 0].astype(int), self.layers[:, 1].astype(int), self.layers[:, 2]
        for _ in range(8):
            before = levels.copy()
            for g in range(len(levels)):
                out, into = reads == g, writes == g
                ms = (self.reads[g] * (cost[out] * self.writes[writes[out], levels[writes[out]]]).sum()
                      + self.writes[g] * (cost[into] * self.reads[reads[into], levels[reads[into]]]).sum())
                with_others = self.shares * (self.pairs[g] @ self.shares[levels])
                levels[g] = int((own[g] + with_others + price * ms).argmin())
            if (levels == before).all():
                break
        return levels


def hypervolume(points: list[tuple[float, float]], seen: list[float] | None = None) -> float:
    """Area that (milliseconds, metric) points dominate, from REFERENCE. With `seen`, metrics as they were measured,
    the front is chosen by these and scored by the true ones.
    """
    top, area, last = REFERENCE[1], 0.0, REFERENCE[0]
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    front, best = [], -np.inf
    for i in order:
        value = points[i][1] if seen is None else seen[i]
        if value > best:
            best = value
            front.append(points[i])
    for ms, metric in sorted(front):
        if ms < last and metric > top:
            area += (REFERENCE[0] - ms) * (metric - top)
            top = metric
    return area
