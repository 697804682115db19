"""The exception tree. Every error says what happened, what was given, what is allowed, and what to run.

An exception's class fixes the exit code of the command line, so that a CI job can tell "nothing meets the
budget" from "the device is not reachable" without reading text.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "AutopruneError",
    "BudgetError",
    "ConfigError",
    "DamagedError",
    "DeviceError",
    "ModelError",
    "NoEffectWarning",
    "TaskError", "UnmeasurableError",
    "did_you_mean",
    "first_line",
]


class AutopruneError(Exception):
    """Base of everything autoprune raises on purpose.

    Parameters
    ----------
    message: what happened, one sentence.
    given: what the user gave, verbatim.
    allowed: what is allowed instead.
    fix: one command to run or one thing to change.
    """

    exit_code = 1

    def __init__(self, message: str, *, given: object = None, allowed: str | None = None, fix: str | None = None):
        super().__init__(message)
        self.message = message
        self.given = None if given is None else str(given)
        self.allowed = allowed
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.message]
        if self.given is not None:
            lines.append(f"  given:   {self.given}")
        if self.allowed is not None:
            lines.append(f"  allowed: {self.allowed}")
        if self.fix is not None:
            lines.append(f"  fix:     {self.fix}")
        return "\n".join(lines)


class ConfigError(AutopruneError):
    """A setting, file or argument is wrong (exit 2)."""

    exit_code = 2


class DamagedError(ConfigError):
    """A file of ours is cut off or gone, or was changed by something else (exit 2)."""


class TaskError(ConfigError):
    """The model factory, the data or the metric is unusable as given (exit 2)."""


class BudgetError(AutopruneError):
    """No candidate meets the budget (exit 3)."""

    exit_code = 3


class DeviceError(AutopruneError):
    """The device cannot be reached, or its measurements cannot be trusted (exit 4)."""

    exit_code = 4


class UnmeasurableError(DeviceError):
    """The model cannot be loaded, run or priced: no device would do better (exit 5)."""

    exit_code = 5


class ModelError(AutopruneError):
    """The model cannot be exported, or nothing in it can be pruned (exit 5)."""

    exit_code = 5


class NoEffectWarning(UserWarning):
    """What was asked for changes nothing."""


def first_line(error: BaseException) -> str:
    """`Type: the first line of its message`, of 300 characters at most."""
    text = (error.message if isinstance(error, AutopruneError) else str(error)).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:300]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"Did you mean X? Available: a, b, c"`, the first part only when something is close."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    available = "available: " + (", ".join(names) if names else "none")
    return f"did you mean {close[0]!r}? {available}" if close else available
