"""What another search evaluated, for a search of the same model on another device: scores do not depend on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autoprune.devices.latency import Latency
from autoprune.errors import ConfigError, DeviceError
from autoprune.graph.graph import Graph
from autoprune.graph.plan import Plan
from autoprune.search.candidate import Candidate, is_complete
from autoprune.search.outcome import pareto
from autoprune.search.propose import DENSE
from autoprune.search.space import Choices

__all__ = ["Reused", "require_same"]

_SHAPED_BY = {"model_fingerprint": ("model",), "task_fingerprint": ("data", "loss"), "metric": ("metric",),
              "recovery_digest": ("space", "steps")}  # what scores depend on, and the settings behind it
_NEAR = 0.75  # of a budget: what is faster leaves accuracy on the table


@dataclass(frozen=True)
class Reused:
    """The successful candidates of another run, by the digest of their plans.

    folder: of the run's candidates, where those on its front have their weights.
    """

    candidates: Mapping[str, Candidate] = field(default_factory=dict)
    folder: Path = Path()

    @classmethod
    def of(cls, candidates: Sequence[Candidate], folder: Path, precisions: Sequence[str]) -> Reused:
        """Of candidates in `precisions`; of those with the same plan the first."""
        found: dict[str, Candidate] = {}
        for c in candidates:
            if c.status == "ok" and c.plan.precision in precisions:
                found.setdefault(c.plan.digest, c)
        return cls(found, folder)

    def weights(self, candidate: Candidate) -> Path | None:
        """Folder of the weights; None where they were not kept, or are damaged."""
        path = self.folder / f"{candidate.number:04d}"
        return path if is_complete(path, candidate.plan.precision) else None

    def choices(self, choices: Mapping[str, Choices]) -> dict[str, Choices]:
        """The choices, with the widths and methods of the candidates among them: devices differ in alignment."""
        out = dict(choices)
        for c in self.candidates.values():
            for name, cut in c.plan.cuts.items():
                if name in out:
                    have = out[name]
                    out[name] = replace(have, widths=tuple(sorted({*have.widths, cut.keep})),
                                        methods=tuple(dict.fromkeys([*have.methods, cut.method])))
        return out

    def dropped(self, graph: Graph) -> list[str]:
        """The residual branches that some candidate does without."""
        found = {name for c in self.candidates.values() for name in c.plan.dropped}
        return [name for name in graph.branches if name in found]

    def meets(self, targets_ms: Sequence[float], latency_of: Callable[[Plan], Latency]) -> bool:
        """Whether each of these latencies has a candidate at or just below it on this device."""
        have_ms = [c.ms for c in self._timed(latency_of)]
        return all(any(_NEAR * target <= ms <= target for ms in have_ms) for target in targets_ms)

    def in_order(self, latency_of: Callable[[Plan], Latency]) -> list[Candidate]:
        """Those that no other dominates on this device first, the dense model before all. So one without weights that
        is on the front when its turn comes belongs there, and its weights are worth training again.
        """
        first = {c.plan.digest for c in pareto(self._timed(latency_of))}
        return sorted(self.candidates.values(), key=lambda c: (c.origin != DENSE, c.plan.digest not in first, c.number))

    def _timed(self, latency_of: Callable[[Plan], Latency]) -> list[Candidate]:
        """With their latency on this device. What it cannot run has none: that candidate fails when its turn comes.
        Raises `DeviceError` when it can run none.
        """
        out, problem = [], None
        for c in self.candidates.values():
            try:
                out.append(replace(c, latency=latency_of(c.plan)))
            except DeviceError as error:
                out.append(replace(c, latency=None))
                problem = error
        if problem is not None and all(c.latency is None for c in out):
            raise problem
        return out


def require_same(run: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `ConfigError` when the scores of `run` would not be those of a search with the settings of `now`."""
    differing = [key for key in _SHAPED_BY if before.get(key) != now[key]]
    if not differing:
        return
    words = []
    for key in differing:
        words += [f"{name} {_given(before.get(name))} there and {_given(now.get(name))} here"
                  for name in _SHAPED_BY[key] if before.get(name) != now.get(name)
                  ] or [f"another {key.partition('_')[0]}"]
    fix = "leave --reuse out, or name a run of this model and space"
    steps = before.get("steps")
    if differing == ["recovery_digest"] and before.get("space") == now.get("space") and steps != now.get("steps"):
        fix = "leave --steps out" if steps is None else f"--steps {steps}"
    raise ConfigError("scores of a run are taken over for the same model, data, metric and recovery only",
                      given=f"{run}: {'; '.join(words)}", fix=fix)


def _given(value: Any) -> str:
    return "not given" if value is None else str(value)
