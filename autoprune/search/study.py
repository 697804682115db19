"""The Optuna study: what is asked, what is told, and what survives a kill."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from autoprune.errors import ConfigError, did_you_mean
from autoprune.search.candidate import Candidate
from autoprune.search.storage import BatchedStorage, storage_errors

__all__ = ["SAMPLERS", "Study", "forget", "join_population"]

SAMPLERS = ("tpe", "knapsack", "nsga2", "gp", "random")


def _sampler(name: str, seed: int) -> BaseSampler:
    if name not in SAMPLERS:
        raise ConfigError("unknown sampler", given=name, allowed=did_you_mean(name, SAMPLERS), fix="--sampler auto")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "tpe":
            return optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=8, constant_liar=True)
        if name == "nsga2":
            return NSGAIISampler(seed=seed, population_size=12)
        if name == "gp":
            return optuna.samplers.GPSampler(seed=seed)
        return optuna.samplers.RandomSampler(seed=seed)  # "knapsack" until its curves are known (`Study.use`)


def forget(storage: str, name: str, place: str | None) -> None:
    """Delete a study from a database; nothing happens where there is none. Raises `ConfigError`, also where it belongs
    to another `place`.
    """
    with storage_errors(storage):
        opened = BatchedStorage(storage)
        try:
            opened.hold(name)
            with contextlib.suppress(KeyError):
                _check_place(optuna.load_study(study_name=name, storage=opened), place)
                optuna.delete_study(study_name=name, storage=opened)
        finally:
            opened.close()


def _check_place(study: optuna.Study, place: str | None) -> None:
    """Refuse a study of a database that another folder has the candidates of. Raises `ConfigError`."""
    known = study.user_attrs.get("place", place)
    if known != place:
        raise ConfigError(f"the study {study.study_name!r} belongs to another run folder", given=place, allowed=known,
                          fix="--run DIR with a name that nobody else uses; if that folder is gone for good: "
                              f"optuna delete-study --study-name {study.study_name} --storage URL")


def join_population(study: optuna.Study, trial: Trial) -> None:
    """Count a trial to NSGA-II's present generation. A queued one would be in none, and never a parent: NSGA-II numbers
    a trial when it is asked for its first parameter.
    """
    if isinstance(study.sampler, NSGAIISampler):
        study.sampler.get_trial_generation(study, study._storage.get_trial(trial._trial_id))


class Study:
    """A plain Optuna study with two objectives (metric, latency in milliseconds) and the budget as a constraint.

    Only this process writes to it. Every terminal trial has exactly one `Candidate` in its user attributes; a trial
    that was running when the process died is failed on the next start and, if it was queued, queued again.
    """

    def __init__(self, storage: str, sampler: str, seed: int, higher_is_better: bool, name: str = "autoprune",
                 place: str | None = None):
        """`place`: of the candidates, for a study in a database that others use too."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        first = StudyDirection.MAXIMIZE if higher_is_better else StudyDirection.MINIMIZE
        directions = [first, StudyDirection.MINIMIZE]
        with storage_errors(storage):
            self._storage = BatchedStorage(storage)
            try:
                self._storage.hold(name)
                self._study = optuna.create_study(storage=self._storage, study_name=name, directions=directions,
                                                  sampler=_sampler(sampler, seed), load_if_exists=True)
                if place is not None:
                    _check_place(self._study, place)
                    self.note("place", place)
            except BaseException:
                self._storage.close()
                raise
        done = len(self._trials())
        if done:  # a resumed search must not propose again what its first seed proposed
            self._study.sampler = _sampler(sampler, seed + done)
        self.done_before = done
        self._candidates: dict[int, Candidate] = {}  # of trials that have ended: those do not change
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.set_metric_names(["metric", "latency_ms"])

    def use(self, sampler: BaseSampler) -> None:
        """Ask `sampler` from now on."""
        self._study.sampler = sampler

    @property
    def attributes(self) -> dict[str, Any]:
        return self._study.user_attrs

    def note(self, key: str, value: Any) -> None:
        """Keep a value with the study."""
        self._study.set_user_attr(key, value)

    def repair(self, budget_ms: float | None) -> list[int]:
        """Put trials right that were running when the process died, and return their numbers.

        One whose candidate was recorded is completed with it; any other goes back to its place in the queue, or is
        failed when it was not queued but the sampler's.
        """
        broken = [t for t in self._trials() if t.state == TrialState.RUNNING]
        for frozen in broken:
            self._release(frozen, budget_ms)
        return [t.number for t in broken]

    def _release(self, frozen: FrozenTrial, budget_ms: float | None) -> None:
        if "candidate" in frozen.user_attrs:
            candidate = Candidate.from_json(json.loads(frozen.user_attrs["candidate"]))
            self.tell(Trial(self._study, frozen._trial_id), candidate, budget_ms)
        elif "origin" in frozen.user_attrs:
            # waiting again under the same number: it keeps its parameters and its place before those queued later
            self._study._storage.set_trial_state_values(frozen._trial_id, TrialState.WAITING)
        else:
            self._study.tell(frozen.number, state=TrialState.FAIL)

    def enqueue(self, origin: str, parameters: Mapping[str, Any]) -> None:
        """Queue a plan under a name that says where it comes from."""
        self._study.enqueue_trial(dict(parameters), user_attrs={"origin": origin})

    def queued_or_done(self) -> set[str]:
        """Origins of the trials that wait, or that ended with a candidate."""
        return {t.user_attrs["origin"] for t in self._trials() if "origin" in t.user_attrs
                and (t.state == TrialState.WAITING or "candidate" in t.user_attrs)}

    @property
    def queued(self) -> list[dict[str, Any]]:
        """Parameters of the plans that wait."""
        return [t.system_attrs["fixed_params"] for t in self._trials() if t.state == TrialState.WAITING]

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def ask(self) -> Trial:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = self._study.ask()
        join_population(self._study, trial)
        return trial

    def tell(self, trial: Trial, candidate: Candidate, budget_ms: float | None) -> None:
        """Record the result: first the candidate, then the state, so that a kill between them repeats the trial."""
        trial.set_user_attr("candidate", json.dumps(candidate.to_json()))
        if candidate.status == "ok" and candidate.score is not None and candidate.latency is not None:
            if budget_ms is not None and not trial.constraints:  # set already when a kill came right after
                trial.set_constraint("latency over budget, ms", candidate.ms - budget_ms)
            self._study.tell(trial, [candidate.score.value, candidate.ms])
        else:
            self._study.tell(trial, state=TrialState.FAIL)

    def abandon(self, trial: Trial, budget_ms: float | None) -> None:
        """Give up a trial that was interrupted, as `repair` does; one that has ended stays as it is."""
        frozen = self._trials()[trial.number]
        if not frozen.state.is_finished():
            self._release(frozen, budget_ms)

    def skip(self, trial: Trial, reason: str) -> None:
        """End a trial that is not worth evaluating (a repeated plan, one far over the budget, or one that looks worse
        than others do).
        """
        trial.set_user_attr("skipped", reason)
        self._study.tell(trial, state=TrialState.FAIL)

    def note_look(self, trial: Trial, ms: float, quality: float, digest: str) -> None:
        """Keep how good a plan looked before it was trained or given up."""
        trial.set_user_attr("look", [ms, quality, digest])

    def looks(self) -> list[tuple[float, float, str]]:
        """Milliseconds, quality and plan of all that was looked at, in their order."""
        return [tuple(t.user_attrs["look"]) for t in self._trials() if "look" in t.user_attrs]

    def candidates(self) -> list[Candidate]:
        """All candidates that have ended, in the order of their numbers."""
        for t in self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL)):
            if t.number not in self._candidates and "candidate" in t.user_attrs:
                self._candidates[t.number] = Candidate.from_json(json.loads(t.user_attrs["candidate"]))
        return [self._candidates[number] for number in sorted(self._candidates)]

    def close(self) -> None:
        """Release the database."""
        self._storage.close()
