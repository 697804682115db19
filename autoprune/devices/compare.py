"""`Comparison`: how much longer one model takes than another on the same device, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.devices.device import ErrorFigures
from autoprune.devices.latency import Latency
from autoprune.devices.measurement import Measurement
from autoprune.devices.node import Node
from autoprune.devices.profile import UNPRICED_RANGE

__all__ = ["Comparison", "plain", "predicted", "timed_in_turns"]


@dataclass(frozen=True)
class Comparison:
    """Latency of a model over that of a reference.

    `ratio` below 1: the model is faster. It is `latency.ms / reference.ms`, and of runs in turns `Measurement.ratio`.
    `lo <= ratio <= hi`, both None where nothing is known about how the errors of the two go together; `basis` says
    where the interval is from, or why there is none.
    """

    latency: Latency
    reference: Latency
    ratio: float
    lo: float | None
    hi: float | None
    basis: str

    def __str__(self) -> str:
        """`0.623x (0.612–0.640)`."""
        interval = "no interval" if self.lo is None or self.hi is None else f"{self.lo:.3f}–{self.hi:.3f}"
        return f"{self.ratio:.3f}x ({interval})"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"latency": self.latency.to_json(), "reference": self.reference.to_json(), "ratio": self.ratio,
                "lo": self.lo, "hi": self.hi, "basis": self.basis}


def plain(latency: Latency, reference: Latency) -> Comparison:
    """The ratio of two latencies that were told one after the other, with no interval."""
    return Comparison(latency, reference, latency.ms / reference.ms, None, None,
                      "told one after the other; how the two errors go together is not known")


def timed_in_turns(found: Measurement) -> Comparison:
    """Of a measurement with a reference. Raises `ValueError` when it has none.

    The interval spans the ratio, and those at p10, p50 and p90. Runs took turns, so what
    slows the machine slows both: a quick run is set against a quick one and a slow one against a slow one. It is not
    a confidence interval: with thousands of runs that of the median would be narrower than what two measurements
    really differ by.
    """
    ratio, ours, theirs = found.ratio, found.stats, found.reference_stats
    assert found.reference is not None  # or there were no ratio
    assert theirs is not None
    ratios = [ratio, ours.p10_ms / theirs.p10_ms, ours.p50_ms / theirs.p50_ms, ours.p90_ms / theirs.p90_ms]
    return Comparison(found.latency, found.reference, ratio, min(ratios), max(ratios),
                      "timed in turns in one measurement; neighbouring turns, and p10, p50 and p90 of all runs")


def predicted(table: Sequence[tuple[Node, float]], reference: Sequence[tuple[Node, float]], error: ErrorFigures,
              latencies: tuple[Latency, Latency]) -> Comparison:
    """Of two tables of `predict_table` on the same device.

    The profile is wrong by about the same factor wherever it prices the same kind of node, so much of its error is
    shared by two models. For each kind c (price class), with sums a_c and b_c, let the true times be f_c·a_c and
    f_c·b_c, with one f_c for both, anywhere in [lo_ratio, hi_ratio] (four times wider on both sides for operators that
    nobody priced). The interval is the range of Σ f_c·a_c / Σ f_c·b_c over all such f. The ends are reached where each
    f_c is at one of its own, the kinds sorted by a_c/b_c: the upper with the first few high and the rest low.

    Models of the same mix of kinds get a narrow interval. Errors that depend on sizes within a kind are not in it. Of
    the 36 pairs of the nine nets with published onnxruntime medians on a Raspberry Pi 5 it held 30.
    """
    ours, theirs = _by_kind(table), _by_kind(reference)
    ratio = sum(ours.values()) / sum(theirs.values())
    return Comparison(*latencies, ratio, min(ratio, 1 / _largest(theirs, ours, error)),
                      max(ratio, _largest(ours, theirs, error)),
                      "predicted; errors of the profile shared by nodes of one kind, as wide as its own interval")


def _by_kind(table: Sequence[tuple[Node, float]]) -> dict[tuple[str, bool], float]:
    sums: dict[tuple[str, bool], float] = {}
    for node, ms in table:
        kind = (node.cls if node.priced else node.op, node.priced)
        sums[kind] = sums.get(kind, 0.0) + ms
    return sums


def _largest(ours: Mapping[tuple[str, bool], float], theirs: Mapping[tuple[str, bool], float],
             error: ErrorFigures) -> float:
    """The largest ratio of the sums that errors shared by kind allow."""
    kinds = sorted({**ours, **theirs}, key=lambda k: ours.get(k, 0.0) / theirs[k] if theirs.get(k) else math.inf,
                   reverse=True)
    low = {k: error.lo_ratio / (1 if k[1] else UNPRICED_RANGE) for k in kinds}
    high = {k: error.hi_ratio * (1 if k[1] else UNPRICED_RANGE) for k in kinds}
    found = []
    for raised in range(len(kinds) + 1):
        factor = {**low, **{k: high[k] for k in kinds[:raised]}}
        found.append(sum(factor[k] * ms for k, ms in ours.items()) / sum(factor[k] * ms for k, ms in theirs.items()))
    return max(found)
