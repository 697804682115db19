"""The weights of the front's members in the run folder: trained here, or those of another device's search."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from autoprune.graph.module import PrunedModule
from autoprune.graph.plan import Plan
from autoprune.search.candidate import Candidate
from autoprune.search.outcome import pareto
from autoprune.search.reuse import Reused
from autoprune.search.run_folder import RunFolder
from autoprune.search.study import Study
from autoprune.search.workers.job import Job

__all__ = ["FrontModels"]


class FrontModels:
    """Keeps weights of those that nothing dominates, and no others. dense: the model itself."""

    def __init__(self, folder: RunFolder, study: Study, reused: Reused, dense: PrunedModule):
        self._folder, self._study, self._reused, self._dense = folder, study, reused, dense

    def at_hand(self, job: Job, candidates: list[Candidate]) -> Candidate | None:
        """The candidate of a plan that another search evaluated, with its latency here; None where there is none, or
        where it belongs on the front of `candidates` and its weights were not kept.
        """
        before = self._reused.candidates.get(job.plan.digest)
        if before is None:
            return None
        found = replace(before, number=job.number, origin=job.origin, latency=job.latency, again_ms=(), test=None,
                        seconds={})
        kept = _is_whole(found.plan) or self._reused.weights(before) is not None
        return found if kept or found not in pareto([*candidates, found]) else None

    def settle(self, candidate: Candidate, trained: Path | None, front: list[Candidate]) -> None:
        """Keep the weights of a new candidate if it is on the `front`. trained: the folder where it was trained, which
        is gone afterwards; None for one that was `at_hand`.
        """
        if candidate not in front:
            if trained is not None:
                shutil.rmtree(trained, ignore_errors=True)
        elif trained is not None:
            self._folder.take_model(candidate.number, trained)
        else:
            self._adopt(candidate)

    def drop_others(self, front: list[Candidate]) -> None:
        """Drop the weights of those that are on the `front` no more; only once what replaced them is written down."""
        keep = {c.number for c in front}
        for folder in self._folder.candidates.iterdir():
            if folder.name.isdigit() and int(folder.name) not in keep:
                self._folder.drop_model(int(folder.name))

    def _adopt(self, candidate: Candidate) -> None:
        """The weights of another search with their test score (the test split is read once)."""
        before = self._reused.candidates[candidate.plan.digest]
        if _is_whole(candidate.plan):
            self._folder.save_model(candidate.number, self._dense)
        else:
            source = self._reused.weights(before)
            assert source is not None  # `at_hand` has looked
            self._folder.adopt_model(candidate.number, source)
        if before.test is not None:
            scores = self._study.attributes.get("test_scores", {})
            self._study.note("test_scores", {**scores, str(candidate.number): before.test.to_json()})


def _is_whole(plan: Plan) -> bool:
    """Whether it is the model itself: its weights are at hand."""
    return plan.is_dense and plan.precision == "fp32"
