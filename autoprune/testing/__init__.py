"""Conformance kits for people who extend autoprune. Each raises `AssertionError` with what is violated.

Samplers are Optuna's `BaseSampler`; Optuna ships their kit as `optuna.testing`.
"""

from autoprune.testing.criterion import check_criterion
from autoprune.testing.profiler import check_profiler
from autoprune.testing.task import check_task

__all__ = ["check_criterion", "check_profiler", "check_task"]
