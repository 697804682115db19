"""The loop: open or resume the study, evaluate the controls, then what the sampler and the front propose."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from autoprune.devices.device import Device
from autoprune.devices.latency import Latency
from autoprune.devices.profiler import MeasuredProfiler, open_profiler
from autoprune.errors import ConfigError, DeviceError, ModelError
from autoprune.graph.graph import Graph
from autoprune.graph.module import PrunedModule
from autoprune.graph.plan import Cut, Plan
from autoprune.search.candidate import Candidate
from autoprune.search.depth import depth_starts
from autoprune.search.knapsack.curves import Curve
from autoprune.search.knapsack.sampler import KnapsackSampler
from autoprune.search.knapsack.sensitivity import scan
from autoprune.search.measured_nodes import MeasuredNodes
from autoprune.search.outcome import Outcome, Progress, pareto
from autoprune.search.pipeline import CANDIDATE_ERRORS, Pipeline, failure
from autoprune.search.plan_latency import PlanLatency
from autoprune.search.propose import DENSE, Proposer
from autoprune.search.rankings import ranked_starts
from autoprune.search.reuse import Reused
from autoprune.search.run_folder import RunFolder
from autoprune.search.space import Space
from autoprune.search.study import Study
from autoprune.tasks.task import Task
from autoprune.units import Budget

__all__ = ["Search"]

_FAR_OVER = 1.25  # proposals above this multiple of the budget are not trained
_DEVICE_PATIENCE = 3  # candidates in a row that the device may fail
_PATIENCE = 25  # proposals in a row that are not worth evaluating, before any plan that is new will do
_VARY_EVERY = 2  # candidates: a variation of the front; the knapsack sampler proposes them itself
_MEASURED_MARGIN = 0.97  # repeatability of a measurement: aim this much below a budget that will be measured again


class Search:
    """One search in one process. `run` may be interrupted by KeyboardInterrupt; what was told stays told."""

    def __init__(self, task: Task, graph: Graph, device: Device, space: Space, folder: RunFolder, *,
                 budget: Budget | None, trials: int, timeout_s: float | None = None, seed: int = 0,
                 sampler: str = "tpe", threads: int | None = None, reused: Reused | None = None):
        self.reused = reused or Reused()
        self.task, self.graph, self.device, self.space, self.folder = task, graph, device, space, folder
        self.budget, self.trials, self.timeout_s, self.seed = budget, trials, timeout_s, seed
        self._knapsack = sampler == "knapsack"
        choices = self.reused.choices(space.choices(graph, device.alignment()))
        if not choices:
            raise ModelError("nothing in this model can be pruned in this space", given=f"space {space.name!r}",
                             fix="autoprune layers --model … says what is frozen and why")
        _check_space(space, device, self._knapsack)
        branches = () if self._knapsack else tuple(dict.fromkeys([*space.branches(graph), *self.reused.dropped(graph)]))
        self.proposer = Proposer(graph, choices, seed, space.precisions, space.mask_choices(graph), branches)
        self._percentile, self._threads = budget.percentile if budget else "p50", threads
        self.profiler = open_profiler(device, percentile=self._percentile, threads=threads)
        self.pipeline = Pipeline(task, graph, self.profiler, space, seed)
        # last: a folder without a study may still change its configuration
        self.study = Study(folder.storage, sampler, seed, task.higher_is_better)
        self._nodes = MeasuredNodes(folder.nodes, graph, device)
        self._latencies: dict[tuple[str, tuple[str, ...], tuple[tuple[str, int], ...]], Latency] = {}
        self._start = time.monotonic()
        self._done_before = 0
        self._skipped = 0
        self._exhausted = False
        self._device_failures = 0
        self._seconds_before: dict[str, float] = dict(self.study.attributes.get("seconds", {}))
        self.budget_ms: float | None = None

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self, on_progress: Callable[[Progress], None] | None = None) -> Outcome:
        """Evaluate until the study holds `trials` candidates or the time is up."""
        tell = on_progress or (lambda _: None)
        self._start = time.monotonic()
        interrupted = False
        try:
            self._prepare()
            self._done_before = len(self.study.candidates())
            tell(self._progress(None))
            while not self._finished():
                candidate = self._next()
                if candidate is not None:
                    tell(self._progress(candidate))
        except KeyboardInterrupt:
            interrupted = True
        candidates = self.study.candidates()
        dense = next((c for c in candidates if c.origin == DENSE and c.status == "ok"), None)
        return Outcome(candidates, self.budget_ms, dense, self.pipeline.clock.seconds, interrupted)

    def close(self) -> None:
        self.profiler.close()
        self.study.close()

    def total_seconds(self) -> dict[str, float]:
        """Wall clock by activity over all sessions of this study; "other" is what was none of them."""
        before = self._seconds_before
        mine = dict(self.pipeline.clock.seconds)
        mine["other"] = max(0.0, time.monotonic() - self._start - sum(mine.values()))
        total = {k: round(before.get(k, 0.0) + mine.get(k, 0.0), 2) for k in {**before, **mine}}
        self.study.note("seconds", total)
        return total

    def _prepare(self) -> None:
        clock = self.pipeline.clock
        with clock.time("measure"):
            dense_onnx = self.pipeline.onnx(self.pipeline.dense)
            self.profiler.reference = dense_onnx
            known = self.study.attributes.get("dense_ms")
            if isinstance(self.profiler, MeasuredProfiler):
                self.profiler.baseline_ms = known
            dense = self.profiler.latency(dense_onnx)
            self._keep_nodes(Plan())
        if known is None:
            self.study.note("dense_ms", dense.ms)
            known = dense.ms
        if self.budget is not None:
            self.budget_ms = self.budget.resolve_ms(float(known))
        self._latencies["fp32", (), ()] = dense
        for precision in self.proposer.precisions:  # what cannot be quantised is found before anything is trained
            self._latency_of(Plan(model=self.graph.fingerprint, precision=precision))
        self.study.repair(self.target_ms)
        sampler = self._knapsack_sampler(float(known)) if self._knapsack else None
        if not self.study.attributes.get("queued"):
            self._queue_controls(float(known), sampler)

    def _exact_ms(self, plan: Plan) -> float:
        return self._latency_of(plan).ms

    def _price_ms(self) -> Callable[[Plan], float]:
        """For many plans: the device's own latency, or the table's where that would be a measurement each."""
        if not self.device.is_measured or not self.proposer.branches:
            return self._exact_ms
        table = self._table()
        return lambda plan: table.latency(plan).ms

    def _table(self) -> PlanLatency:
        """Prices plans without making them."""
        if isinstance(self.profiler, MeasuredProfiler):
            return self._nodes.table(self.profiler.measurer.hello().machine)
        return PlanLatency(self.graph, self.device, threads=self._threads, percentile=self._percentile)

    def _knapsack_sampler(self, dense_ms: float) -> KnapsackSampler:
        """The sampler, on curves that are scanned once per study."""
        table, known = self._table(), self.study.attributes.get("knapsack")
        if known is None:
            curves, shared = scan(self.pipeline, self.proposer.choices, table)
            known = {"curves": {name: c.to_json() for name, c in curves.items()}, "shared": shared}
            self.study.note("knapsack", known)
        curves = {name: Curve.from_json(c) for name, c in known["curves"].items()}
        targets_ms = [] if self.target_ms is None else [self.target_ms]
        sampler = KnapsackSampler(self.proposer, curves, dense_ms, targets_ms, lambda plan: table.latency(plan).ms,
                                  known["shared"], self.seed + self.study.done_before)
        self.study.use(sampler)
        return sampler

    def _queue_controls(self, dense_ms: float, knapsack: KnapsackSampler | None) -> None:
        """Dense, uniform ratios and starting points; of those that are the same plan only the first."""
        aim = self.target_ms if self.target_ms is not None else 0.5 * dense_ms
        if knapsack is not None:
            starts = self.proposer.starts(aim, lambda ms, methods: knapsack.at(ms, methods=methods), (0.85, 0.7, 0.5))
        else:
            starts = self.proposer.starts(aim, self.proposer.uniform_at(self._exact_ms), (0.7,))
        ranked = ranked_starts(self.pipeline, self.proposer, self.space.rankings, aim, self._exact_ms)
        depth = depth_starts(self.pipeline, self.proposer, aim, self._exact_ms, self._price_ms())
        wanted = {**self._reused_plans(), **self.proposer.controls(),
                  **self.proposer.at_budget(aim, self._exact_ms), **depth, **starts, **ranked}
        have, seen = self.study.queued_or_done(), set()
        for origin, parameters in wanted.items():
            digest = self.proposer.plan(parameters, origin).digest
            if origin not in have and digest not in seen:
                self.study.enqueue(origin, parameters)
            seen.add(digest)
        self.study.note("queued", True)

    def _reused_plans(self) -> dict[str, dict[str, Any]]:
        """Parameters of what another search evaluated; the controls of any device keep their names."""
        same = self.proposer.controls().keys()
        return {c.origin if c.origin in same else f"reused: trial {c.number}": self.proposer.parameters_of(c.plan)
                for c in self.reused.in_order(self._latency_of) if {*c.plan.dropped} <= {*self.proposer.branches}}

    @property
    def target_ms(self) -> float | None:
        """The budget that candidates are held to: a little under it where the device is measured."""
        if self.budget_ms is None:
            return None
        return self.budget_ms * (_MEASURED_MARGIN if self.device.is_measured else 1.0)

    def _finished(self) -> bool:
        if self._exhausted or len(self.study.candidates()) >= self.trials:
            return True
        return self.timeout_s is not None and time.monotonic() - self._start > self.timeout_s

    def _next(self) -> Candidate | None:
        """Evaluate one trial; None when the proposal was not worth evaluating."""
        clock = self.pipeline.clock
        with clock.time("ask"):
            candidates = self.study.candidates()
            front = pareto(candidates)
            if self._skipped >= _PATIENCE and not self.study.waiting:
                untried = self.proposer.untried({c.plan.digest for c in candidates})
                if untried is None:
                    self._exhausted = True
                    return None
                self.study.enqueue("random plan", untried)
            elif not self._knapsack and not self.study.waiting and len(candidates) % _VARY_EVERY == 0 and front:
                self.study.enqueue("variation of the front", self.proposer.vary(self._parent(front)))
            trial = self.study.ask()
            plan = self.proposer.suggest(trial)
        origin = trial.user_attrs.get("origin", "search")
        try:
            return self._evaluate(trial, origin, plan, candidates)
        except KeyboardInterrupt:
            self.study.abandon(trial, self.target_ms)
            raise

    def _evaluate(self, trial: object, origin: str, plan: Plan, candidates: list[Candidate]) -> Candidate | None:
        from optuna.trial import Trial

        assert isinstance(trial, Trial)
        clock = self.pipeline.clock
        model = int8 = problem = None
        try:
            if origin in ("search", "variation of the front"):
                reason = self._not_worth(plan, candidates)
                if reason is not None:
                    self.study.skip(trial, reason)
                    self._skipped += 1
                    return None
            self._skipped = 0
            candidate = self._known(trial.number, origin, plan)
            if candidate is None:
                candidate, model, int8 = self.pipeline.evaluate(trial.number, origin, plan, self._latency_of(plan))
        except ConfigError:
            raise  # a setting is wrong: every candidate would fail the same way
        except CANDIDATE_ERRORS as error:
            candidate, problem = Candidate(trial.number, origin, plan, "failed", failure(error)), error
        with clock.time("write"):
            front = pareto([*self.study.candidates(), candidate])
            if candidate in front:
                self._keep_model(candidate, model, int8)
            self.study.tell(trial, candidate, self.target_ms)
            self._drop_dominated(front)
        self._device_failures = self._device_failures + 1 if isinstance(problem, DeviceError) else 0
        if self._device_failures >= _DEVICE_PATIENCE:
            raise DeviceError(f"the device failed {_DEVICE_PATIENCE} candidates in a row, so the search stops here",
                              given=str(problem).partition("\n")[0],
                              fix=f"autoprune doctor --device {self.device.name}; the same command again resumes")
        return candidate

    def _known(self, number: int, origin: str, plan: Plan) -> Candidate | None:
        """The candidate of a plan that another search evaluated, with its latency here; None where there is none, or
        where it belongs on the front and its weights were not kept.
        """
        before = self.reused.candidates.get(plan.digest)
        if before is None:
            return None
        found = replace(before, number=number, origin=origin, latency=self._latency_of(plan), test=None, seconds={})
        wanted = found in pareto([*self.study.candidates(), found])
        return None if wanted and self.reused.weights(before) is None else found

    def _keep_model(self, candidate: Candidate, model: PrunedModule | None, int8: bytes | None) -> None:
        if model is not None:
            self.folder.save_model(candidate.number, model, int8)
        elif (source := self.reused.weights(self.reused.candidates[candidate.plan.digest])) is not None:
            self.folder.adopt_model(candidate.number, source)

    def _drop_dominated(self, front: list[Candidate]) -> None:
        keep = {c.number for c in front}
        for folder in self.folder.candidates.iterdir():
            if folder.name.isdigit() and int(folder.name) not in keep:
                self.folder.drop_model(int(folder.name))

    def _parent(self, front: list[Candidate]) -> Candidate:
        """A front member at random, those that meet the budget first."""
        fitting = [c for c in front if self.target_ms is None or c.ms <= self.target_ms]
        pool = fitting or front[:1]
        return pool[int(self.proposer._random.integers(len(pool)))]

    def _not_worth(self, plan: Plan, candidates: list[Candidate]) -> str | None:
        if any(c.plan.digest == plan.digest for c in candidates):
            return "evaluated before"
        if self.target_ms is None:
            return None
        ms = self._latency_of(plan).ms
        # below a floor that nothing beats, proposals are held to the floor: the search finds out where it is
        limit = _FAR_OVER * max(self.target_ms, min((c.ms for c in candidates), default=0.0))
        return f"{ms:.4g} ms is far over the budget" if ms > limit else None

    def _latency_of(self, plan: Plan) -> Latency:
        """Latency of a plan. It does not depend on which units stay: no method has to choose them, and plans that
        differ in methods only are measured once. Masks are not counted; a note tells what the device's file says of
        them.
        """
        widths = plan.precision, plan.dropped, tuple(sorted((n, c.keep) for n, c in plan.cuts.items()))
        if widths not in self._latencies:
            with self.pipeline.clock.time("measure"):
                self._latencies[widths] = self.pipeline.latency(self._any_units(plan))
                self._keep_nodes(plan)
        latency = self._latencies[widths]
        patterns = dict.fromkeys(m.pattern for m in plan.masks.values())
        return replace(latency, notes=(*latency.notes, *map(self.device.mask_note, patterns)))

    def _keep_nodes(self, plan: Plan) -> None:
        """What the nodes of a plan just measured took; those of a model in int8, or of one that lacks some, teach
        nothing about the table's.
        """
        if plan.precision != "fp32" or plan.dropped:
            return
        if isinstance(self.profiler, MeasuredProfiler) and self.profiler.last is not None:
            self._nodes.keep(plan, self.profiler.last)

    def _any_units(self, plan: Plan) -> PrunedModule:
        """A model of the plan's widths."""
        any_units = replace(plan, cuts={n: Cut(c.keep, "random") for n, c in plan.cuts.items()}, masks={})
        return self.pipeline.dense if any_units.digest == Plan().digest else self.graph.cut(any_units)

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


def _check_space(space: Space, device: Device, knapsack: bool) -> None:
    """Refuse what the device or the sampler cannot do."""
    if knapsack and space.masks:
        raise ConfigError("the knapsack sampler does not choose masks", given=f"the space {space.name!r}",
                          fix="--sampler tpe, or a space without [masks]")
    if "int8" not in space.precisions:
        return
    if device.runtime != "onnxruntime":
        raise ConfigError("int8 is for devices that run onnxruntime", given=f"{device.name}: {device.runtime}",
                          allowed="cpu, ssh://…, or a profile such as rpi4", fix='precisions = ["fp32"] in the space')
    if knapsack:
        raise ConfigError("the knapsack sampler does not choose a precision", given=f"the space {space.name!r}",
                          fix='--sampler tpe, or precisions = ["fp32"] in the space')
