"""Nets and data that the tiny task is not like."""

from __future__ import annotations

import torch
from torch import nn

from autoprune.devices.latency import Latency
from autoprune.graph.graph import trace
from autoprune.graph.plan import Plan
from autoprune.search.pipeline import Pipeline
from autoprune.search.space import Space
from autoprune.tasks.task import Task

SPACE = Space("quick", methods=("l1",), recover={"steps": 2, "calibration_batches": 1})
LATENCY = Latency(1.0, 1.0, 1.0, "p50", "profile", "rpi4", "onnxruntime", "1", 1, 1)


def pipeline_of(model: nn.Module, *inputs: torch.Tensor) -> Pipeline:
    data = [(x, torch.arange(len(x)) % 3) for x in inputs]
    task = Task(model, train=data, validation=data, test=data)
    return Pipeline(task, trace(model, task.example_inputs), SPACE)


def test_convolutions_of_three_dimensions() -> None:
    net = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.AdaptiveAvgPool3d(1),
                        nn.Flatten(), nn.Linear(8, 3))
    pipeline = pipeline_of(net, torch.randn(6, 1, 4, 5, 6))
    found, model, _ = pipeline.evaluate(1, "", Plan.uniform(pipeline.graph, 0.5), LATENCY)
    assert found.score is not None
    assert model(torch.randn(2, 1, 4, 5, 6)).shape == (2, 3)


def test_a_last_batch_of_one_sample_is_not_trained_on() -> None:
    """A batch norm over single values has no variance."""
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    pipeline = pipeline_of(net, torch.randn(8, 4), torch.randn(1, 4))
    found, _, _ = pipeline.evaluate(1, "", Plan.uniform(pipeline.graph, 0.5), LATENCY)
    assert found.status == "ok"
