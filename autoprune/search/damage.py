"""How far a plan takes the model from the dense one before any training: what scans and starting points go by."""

from __future__ import annotations

import torch

from autoprune.graph.module import PrunedModule
from autoprune.graph.plan import Plan
from autoprune.recover.finetune import Example, FineTune, distillation
from autoprune.search.pipeline import Pipeline

__all__ = ["damage_of"]


def damage_of(pipeline: Pipeline, plan: Plan, example: Example) -> float:
    """Divergence of the outputs from the dense model's (as in distillation) on one batch, norms recalibrated on it,
    nothing fine-tuned; also the dense model itself has some.
    """
    model = pipeline.prune(plan)
    with pipeline.clock.time("scan"):
        pipeline.recalibrate(model, batches=1)
        return _divergence(pipeline, model, example)


def _divergence(pipeline: Pipeline, model: PrunedModule, example: Example) -> float:
    """Of the outputs from the dense model's; the task's own loss where the outputs cannot be compared."""
    with torch.no_grad():
        outputs = pipeline.task.forward(model.eval(), example.inputs)
        student = pipeline.task.logits(outputs)
        if student is None or example.teacher is None:
            return float(pipeline.task.loss(outputs, example.target))
        return float(distillation(student, example.teacher, FineTune(temperature=1.0)))
