"""One task of the real nets, its oracle of latency, and what a run has evaluated."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoprune.devices.device import Device
from autoprune.devices.latency import Latency
from autoprune.devices.profiler import PredictedProfiler
from autoprune.graph.graph import trace
from autoprune.graph.plan import Cut, Plan
from autoprune.search.candidate import Candidate
from autoprune.search.failures import CANDIDATE_ERRORS
from autoprune.search.pipeline import Pipeline
from autoprune.search.propose import Proposer
from autoprune.search.run import Search
from autoprune.search.run_folder import RunFolder
from autoprune.search.space import space_for

sys.path.insert(0, str(Path(__file__).parent))
from clock import Clock
from real_tasks import trained

METHOD = "wanda"  # of the ways that do not choose one: on each of the nets the best of the table, or within 0.1 points


class TimeUp(BaseException):
    """Not an `Exception`: nothing catches it on the way."""


class World:
    """One task, and the points that one run has evaluated. `models` are ONNX bytes of the points that have been on the
    front of what was seen, by place in `rows`.
    """

    def __init__(self, name: str, seed: int, seconds: float, device: Device):
        self.task, self.seed, self.seconds, self.device = trained(name), seed, seconds, device
        self.graph = trace(self.task.model, self.task.example_inputs)
        self.space = space_for("default")
        self.profiler = PredictedProfiler(device)  # the same number for the same widths, in every run
        self.random = np.random.default_rng(seed)
        self.rows: list[dict[str, float]] = []
        self.models: dict[int, bytes] = {}
        self.pipeline = Pipeline(self.task, self.graph, self.space, seed)
        self.proposer = Proposer(self.graph, self.space.choices(self.graph, self.device.alignment()), seed)
        self._known: dict[tuple[Any, ...], Latency] = {}
        self.pipeline.onnx(self.pipeline.dense)  # a template that every way would make
        self.clock = Clock()

    @property
    def spent(self) -> float:
        """Seconds on the clock."""
        return self.clock.spent

    def note(self, ms: float, model: torch.nn.Module, seen: float, onnx: Callable[[], bytes]) -> None:
        """A point. If it is on the front of what was seen it is tested, and `onnx` makes its file, for it to be timed
        once all is over.
        """
        row = {"s": self.spent, "ms": ms, "seen": seen}
        if all(r["ms"] > ms or r["seen"] < seen for r in self.rows):
            row["test"] = self.clock.off(lambda: self.task.evaluate(model, "test").value)
            self.models[len(self.rows)] = self.clock.off(onnx)
        self.rows.append({key: round(value, 5) for key, value in row.items()})
        if self.spent > self.seconds:
            raise TimeUp

    def ms(self, plan: Plan) -> float:
        return self.latency(plan).ms

    def latency(self, plan: Plan) -> Latency:
        widths = tuple(sorted((n, c.keep) for n, c in plan.cuts.items()))
        if widths not in self._known:
            any_units = Plan({n: Cut(k, "random") for n, k in widths})
            self._known[widths] = self.profiler.latency(self.pipeline.onnx(self.graph.cut(any_units)))
        return self._known[widths]

    def evaluate(self, plan: Plan, steps: int | None = None) -> float:
        """The search score of a plan, noted as a point unless `steps` says 0 steps of a mere look."""
        pipeline = self.pipeline
        settings = pipeline.recovery
        if steps is not None:
            pipeline.recovery = replace(settings, tune=replace(settings.tune, steps=steps))
        try:
            found, model, _ = pipeline.evaluate(0, "", plan, self.latency(plan))
        except CANDIDATE_ERRORS:
            return -math.inf
        finally:
            pipeline.recovery = settings
        assert found.score is not None
        self.note(self.ms(plan), model, found.score.value, lambda: pipeline.onnx(model))
        return found.score.value

    def uniform(self, keep: float, jitter: float = 0.0) -> Plan:
        widths = {n: min(c.widths, key=lambda w, c=c: abs(w / c.widths[-1] - keep - jitter * self.random.normal()))
                  for n, c in self.proposer.choices.items()}
        return self.proposer.plan(self.proposer.parameters(widths, dict.fromkeys(widths, METHOD)))


def spread() -> Any:
    """Numbers in (0, 1), ever finer (van der Corput)."""
    for i in range(1, 10_000):
        yield sum(((i >> k) & 1) / 2 ** (k + 1) for k in range(14))


def search(world: World, sampler: str, trials: int, heard: Callable[[Candidate, Any], None], **space: Any
           ) -> dict[str, Any]:
    """autoprune's own search, whose pipeline tells `heard` every candidate and its model; what its study notes."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder, \
            RunFolder(folder).open({"model_fingerprint": ""}) as run:
        runner = Search(world.task, world.graph, world.device, replace(world.space, **space), run, trials=trials,
                        seed=world.seed, sampler=sampler)
        runner.latencies._profiler = world.profiler
        runner.pipeline.maker = world.pipeline.maker
        evaluate = runner.pipeline.evaluate

        def noted(*job: Any) -> tuple[Candidate, Any, Any]:
            found = evaluate(*job)
            heard(*found[:2])
            return found
        runner.pipeline.evaluate = noted
        try:
            runner.run()
            return runner.study.attributes
        finally:
            runner.close()
