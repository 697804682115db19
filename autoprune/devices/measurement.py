"""`Measurement`: what one measurement found. `read_measurement` makes it from an agent's answer, trusting nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from autoprune.devices.agent.timing import DRIFT, NOISY
from autoprune.devices.latency import Latency
from autoprune.errors import DeviceError

__all__ = ["Measurement", "NodeTime", "RunStats", "read_measurement"]

_MOST_NODES, _LONGEST_NAME = 100_000, 2_000


@dataclass(frozen=True)
class RunStats:
    """Of `n` timed runs: milliseconds."""

    min_ms: float
    p10_ms: float
    p25_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    n: int


@dataclass(frozen=True)
class NodeTime:
    """One node of the graph that the runtime really ran (fused ones are one): its name, operator, milliseconds per
    inference as onnxruntime's profiler sees them, and the shape of its first output. The profiler itself takes time,
    so that the sum is above the latency.
    """

    name: str
    op: str
    ms: float
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """A candidate's latency, that of the dense model timed in between (if given), and the runs behind both.

    `in_turns` is the median of the ratios of short blocks of runs that followed each other, None without a dense model;
    `drift` by how much that (without a dense model: the latency) was more in the second half of the runs, as a
    fraction; `attempts` how often it had to be measured; `nodes` the candidate's nodes in execution order, where
    profile runs were asked for.
    """

    latency: Latency
    reference: Latency | None
    stats: RunStats
    reference_stats: RunStats | None
    drift: float
    attempts: int
    nodes: tuple[NodeTime, ...] = ()
    in_turns: float | None = None

    @property
    def ratio(self) -> float:
        """The latency over the reference's; below 1 is faster. For medians it is `in_turns`: what other programs add
        comes in bursts that hit one model more than the other, and ratios of medians of all runs scatter several times
        as much (docs/decisions/2026-11-27-busy-machines.md). Raises `ValueError` when there was no reference.
        """
        if self.reference is None or self.in_turns is None:
            raise ValueError("the measurement has no reference")
        return self.in_turns if self.latency.percentile == "p50" else self.latency.ms / self.reference.ms

    def scaled(self, ms: float) -> Measurement:
        """With `ms` for the latency, and the nodes, which are of the quicker runs, in proportion; the runs behind them
        stay what they were.
        """
        nodes = tuple(replace(n, ms=n.ms * ms / self.stats.p25_ms) for n in self.nodes)
        return replace(self, latency=self.latency.scaled(ms / self.latency.ms), nodes=nodes)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"latency": self.latency.to_json(), "stats": asdict(self.stats), "drift": self.drift,
                "attempts": self.attempts, "in_turns": self.in_turns,
                "reference": None if self.reference is None else self.reference.to_json(),
                "reference_stats": None if self.reference_stats is None else asdict(self.reference_stats),
                "nodes": [asdict(n) for n in self.nodes]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Measurement:
        """The inverse of `to_json`."""
        reference, stats = data["reference"], data["reference_stats"]
        return cls(Latency.from_json(data["latency"]), None if reference is None else Latency.from_json(reference),
                   RunStats(**data["stats"]), None if stats is None else RunStats(**stats), data["drift"],
                   data["attempts"],
                   tuple(NodeTime(**{**n, "shape": tuple(n["shape"])}) for n in data["nodes"]), data["in_turns"])


def read_measurement(answer: Mapping[str, Any], percentile: str, device: str, runtime: str, threads: int
                     ) -> Measurement:
    """An agent's answer to `measure`. Raises `DeviceError` for anything missing, mistyped, infinite or out of order."""
    try:
        stats = _stats(answer["candidate"])
        dense = None if answer["reference"] is None else _stats(answer["reference"])
        in_turns = None if dense is None else _number(answer["ratio"], 1e-9)
        moved, attempts = _number(answer["drift"], -1), _count(answer["attempts"], 1000)
        version, governor = _text(answer["runtime_version"], 100), _text(answer["governor"], 200)
        nodes = answer["nodes"]
        if not isinstance(nodes, list) or len(nodes) > _MOST_NODES:
            raise ValueError("nodes must be a list, and not endless")
        times = tuple(NodeTime(_text(n["name"], _LONGEST_NAME), _text(n["op"], 200), _number(n["ms"], 0),
                               tuple(int(_number(d, 0)) for d in n["shape"][:20])) for n in nodes)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DeviceError("the measuring process answered with an incomplete record",
                          given=f"{type(error).__name__}: {str(error)[:300]}", fix="measure again") from error
    notes = [f"drift {100 * abs(moved):.0f} %"] if abs(moved) > DRIFT else []
    if governor and governor != "performance":
        notes.append(f"clock governor {governor}, not performance")

    def latency(of: RunStats) -> Latency:
        value = {"p50": of.p50_ms, "p90": of.p90_ms, "p99": of.p99_ms}[percentile]
        noisy = [f"noisy: p90 of the runs is {of.p90_ms / of.p10_ms:.2g} times p10"
                 ] if of.p90_ms > NOISY * of.p10_ms else []
        return Latency(ms=value, lo_ms=of.p10_ms, hi_ms=max(of.p90_ms, value), percentile=percentile,
                       source="measured", device=device, runtime=runtime, runtime_version=version, threads=threads,
                       n=of.n, notes=(*noisy, *notes))

    return Measurement(latency(stats), None if dense is None else latency(dense), stats, dense, moved, attempts, times,
                       in_turns)


def _stats(data: Any) -> RunStats:
    values = [_number(data[k], 0) for k in ("min_ms", "p10_ms", "p25_ms", "p50_ms", "p90_ms", "p99_ms")]
    if values != sorted(values) or values[0] <= 0:
        raise ValueError(f"run statistics out of order: {values}")
    low, p10, p25, p50, p90, p99 = values
    return RunStats(low, p10, p25, p50, p90, p99, _count(data["n"], 10**9))


def _number(value: Any, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) \
            or not least <= value < 1e9:
        raise ValueError(f"not a finite number from {least}: {str(value)[:50]}")
    return float(value)


def _count(value: Any, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"not a count from 1 to {most}: {str(value)[:50]}")
    return value


def _text(value: Any, longest: int) -> str:
    if not isinstance(value, str) or len(value) > longest or not value.isprintable():
        raise ValueError(f"not a line of text of at most {longest} characters: {str(value)[:50]!r}")
    return value
