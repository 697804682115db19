"""`Job` in, `Done` out: one candidate's evaluation, whichever process does it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autoprune import errors
from autoprune.devices.latency import Latency
from autoprune.errors import AutopruneError, TaskError, first_line
from autoprune.graph.plan import Plan
from autoprune.search.candidate import Candidate
from autoprune.search.failures import CANDIDATE_ERRORS, is_everyones
from autoprune.search.pipeline import Pipeline
from autoprune.search.propose import DENSE
from autoprune.search.run_folder import write_model
from autoprune.tasks.task import NotFinite

__all__ = ["Done", "Job", "evaluate", "failed", "from_json", "to_json"]

_NO_MEMORY = ("can't allocate memory", "is killed by signal: Killed")  # torch's words


@dataclass(frozen=True)
class Job:
    """One plan to evaluate. latency: of its widths, which is known before; folder: where the model's files go, whole or
    not at all; bar: what the untrained model's quality must reach to be trained (`search/halving.py`), infinite for
    a mere look, None where nobody looks; half_batches: whether batches are cut in two, for want of memory.
    """

    number: int
    origin: str
    plan: Plan
    latency: Latency
    folder: Path
    bar: float | None = None
    half_batches: bool = False


@dataclass(frozen=True)
class Done:
    """What became of a job: the candidate, evaluated or failed; its files are in `folder` if it was evaluated.

    fatal: what is wrong with every candidate (a setting, a full disk), and ends the search; the trial has no candidate
    then. suspect: what this candidate failed with and others may (data that cannot be read any more). out_of_memory:
    whether it failed for want of memory. look: the untrained model's quality; a job that did not reach its bar has that
    and no candidate.
    """

    number: int
    candidate: Candidate | None
    folder: Path | None = None
    fatal: AutopruneError | None = None
    suspect: AutopruneError | None = None
    out_of_memory: bool = False
    look: float | None = None


def evaluate(pipeline: Pipeline, job: Job) -> Done:
    """Evaluate in this process. Raises what is no `Exception`, and what no candidate may fail with."""
    look = None
    try:
        if job.bar is not None:
            look = pipeline.look(job.plan)
            if not look >= job.bar:
                return Done(job.number, None, look=look)
        candidate, model, int8 = pipeline.evaluate(job.number, job.origin, job.plan, job.latency)
        write_model(job.folder, model, int8)
    except (*CANDIDATE_ERRORS, MemoryError) as error:
        if is_everyones(error) or (job.origin == DENSE and isinstance(error, TaskError)):
            return Done(job.number, None, fatal=error)
        candidate = failed(job.number, job.origin, job.plan, first_line(error))
        suspect = error if isinstance(error, TaskError) and not isinstance(error, NotFinite) else None
        return Done(job.number, candidate, suspect=suspect, out_of_memory=_is_memory(error), look=look)
    return Done(job.number, candidate, job.folder, look=look)


def _is_memory(error: BaseException | None) -> bool:
    """Whether there was too little memory, here or in a process that loads data (which the system kills then)."""
    if error is None or isinstance(error, MemoryError | torch.OutOfMemoryError):
        return error is not None
    return any(text in str(error) for text in _NO_MEMORY) or _is_memory(error.__cause__)


def failed(number: int, origin: str, plan: Plan, reason: str) -> Candidate:
    """The candidate of a trial that failed."""
    return Candidate(number, origin, plan, "failed", reason)


def to_json(done: Done) -> dict[str, Any]:
    """For another process. Kept units are in the files of the model only."""
    return {"number": done.number, "candidate": done.candidate and done.candidate.to_json(),
            "folder": done.folder and str(done.folder), "fatal": _told(done.fatal), "suspect": _told(done.suspect),
            "out_of_memory": done.out_of_memory, "look": done.look}


def from_json(data: dict[str, Any]) -> Done:
    """The inverse of `to_json`."""
    return Done(data["number"], data["candidate"] and Candidate.from_json(data["candidate"]),
                data["folder"] and Path(data["folder"]), _heard(data["fatal"]), _heard(data["suspect"]),
                data["out_of_memory"], data["look"])


def _told(error: AutopruneError | None) -> dict[str, Any] | None:
    return None if error is None else {"kind": type(error).__name__, "message": error.message,
                                       **{k: getattr(error, k) for k in ("given", "allowed", "fix")}}


def _heard(told: dict[str, Any] | None) -> AutopruneError | None:
    if told is None:
        return None
    rest = dict(told)
    error: AutopruneError = getattr(errors, rest.pop("kind"))(rest.pop("message"), **rest)
    return error
