"""The loop: evaluate the first plans (`begin.py`), then what the sampler and the front propose."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from optuna.trial import Trial

from autoprune.devices.device import Device
from autoprune.devices.profiler import open_profiler
from autoprune.errors import AutopruneError, ConfigError, DeviceError, ModelError, first_line
from autoprune.graph.graph import Graph
from autoprune.graph.plan import Plan
from autoprune.interrupts import noted_interrupts
from autoprune.search.begin import begin
from autoprune.search.candidate import Candidate
from autoprune.search.failures import CANDIDATE_ERRORS
from autoprune.search.front_models import FrontModels
from autoprune.search.halving import Halving
from autoprune.search.knapsack.sampler import KnapsackSampler
from autoprune.search.latencies import Latencies
from autoprune.search.looks import Looks
from autoprune.search.measured_nodes import MeasuredNodes
from autoprune.search.outcome import Outcome, Progress, pareto
from autoprune.search.pipeline import Pipeline
from autoprune.search.propose import DENSE, Proposer
from autoprune.search.repeats import Repeats
from autoprune.search.reuse import Reused
from autoprune.search.run_folder import RunFolder
from autoprune.search.space import Space
from autoprune.search.study import Study
from autoprune.search.workers.job import Done, Job, failed
from autoprune.search.workers.workers import Inline, Workers
from autoprune.tasks.task import Task
from autoprune.units import Budget

__all__ = ["Search"]

_FAR_OVER = 1.25  # proposals above this multiple of the budget are not trained
_PROPOSED = ("search", "variation of the front")  # origins of what may be dropped
_IN_A_ROW = 3  # candidates that the device, or the task's data and metric, may fail
_PATIENCE = 25  # proposals in a row that are not worth evaluating, before any plan that is new will do
_VARY_EVERY = 2  # candidates: a variation of the front; the knapsack sampler proposes them itself
_GRACE_S = 60.0  # for candidates that run when the time is up, at least
_MEASURED_MARGIN = 0.97  # repeatability of a measurement: aim this much below a budget that will be measured again


class Search:
    """One search. Its own process proposes, measures and writes; `workers` evaluate, in this process unless others are
    given. `run` may be interrupted by KeyboardInterrupt; what was told stays told. trials: candidates in total; None
    for what `reused` holds, and two more where that does not come near a budget.
    """

    def __init__(self, task: Task, graph: Graph, device: Device, space: Space, folder: RunFolder, *,
                 budgets: Sequence[Budget] = (), trials: int | None, timeout_s: float | None = None, seed: int = 0,
                 sampler: str = "tpe", threads: int | None = None, reused: Reused | None = None,
                 workers: Callable[[Pipeline], Workers] = Inline):
        self.reused = reused or Reused()
        self.task, self.graph, self.device, self.space, self.folder = task, graph, device, space, folder
        self.budgets, self.timeout_s, self.seed = tuple(budgets), timeout_s, seed
        self.wanted, self.trials = trials, trials or len(self.reused.candidates)
        self.knapsack = sampler == "knapsack"
        choices = self.reused.choices(space.choices(graph, device.alignment()))
        if not choices:
            raise ModelError("nothing in this model can be pruned in this space", given=f"space {space.name!r}",
                             fix="autoprune layers --model … says what is frozen and why; branches are dropped "
                                 "beside groups that are cut, not alone")
        space.check_fits(device, sampler)
        branches = tuple(dict.fromkeys([*space.branches(graph), *self.reused.dropped(graph)]))
        self.proposer = Proposer(graph, choices, seed, space.precisions, space.mask_choices(graph), branches)
        self.percentile, self.threads = self.budgets[0].percentile if self.budgets else "p50", threads
        self.pipeline = Pipeline(task, graph, space, seed)
        with ExitStack() as opened:
            self.profiler = opened.enter_context(open_profiler(device, percentile=self.percentile, threads=threads))
            self.workers = workers(self.pipeline)
            opened.callback(self.workers.close)
            # last: a folder without a study may still change its configuration
            self.study = Study(folder.storage, sampler, seed, task.higher_is_better, folder.study, folder.place)
            opened.callback(self.study.close)
            self._opened = opened.pop_all()
        self.latencies = Latencies(self.pipeline, self.profiler, device, MeasuredNodes(folder.nodes, graph, device),
                                   self.workers.paused)
        self.repeats = Repeats(self.study, self.latencies.again_ms)
        self.sampler: KnapsackSampler | None = None
        self.models = FrontModels(folder, self.study, self.reused, self.pipeline.dense)
        self._open: dict[int, Trial] = {}  # what is being evaluated
        self._jobs: dict[int, Job] = {}  # of these
        self.halving = Halving(1)
        self.looks = Looks(self.pipeline, self.workers, folder.work)
        self.looked_at: set[str] = set()  # digests of plans that were not worth training
        self._start = self._ready = time.monotonic()
        self._done_before = 0
        self._skipped = 0
        self._exhausted = False
        self._work: dict[str, float] = {}  # seconds by activity that other processes spent on candidates
        self._device_problems: list[DeviceError] = []  # of the latest candidates
        self._suspects: list[AutopruneError] = []  # likewise
        self._seconds_before: dict[str, float] = dict(self.study.attributes.get("seconds", {}))
        self.dense_ms = math.nan  # these two until `begin`
        self.budgets_ms: tuple[float, ...] = ()

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self, on_progress: Callable[[Progress], None] | None = None) -> Outcome:
        """Evaluate until the study holds `trials` candidates or the time is up."""
        tell = on_progress or (lambda _: None)
        self._start = time.monotonic()
        interrupted = False
        try:
            with noted_interrupts() as interrupts:
                begin(self)
                self._ready = time.monotonic()
                self._done_before = len(self.study.candidates())
                tell(self._progress(None))
                while not interrupts and (self.looks.ended or self._wants_more() or (
                        self.workers.running and time.monotonic() < self.until_s())):
                    for done in self._ended() or (self._next() if self._wants_more() else self._wait()):
                        candidate = self._record(done)
                        if candidate is not None:
                            tell(self._progress(candidate))
                interrupted = bool(interrupts)  # and yet here: the exception was lost
            self._abandon()
        except KeyboardInterrupt:
            interrupted = True
            self._abandon()
        candidates = self.study.candidates()
        dense = next((c for c in candidates if c.origin == DENSE and c.status == "ok"), None)
        return Outcome(candidates, self.budgets_ms, dense, self.pipeline.clock.seconds, interrupted)

    def _abandon(self) -> None:
        """Give up what is being evaluated."""
        for done in self._ended():
            self._record(done)
        self.workers.cancel()
        for trial in self._open.values():
            self.study.abandon(trial, self.target_ms)
        self._open.clear()
        self._jobs.clear()

    def until_s(self) -> float:
        """When what still runs is given up: some time after the search's own end, for candidates nearly done."""
        if self.timeout_s is None:
            return math.inf
        longest_s = max((c.seconds.get("total", 0.0) for c in self.study.candidates()), default=0.0)
        return max(self._start + self.timeout_s, self._ready) + max(_GRACE_S, longest_s)

    def close(self) -> None:
        self._opened.close()

    def total_seconds(self) -> dict[str, float]:
        """Wall clock by activity over all sessions of this study; "other" is what was none of them."""
        before = self._seconds_before
        mine, work = dict(self.pipeline.clock.seconds), dict(self._work)
        waited_s, work_s = mine.pop("candidates", 0.0), work.pop("total", 0.0)
        for activity, seconds in work.items():  # of several processes at once: what they had of the wait
            mine[activity] = mine.get(activity, 0.0) + min(1.0, waited_s / work_s) * seconds
        mine["other"] = max(0.0, time.monotonic() - self._start - sum(mine.values()))
        total = {k: round(before.get(k, 0.0) + mine.get(k, 0.0), 2) for k in {**before, **mine}}
        self.study.note("seconds", total)
        return total

    @property
    def targets_ms(self) -> list[float]:
        """What candidates aim at: the budgets, or a little under them where the device is measured."""
        return [ms * (_MEASURED_MARGIN if self.device.is_measured else 1.0) for ms in self.budgets_ms]

    @property
    def aims_ms(self) -> list[float]:
        """The same, lower where candidates turned out to take longer when they are measured again."""
        return [ms / self.repeats.excess(ms) for ms in self.targets_ms]

    @property
    def target_ms(self) -> float | None:
        """What every candidate is held to: the largest."""
        return max(self.targets_ms, default=None)

    def _wants_more(self) -> bool:
        """Whether another candidate is to be started now."""
        if self._exhausted or len(self.study.candidates()) + len(self._open) >= self.trials:
            return False
        begun = self.study.candidates() or self._open  # without the dense model there would be nothing to show
        if self.timeout_s is not None and begun and time.monotonic() - self._start > self.timeout_s:
            return False
        return self.workers.room > 0

    def _next(self) -> list[Done]:
        """Start one trial; what has ended with that: a candidate that is known already, or that the device failed."""
        candidates = self.study.candidates()
        measured_for = self.targets_ms if self.device.is_measured else []
        if self.sampler is not None and measured_for and self.repeats.look(candidates, measured_for):
            self.sampler.aim_at(self.aims_ms)
        with self.pipeline.clock.time("ask"):
            front = pareto(candidates)
            if self._skipped >= _PATIENCE and not self.study.queued:
                untried = self.proposer.untried({c.plan.digest for c in candidates} | self._evaluating()
                                                | self.looked_at)
                if untried is None:
                    self._exhausted = True
                    return []
                self.study.enqueue("random plan", untried)
            elif not self.knapsack and not self.study.queued and front \
                    and (len(candidates) + len(self._open)) % _VARY_EVERY == 0:
                self.study.enqueue("variation of the front", self.proposer.vary(self._parent(front)))
            trial = self.study.ask()
            self._open[trial.number] = trial
            plan = self.proposer.suggest(trial)
        return self._begin(trial, plan, candidates)

    def _begin(self, trial: Trial, plan: Plan, candidates: list[Candidate]) -> list[Done]:
        origin = trial.user_attrs.get("origin", "search")
        try:
            if origin in _PROPOSED:
                reason = self._not_worth(plan, candidates)
                if reason is not None:
                    self.study.skip(self._open.pop(trial.number), reason)
                    self._skipped += 1
                    return []
            self._skipped = 0
            latency = self.latencies.of(plan)
            bar = self.halving.bar(latency.ms) if origin in _PROPOSED else None
            job = Job(trial.number, origin, plan, latency, self.folder.work / f"{trial.number:04d}", bar)
            known = self.models.at_hand(job, candidates)
            if known is not None:
                return [Done(job.number, known)]
        except ConfigError:
            raise  # a setting is wrong: every candidate would fail the same way
        except CANDIDATE_ERRORS as error:
            self._device_problems = [*self._device_problems, error] if isinstance(error, DeviceError) else []
            return [Done(trial.number, failed(trial.number, origin, plan, first_line(error)))]
        self._device_problems.clear()
        while self.workers.room < 1 and time.monotonic() < self.until_s():  # less than before the looks
            self.looks.ended += self._wait()
        self._jobs[trial.number] = job
        self.workers.start(job)
        return []

    def _ended(self) -> list[Done]:
        """What has ended while looks were waited for."""
        ended, self.looks.ended = self.looks.ended, []
        return ended

    def _wait(self) -> list[Done]:
        with self.pipeline.clock.time("candidates"):
            return self.workers.wait(self.until_s())

    def _record(self, done: Done) -> Candidate | None:
        """Write down what became of a trial; None for one that was given up after a look."""
        if done.fatal is not None:
            raise done.fatal
        if done.candidate is not None and done.candidate.status == "failed" and done.candidate.origin == DENSE:
            raise ConfigError("the dense model itself could not be evaluated", given=done.candidate.reason,
                              fix="once that is put right, the same command tries again")
        if done.number < 0:  # a look that nothing waits for any more
            return None
        job, candidate = self._jobs.pop(done.number, None), done.candidate
        if job is not None and done.look is not None:
            self.halving.add(job.latency.ms, done.look, stopped=candidate is None)
            self.study.note_look(self._open[done.number], job.latency.ms, done.look, job.plan.digest)
        if candidate is None:
            self.looked_at |= {job.plan.digest} if job is not None else set()
            self.study.skip(self._open.pop(done.number), "untrained, others of its latency look better")
            return None
        self.looks.heard(candidate)
        if self.workers.elsewhere:
            for activity, seconds in candidate.seconds.items():
                self._work[activity] = self._work.get(activity, 0.0) + seconds
        with self.pipeline.clock.time("write"):
            front = pareto([*self.study.candidates(), candidate])
            self.models.settle(candidate, done.folder, front)
            self.study.tell(self._open[done.number], candidate, self.target_ms)
            del self._open[done.number]
            self.models.drop_others(front)
        self._suspects = [] if done.suspect is None else [*self._suspects, done.suspect]
        if len(self._suspects) >= _IN_A_ROW:
            raise self._suspects[-1]
        if len(self._device_problems) >= _IN_A_ROW:
            raise DeviceError(f"the device failed {_IN_A_ROW} candidates in a row, so the search stops here",
                              given=str(self._device_problems[-1]).partition("\n")[0],
                              fix=f"autoprune doctor --device {self.device.name}; the same command again resumes")
        return candidate

    def _parent(self, front: list[Candidate]) -> Candidate:
        """A front member at random, those that meet the budget first."""
        fitting = [c for c in front if self.target_ms is None or c.ms <= self.target_ms]
        pool = fitting or front[:1]
        return pool[int(self.proposer._random.integers(len(pool)))]

    def _not_worth(self, plan: Plan, candidates: list[Candidate]) -> str | None:
        if plan.digest in {c.plan.digest for c in candidates} | self._evaluating() | self.looked_at:
            return "evaluated before"
        if self.target_ms is None:
            return None
        ms = self.latencies.ms(plan)
        # below a floor that nothing beats, proposals are held to the floor: the search finds out where it is
        limit = _FAR_OVER * max(self.target_ms, min((c.ms for c in candidates), default=0.0))
        return f"{ms:.4g} ms is far over the budget" if ms > limit else None

    def _evaluating(self) -> set[str]:
        return {job.plan.digest for job in self._jobs.values()}

    # -- progress -------------------------------------------------------------------------------------------------

    def _progress(self, last: Candidate | None) -> Progress:
        candidates = self.study.candidates()
        fitting = [c for c in candidates if c.status == "ok" and (self.target_ms is None or c.ms <= self.target_ms)]
        elapsed = time.monotonic() - self._start
        new = len(candidates) - self._done_before
        left = (self.trials - len(candidates)) * elapsed / new if new else None
        if self.timeout_s is not None:
            left = min(left, self.timeout_s - elapsed) if left is not None else None
        best = max(fitting, key=lambda c: (c.quality, -c.ms), default=None)
        return Progress(len(candidates), self.trials, len(fitting), best, len(pareto(candidates)), elapsed, left, last)
