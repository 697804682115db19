"""`Job` in, `Done` out: one candidate's evaluation, whichever process does it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autoprune import errors
from autoprune.devices.latency import Latency
from autoprune.errors import AutopruneError
from autoprune.graph.plan import Plan
from autoprune.search.candidate import Candidate
from autoprune.search.pipeline import CANDIDATE_ERRORS, Pipeline, failure, is_everyones
from autoprune.search.run_folder import write_model

__all__ = ["Done", "Job", "evaluate", "failed", "from_json", "to_json"]


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
    then. out_of_memory: whether it failed for want of memory. look: the untrained model's quality; a job that did not
    reach its bar has that and no candidate.
    """

    number: int
    candidate: Candidate | None
    folder: Path | None = None
    fatal: AutopruneError | None = None
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
        if is_everyones(error):
            return Done(job.number, None, fatal=error)
        candidate = failed(job.number, job.origin, job.plan, failure(error))
        return Done(job.number, candidate, out_of_memory=_is_memory(error), look=look)
    return Done(job.number, candidate, job.folder, look=look)


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def failed(number: int, origin: str, plan: Plan, reason: str) -> Candidate:
    """The candidate of a trial that failed."""
    return Candidate(number, origin, plan, "failed", reason)


def to_json(done: Done) -> dict[str, Any]:
    """For another process. Kept units are in the files of the model only."""
    fatal = done.fatal and {"kind": type(done.fatal).__name__, "message": done.fatal.message,
                            **{k: getattr(done.fatal, k) for k in ("given", "allowed", "fix")}}
    return {"number": done.number, "candidate": done.candidate and done.candidate.to_json(),
            "folder": done.folder and str(done.folder), "fatal": fatal, "out_of_memory": done.out_of_memory,
            "look": done.look}


def from_json(data: dict[str, Any]) -> Done:
    """The inverse of `to_json`."""
    fatal = data["fatal"] and dict(data["fatal"])
    error = None if fatal is None else getattr(errors, fatal.pop("kind"))(fatal.pop("message"), **fatal)
    return Done(data["number"], data["candidate"] and Candidate.from_json(data["candidate"]),
                data["folder"] and Path(data["folder"]), error, data["out_of_memory"], data["look"])
