"""`Candidate`: everything known about one plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.devices.latency import Latency
from autoprune.errors import DamagedError
from autoprune.graph.plan import Cut, Plan
from autoprune.tasks.score import Score

if TYPE_CHECKING:
    from autoprune.graph.module import PrunedModule

__all__ = ["INT8_FILE", "Candidate", "is_complete", "load_weights"]

INT8_FILE = "model_int8.onnx"
"""Beside the weights of a candidate in int8, and in the folder that it is exported to."""


@dataclass(frozen=True)
class Candidate:
    """One evaluated (or failed) plan.

    number: of the trial in the study; origin: "control: …" for the models that always run, "search" otherwise;
    score: on the search split, after `steps` fine-tuning steps; test: on the test split, for front points only;
    again_ms: its latency measured again, each time in a process of its own, for points that were to be recommended;
    macs (1 per multiply-add), params, size_bytes: of the pruned model, the bytes in the plan's precision;
    compressed_bytes: without zeros and zipped, 0 where no candidate wears masks; seconds: wall clock by activity;
    status: "ok" or "failed", with the reason.
    """

    number: int
    origin: str
    plan: Plan
    status: str = "ok"
    reason: str | None = None
    score: Score | None = None
    test: Score | None = None
    steps: int = 0
    latency: Latency | None = None
    again_ms: tuple[float, ...] = ()
    macs: int = 0
    params: int = 0
    size_bytes: int = 0
    compressed_bytes: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def quality(self) -> float:
        """The search score with "higher is better" made true."""
        if self.score is None:
            return float("-inf")
        return self.score.value if self.score.higher_is_better else -self.score.value

    @property
    def ms(self) -> float:
        """The latency's central value, infinite when there is none."""
        return float("inf") if self.latency is None else self.latency.ms

    def dominates(self, other: Candidate) -> bool:
        """At least as good in both objectives, and better in one."""
        return (self.quality >= other.quality and self.ms <= other.ms
                and (self.quality > other.quality or self.ms < other.ms))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; kept indices are left out (they are in the candidate's `plan.json`)."""
        plan = replace(self.plan, cuts={n: Cut(c.keep, c.method) for n, c in self.plan.cuts.items()})
        return {
            "number": self.number, "origin": self.origin, "plan": plan.to_json(), "status": self.status,
            "reason": self.reason, "score": self.score.to_json() if self.score else None,
            "test": self.test.to_json() if self.test else None, "steps": self.steps,
            "latency": self.latency.to_json() if self.latency else None, "again_ms": list(self.again_ms),
            "macs": self.macs, "params": self.params, "size_bytes": self.size_bytes,
            "compressed_bytes": self.compressed_bytes, "seconds": dict(self.seconds),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Candidate:
        values = dict(data)
        values["plan"] = Plan.from_json(values["plan"])
        for key, kind in (("score", Score), ("test", Score), ("latency", Latency)):
            values[key] = kind.from_json(values[key]) if values.get(key) else None
        return cls(**{**values, "again_ms": tuple(values.get("again_ms", ()))})


def load_weights(folder: Path) -> PrunedModule:
    """The torch model of a candidate, in evaluation mode and in fp32 (also of one in int8), from safetensors and JSON.
    Raises `DamagedError` where the folder, which is named by its number, is damaged.
    """
    from autoprune.graph.module import load_module

    try:
        return load_module(folder)
    except DamagedError as error:
        raise DamagedError(f"the weights of trial {int(folder.name)} cannot be read", given=error.given,
                           allowed=f"what the search wrote to {folder}",
                           fix="the search's command again, where it was stopped; else another trial (autoprune pick "
                               "RUN --trial N), or --fresh to search anew") from error


def is_complete(folder: Path, precision: str) -> bool:
    """Whether a folder holds what a search writes of a candidate, as far as can be told without reading it all."""
    from safetensors import SafetensorError, safe_open

    files = ("graph.json", "plan.json", *([INT8_FILE] if precision == "int8" else []))
    if any(not (folder / name).is_file() or not (folder / name).stat().st_size for name in files):
        return False
    try:
        with safe_open(str(folder / "weights.safetensors"), framework="np"):
            return True
    except (OSError, SafetensorError):
        return False
