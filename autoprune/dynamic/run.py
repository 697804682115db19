"""From a task to a network that skips blocks, its score and its latency over inputs, in the order of the steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from autoprune.dynamic.export import export
from autoprune.dynamic.paths import PathLatency, decisions, measure_paths
from autoprune.dynamic.skippable import Skippable, skippable
from autoprune.dynamic.train import Cost, check_cost, train
from autoprune.errors import TaskError
from autoprune.graph.graph import trace
from autoprune.graph.onnx import export_onnx
from autoprune.recover.finetune import FineTune, examples
from autoprune.tasks.splits import read
from autoprune.tasks.tensors import leaves

if TYPE_CHECKING:
    from autoprune.devices.measure import Measurer
    from autoprune.tasks.score import Score
    from autoprune.tasks.task import Task

__all__ = ["Skipping", "skip_blocks"]

_BATCHES, _INPUTS = 200, 512


@dataclass(frozen=True)
class Skipping:
    """dense, score: on the test split; share: of the dense multiply-adds, mean over inputs; opened: by branch the share
    of inputs that it runs for; latency: over test inputs, against the dense model; onnx_bytes: for one sample.
    """

    model: Skippable
    onnx_bytes: bytes
    dense: Score
    score: Score
    share: float
    opened: dict[str, float]
    latency: PathLatency

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return {"dense": self.dense.to_json(), "score": self.score.to_json(), "share": self.share,
                "opened": self.opened, "latency": self.latency.to_json()}


def skip_blocks(task: Task, measurer: Measurer, target: float, settings: FineTune, seed: int = 0) -> Skipping:
    """Put gates around all residual branches, train them to the share `target` of the multiply-adds, export, measure.

    `ConfigError` before any training when the target cannot be reached, `ModelError` when no branch can be gated,
    `DeviceError` when the device cannot be measured on, `TaskError` for data that does not fit the model.
    """
    task.check()
    graph = trace(task.model, task.example_inputs)
    model, cost = skippable(graph), Cost(target)
    check_cost(model, cost, settings)
    measurer.hello()
    dense = graph.dense()
    train(model, task, examples(task, dense, task.split("train"), _BATCHES), cost, settings, seed)
    inputs = _inputs(task)
    opened = decisions(model, [inputs])
    onnx_bytes = export(model)
    latency = measure_paths(measurer, onnx_bytes, export_onnx(dense, model.example_inputs, dynamic_batch=False), inputs,
                            opened)
    return Skipping(model, onnx_bytes, task.evaluate(dense, "test"), task.evaluate(model, "test"),
                    float(model.share(opened.float()).mean()),
                    dict(zip(model.branches, opened.float().mean(0).tolist(), strict=True)), latency)


def _inputs(task: Task) -> tuple[torch.Tensor, ...] | dict[str, torch.Tensor]:
    """Up to `_INPUTS` test inputs of the shape of the example, in one batch."""
    example = task.example_inputs
    wanted = [x.shape[1:] for x in leaves(example)]
    found: list[list[torch.Tensor]] = []
    for inputs, _ in read(task.split("test"), "test"):
        batch = leaves({k: inputs[k] for k in example} if isinstance(example, Mapping) else inputs)
        if [x.shape[1:] for x in batch] == wanted:
            found.append(batch)
        if sum(len(b[0]) for b in found) >= _INPUTS:
            break
    if not found:
        raise TaskError("no test input has the shape of the first training input", given=wanted,
                        fix="pad all inputs to one length")
    joined = [torch.cat(parts)[:_INPUTS] for parts in zip(*found, strict=True)]
    return dict(zip(example, joined, strict=True)) if isinstance(example, Mapping) else tuple(joined)
