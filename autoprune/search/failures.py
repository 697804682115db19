"""What a candidate may fail with, and whose failure it is."""

from __future__ import annotations

from typing import TypeGuard

from autoprune.errors import AutopruneError, ConfigError, TaskError

__all__ = ["CANDIDATE_ERRORS", "is_everyones"]

CANDIDATE_ERRORS = (AutopruneError, RuntimeError, ValueError, ArithmeticError)
"""What a candidate may fail with; a `ConfigError` is every candidate's, and ends the search."""


def is_everyones(error: BaseException) -> TypeGuard[ConfigError]:
    """Whether every candidate would fail with it: a setting is wrong, or the disk full. What data, loss and metric
    raise (`TaskError`) may be one candidate's alone.
    """
    return isinstance(error, ConfigError) and not isinstance(error, TaskError)
