"""What a candidate may fail with, and whose failure it is."""

from __future__ import annotations

from typing import TypeGuard

from autoprune.errors import AutopruneError, ConfigError, TaskError

__all__ = ["CANDIDATE_ERRORS", "failure", "is_everyones"]

CANDIDATE_ERRORS = (AutopruneError, RuntimeError, ValueError, ArithmeticError)
"""What a candidate may fail with; a `ConfigError` is every candidate's, and ends the search."""


def is_everyones(error: BaseException) -> TypeGuard[ConfigError]:
    """Whether every candidate would fail with it: a setting is wrong, or the disk full. What data, loss and metric
    raise (`TaskError`) may be one candidate's alone.
    """
    return isinstance(error, ConfigError) and not isinstance(error, TaskError)


def failure(error: BaseException) -> str:
    """One line that says why a candidate failed."""
    text = error.message if isinstance(error, AutopruneError) else str(error)
    return f"{type(error).__name__}: {text.strip().splitlines()[0] if text.strip() else ''}"[:300]
