"""How far a plan takes the model from the dense one before any training: what scans and starting points go by."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import TypeVar

from autoprune.graph.plan import Plan
from autoprune.recover.finetune import Example
from autoprune.search.failures import CANDIDATE_ERRORS, is_everyones
from autoprune.search.pipeline import Pipeline

__all__ = ["damage_of", "damages"]

_Key = TypeVar("_Key", bound=Hashable)


def damages(pipeline: Pipeline, plans: Mapping[_Key, Plan]) -> dict[_Key, float]:
    """Of each plan on one batch of training data, less what the statistics of one batch do by themselves; at least 0.
    What fails, or is not finite, is as bad as the worst of the others; if all fail, that is raised.
    """
    [example, *_] = pipeline.calibration()
    nothing = damage_of(pipeline, Plan(), example)
    found, problem = dict[_Key, float](), None
    for key, plan in plans.items():
        try:
            found[key] = damage_of(pipeline, plan, example) - nothing
        except CANDIDATE_ERRORS as error:
            if is_everyones(error):
                raise
            found[key], problem = math.nan, error
    known = [d for d in found.values() if math.isfinite(d)]
    if problem is not None and not known:
        raise problem
    worst = max(known, default=1.0)
    return {key: max(0.0, d if math.isfinite(d) else worst) for key, d in found.items()}


def damage_of(pipeline: Pipeline, plan: Plan, example: Example) -> float:
    """Divergence of the outputs from the dense model's on one batch, nothing fine-tuned. Dense models have some."""
    model = pipeline.prune(plan)
    with pipeline.clock.time("scan"):
        return pipeline.divergence(model, [example])
