"""`Workers`: the contract between the loop of a search and whatever evaluates its candidates."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from autoprune.search.pipeline import Pipeline
from autoprune.search.workers.job import Done, Job, evaluate

__all__ = ["Inline", "Workers"]


class Workers(ABC):
    """Evaluates jobs.

    Life cycle: made once per search in the search's own process. `start` is called while `room` is above 0, `wait`
    while something is running; `close` once at the end. A job ends with exactly one `Done`, whatever becomes of the
    process that evaluates it: a crash, a hang or too little memory fail that candidate. Only a search's own process
    calls these methods, and it writes the study; a worker writes its job's folder and nothing else.
    """

    elsewhere = True
    """Whether the time that candidates take is not on the clock of the search's own pipeline."""

    @property
    @abstractmethod
    def room(self) -> int:
        """How many jobs may be started now."""

    @property
    @abstractmethod
    def running(self) -> int:
        """How many jobs have started and not been returned by `wait`."""

    @abstractmethod
    def start(self, job: Job) -> None:
        """Begin to evaluate a job."""

    @abstractmethod
    def wait(self, until_s: float = math.inf) -> list[Done]:
        """The jobs that have ended since the last call; waits for one, until `until_s` on the monotonic clock."""

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is evaluated on this machine inside: what is timed there has it to itself."""
        yield

    @abstractmethod
    def cancel(self) -> None:
        """End all that is running without a result."""

    def close(self) -> None:
        """End everything; safe to call twice."""
        self.cancel()


@final
class Inline(Workers):
    """Evaluates in this process, one job at a time, with all its threads."""

    elsewhere = False

    def __init__(self, pipeline: Pipeline):
        self._pipeline = pipeline
        self._job: Job | None = None

    @property
    def room(self) -> int:
        return 1 if self._job is None else 0

    @property
    def running(self) -> int:
        return 0 if self._job is None else 1

    def start(self, job: Job) -> None:
        self._job = job

    def wait(self, until_s: float = math.inf) -> list[Done]:
        job, self._job = self._job, None
        return [] if job is None else [evaluate(self._pipeline, job)]

    def cancel(self) -> None:
        self._job = None
