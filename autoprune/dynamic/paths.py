"""What inputs make a network with gates do: which branches they open, and latency as a distribution over inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autoprune.errors import ConfigError
from autoprune.tasks.tensors import call, evaluating, leaves, map_tensors, sample_count

if TYPE_CHECKING:
    from autoprune.devices.measure import Measurer
    from autoprune.dynamic.skippable import Skippable

__all__ = ["PathLatency", "Skipped", "decisions", "measure_paths"]


@dataclass(frozen=True)
class Skipped:
    """The inputs for which `branches` branches are skipped: their share of all inputs in (0, 1], how many of them were
    timed, and the mean of their medians in milliseconds.
    """

    branches: int
    share: float
    timed: int
    mean_ms: float


@dataclass(frozen=True)
class PathLatency:
    """Latency over inputs, in milliseconds; the spread is that of inputs, each of which counts with its median run.

    ratio: mean over inputs of the latency divided by that of the reference, timed in turns with it; reference_ms: mean
    of the reference's medians. inputs: whose decisions were counted; paths: how many sets of open branches they take;
    by_skipped: ascending in the number of skipped branches.
    """

    mean_ms: float
    p50_ms: float
    p90_ms: float
    ratio: float
    reference_ms: float
    inputs: int
    paths: int
    by_skipped: tuple[Skipped, ...]

    def __str__(self) -> str:
        """`1.20 ms on average (p50 1.1, p90 1.6 over 500 inputs on 12 paths), 0.61 of the reference`"""
        return (f"{self.mean_ms:.3g} ms on average (p50 {self.p50_ms:.3g}, p90 {self.p90_ms:.3g} over {self.inputs} "
                f"inputs on {self.paths} paths), {self.ratio:.2f} of the reference")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "by_skipped": [asdict(s) for s in self.by_skipped]}


def decisions(model: Skippable, batches: Iterable[Any]) -> torch.Tensor:
    """[N, branches] bool: which branches run for the N samples of `batches` (inputs without targets), in order.

    In evaluation mode, one forward pass; the mode is restored. `ConfigError` without batches.
    """
    found = []
    with evaluating(model), torch.no_grad():
        for inputs in batches:
            call(model, inputs)
            found.append(model.opened() > 0)
    if not found:
        raise ConfigError("no inputs to look at the decisions for", given="0 batches")
    return torch.cat(found)


def measure_paths(measurer: Measurer, onnx_bytes: bytes, reference: bytes, inputs: Any, opened: torch.Tensor,
                  each: int = 3, **how: Any) -> PathLatency:
    """Time `onnx_bytes` (of `export`) on some of `inputs`, in turns with `reference`, a model with the same inputs.

    inputs: tensors of N samples, nested as the model takes them; opened: [N, branches] of `decisions`. Of the inputs
    that skip the same number of branches, `each` are timed, evenly spread over those by the order of their paths, and
    stand for the others. `how` goes to `Measurer.measure`. Raises what that raises, and `ConfigError` when inputs and
    decisions do not go together.
    """
    if sample_count(inputs) != len(opened) or len(opened) == 0 or each < 1:
        raise ConfigError("the decisions are not those of these inputs", allowed="one row for each input, and each ≥ 1",
                          given=f"{sample_count(inputs)} inputs, {len(opened)} decisions, each={each}")
    names = _input_names(onnx_bytes)
    rows = [tuple(row) for row in opened.tolist()]
    values: list[tuple[float, float]] = []  # milliseconds, weight
    ratios: list[tuple[float, float]] = []
    dense: list[float] = []
    by_skipped = []
    for skipped in sorted({row.count(False) for row in rows}):
        alike = sorted((i for i, row in enumerate(rows) if row.count(False) == skipped), key=lambda i: rows[i])
        chosen = [alike[int(p)] for p in np.linspace(0, len(alike) - 1, min(each, len(alike))).round()]
        weight = len(alike) / len(rows) / len(chosen)
        here = []
        for i in chosen:
            found = measurer.measure(onnx_bytes, reference=reference, inputs=_feed(names, inputs, i), **how)
            assert found.reference is not None
            here.append(found.latency.ms)
            dense.append(found.reference.ms)
            ratios.append((found.latency.ms / found.reference.ms, weight))
            values.append((found.latency.ms, weight))
        by_skipped.append(Skipped(skipped, len(alike) / len(rows), len(chosen), float(np.mean(here))))
    return PathLatency(_mean(values), _quantile(values, 0.5), _quantile(values, 0.9), _mean(ratios),
                       float(np.mean(dense)), len(rows), len(set(rows)), tuple(by_skipped))


def _mean(values: list[tuple[float, float]]) -> float:
    return sum(v * w for v, w in values) / sum(w for _, w in values)


def _quantile(values: list[tuple[float, float]], share: float) -> float:
    """The smallest value that at least `share` of the weight does not exceed."""
    ordered = sorted(values)
    reached = np.cumsum([w for _, w in ordered])
    return ordered[min(int(np.searchsorted(reached, share * reached[-1] - 1e-9)), len(ordered) - 1)][0]


def _input_names(onnx_bytes: bytes) -> list[str]:
    import onnx

    return [i.name for i in onnx.load_from_string(onnx_bytes).graph.input]


def _feed(names: list[str], inputs: Any, row: int) -> dict[str, np.ndarray[Any, Any]]:
    values = inputs.values() if isinstance(inputs, Mapping) else [inputs]
    samples = [leaf for value in values for leaf in leaves(map_tensors(lambda t: t[row : row + 1], value))]
    return {name: leaf.numpy() for name, leaf in zip(names, samples, strict=True)}
