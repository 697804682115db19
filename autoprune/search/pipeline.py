"""The candidate pipeline: latency on the device, prune, recover, evaluate."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch

from autoprune.devices.latency import Latency
from autoprune.devices.profiler import Profiler
from autoprune.errors import AutopruneError, ModelError
from autoprune.graph.graph import Graph
from autoprune.graph.macs import count
from autoprune.graph.module import PrunedModule
from autoprune.graph.onnx import check_onnx, export_onnx
from autoprune.graph.onnx_template import CannotSlice, OnnxTemplate
from autoprune.graph.plan import Plan
from autoprune.methods.choose import Ranking
from autoprune.methods.collect import collect
from autoprune.methods.registry import criterion
from autoprune.recover.finetune import Example, FineTune, examples, finetune
from autoprune.recover.norms import recalibrate
from autoprune.search.candidate import Candidate
from autoprune.search.space import Space
from autoprune.tasks.task import Task

__all__ = ["Clock", "Pipeline"]

_SAMPLE_BATCHES = 64


class Clock:
    """Wall clock by activity, in seconds, on the monotonic clock; an activity within another counts as itself only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._within = [0.0]

    @contextmanager
    def time(self, activity: str) -> Iterator[None]:
        start = time.perf_counter()
        self._within.append(0.0)
        try:
            yield
        finally:
            whole = time.perf_counter() - start
            self.seconds[activity] = self.seconds.get(activity, 0.0) + whole - self._within.pop()
            self._within[-1] += whole


class Pipeline:
    """Evaluates plans one at a time. What all candidates share (the dense model's logits on the fine-tuning batches,
    statistics, the ONNX template) is made once, when it is first needed.
    """

    def __init__(self, task: Task, graph: Graph, profiler: Profiler, space: Space, seed: int = 0):
        self.task, self.graph, self.profiler, self.seed = task, graph, profiler, seed
        recover = {k: v for k, v in space.recover.items() if k != "calibration_batches"}
        self.settings = FineTune(**recover)
        self._methods = {*space.methods, *(m for rule in space.groups.values() for m in rule.get("methods", ()))}
        self._calibration_batches = int(space.recover.get("calibration_batches", 6))
        self.clock = Clock()
        self.dense = _channels_last(graph.dense())
        self._template: OnnxTemplate | None = None
        self._sliceable = True
        self._ranking = Ranking(graph, seed=seed)
        self._examples: list[Example] | None = None

    # -- the steps ------------------------------------------------------------------------------------------------

    def prune(self, plan: Plan) -> PrunedModule:
        """The pruned model before recovery; what the plan's methods need of data is gathered when first asked for."""
        self._gather({c.method for c in plan.cuts.values() if c.kept is None})
        with self.clock.time("prune"):
            return _channels_last(self.graph.cut(self._ranking.resolve(plan)))

    def onnx(self, model: PrunedModule) -> bytes:
        """ONNX of a pruned model, cut out of the dense export where that works (checked once, on a random plan)."""
        if self._template is None and self._sliceable:
            try:
                self._template = self._checked_template()
            except CannotSlice:
                self._sliceable = False
        if self._template is None:
            return export_onnx(model, self.graph.example_inputs)
        return self._template.slice(model.plan, model.tensors())

    def latency(self, model: PrunedModule) -> Latency:
        return self.profiler.latency(self.onnx(model))

    def recover(self, model: PrunedModule) -> None:
        """Recalibrate norms, fine-tune `model` in place, and recalibrate again."""
        self.recalibrate(model)
        finetune(model, self.task, self._fine_tuning_examples(), self.settings, self.seed)
        self.recalibrate(model)

    def tune(self, model: PrunedModule) -> None:
        """Fine-tune an evaluated model for twice the steps, half of them on batches that no candidate has seen."""
        steps = self.settings.steps
        fresh = examples(self.task, self.dense, self.task.split("train"), min(steps, _SAMPLE_BATCHES))
        data = [*self._fine_tuning_examples(), *fresh]
        finetune(model, self.task, data, replace(self.settings, steps=2 * steps), self.seed + 1)
        self.recalibrate(model)

    def evaluate(self, number: int, origin: str, plan: Plan, latency: Latency) -> tuple[Candidate, PrunedModule]:
        """Everything about one plan, given its latency (`latency` below, which depends on widths only).

        Raises `AutopruneError` when the candidate fails.
        """
        before = dict(self.clock.seconds)
        torch.manual_seed(self.seed)
        start = time.perf_counter()
        model = self.prune(plan)
        if plan.cuts:
            with self.clock.time("train"):
                self.recover(model)
        with self.clock.time("evaluate"):
            score = self.task.evaluate(model, "validation")
        with self.clock.time("count"):
            counts = count(model, self.graph.example_inputs)
        seconds = {k: round(v - before.get(k, 0.0), 4) for k, v in self.clock.seconds.items()}
        seconds["total"] = round(time.perf_counter() - start, 4)
        candidate = Candidate(number, origin, model.plan, score=score, latency=latency, macs=counts.macs,
                              params=counts.params, size_bytes=counts.size_bytes, seconds=seconds,
                              steps=self.settings.steps if plan.cuts else 0)
        return candidate, model

    # -- shared ---------------------------------------------------------------------------------------------------

    def calibration(self) -> list[Example]:
        """The batches that norms are recalibrated on, with the dense model's logits."""
        return self._fine_tuning_examples()[: max(1, self._calibration_batches)]

    def recalibrate(self, model: PrunedModule, batches: int | None = None) -> None:
        """Set the norms' statistics to those of the first `batches` batches (of the space's number of them)."""
        used = self.calibration()[: self._calibration_batches if batches is None else batches]
        recalibrate(model, (e.inputs for e in used), self.task.forward)

    def _gather(self, methods: set[str]) -> None:
        """What `methods` need and is missing, and with it, in the same pass, what the space's other methods need."""
        have = self._ranking.statistics
        gathered = have.gathered if have is not None else frozenset()
        if _needs(methods) <= gathered:
            return
        with self.clock.time("train"):
            new = collect(self.graph, self.task.split("train"), self._loss, seed=self.seed,
                          needs=_needs(methods | self._methods) - gathered)
        self._ranking = Ranking(self.graph, new if have is None else have.joined(new), self.seed)

    def _loss(self, model: Any, inputs: Any, target: Any) -> torch.Tensor:
        return self.task.loss(self.task.forward(model, inputs), target)

    def _fine_tuning_examples(self) -> list[Example]:
        if self._examples is None:
            limit = max(self._calibration_batches, min(self.settings.steps, _SAMPLE_BATCHES))
            self._examples = examples(self.task, self.dense, self.task.split("train"), limit)
        return self._examples

    def _checked_template(self) -> OnnxTemplate:
        template = OnnxTemplate(self.graph)
        probe = self.graph.cut(Plan.uniform(self.graph, 0.5, method="random"))
        try:
            check_onnx(template.slice(probe.plan, probe.tensors()), probe, self.graph.example_inputs)
        except (ModelError, RuntimeError, ValueError, KeyError) as error:
            raise CannotSlice(str(error)) from error
        return template


def _needs(methods: Iterable[str]) -> frozenset[str]:
    return frozenset(need for m in methods for need in criterion(m).needs)


def _channels_last(model: PrunedModule) -> PrunedModule:
    """Convolution weights with channels innermost: evaluating the example took 2.5 s instead of 3.5 s."""
    return cast(PrunedModule, model.to(memory_format=torch.channels_last))  # type: ignore[call-overload]


def failure(error: BaseException) -> str:
    """One line that says why a candidate failed."""
    text = error.message if isinstance(error, AutopruneError) else str(error)
    return f"{type(error).__name__}: {text.strip().splitlines()[0] if text.strip() else ''}"[:300]
