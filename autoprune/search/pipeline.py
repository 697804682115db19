"""The candidate pipeline: latency on the device, prune, recover, evaluate."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from autoprune.accelerator import on_accelerator
from autoprune.devices.latency import Latency
from autoprune.errors import ConfigError
from autoprune.graph.graph import Graph
from autoprune.graph.macs import count
from autoprune.graph.module import PrunedModule
from autoprune.graph.onnx_int8 import quantize, weight_bytes
from autoprune.graph.onnx_maker import OnnxMaker
from autoprune.graph.onnx_module import OnnxModule
from autoprune.graph.plan import Plan
from autoprune.methods.choose import Ranking
from autoprune.methods.collect import collect
from autoprune.methods.masks.apply import zeros_kept
from autoprune.methods.masks.size import sparse_zip, zipped_bytes
from autoprune.methods.registry import criterion, refitted_groups
from autoprune.methods.statistics import GRAM, Statistics
from autoprune.recover.cycles import shrink
from autoprune.recover.features import Features, unchanged
from autoprune.recover.finetune import Example, Extras, FineTune, distillation, examples, finetune
from autoprune.recover.norms import recalibrate
from autoprune.recover.penalties import penalty_of
from autoprune.recover.recovery import Recovery
from autoprune.recover.sparsify import mask_planned
from autoprune.recover.start import early_graph, read_checkpoint, reinitialise
from autoprune.search.candidate import Candidate
from autoprune.search.clock import Clock
from autoprune.search.failures import CANDIDATE_ERRORS
from autoprune.search.space import Space
from autoprune.tasks.score import Score
from autoprune.tasks.task import Task
from autoprune.tasks.tensors import evaluating, halves, sample_count

__all__ = ["Pipeline"]

_SAMPLE_BATCHES = 64
_LOOK_SAMPLES = 256


class Pipeline:
    """Evaluates plans one at a time. What all candidates share (the dense model's logits on the fine-tuning batches,
    statistics, the ONNX template) is made once, when it is first needed.
    """

    def __init__(self, task: Task, graph: Graph, space: Space, seed: int = 0):
        self.task, self.graph, self.seed = task, graph, seed
        self.recovery = Recovery.of(space.recover, space.schedule)
        self.settings = self.recovery.tune
        self._early = self._early_weights() if self.recovery.start == "rewind" else None
        self._methods = {*space.methods, *(m for rule in space.groups.values() for m in rule.get("methods", ()))}
        self._compress = bool(space.masks)
        self.clock = Clock()
        self.dense = _channels_last(graph.dense())
        self.maker = OnnxMaker(graph)
        self._rankings: list[Ranking] = []  # by the weights that candidates start from, and by those of the last cycle
        self._examples: list[Example] | None = None

    # -- the steps ------------------------------------------------------------------------------------------------

    def prune(self, plan: Plan) -> PrunedModule:
        """The pruned model before recovery, cut at once."""
        return self.cut(self.source, self.choose(self.source, plan))

    def choose(self, graph: Graph, plan: Plan, within: Plan | None = None) -> Plan:
        """`plan` with the units that stay; what its methods need of data is gathered when first asked for."""
        ranking = self._ranking(graph, _needs(c.method for c in plan.cuts.values() if c.kept is None))
        with self.clock.time("prune"):
            return ranking.resolve(plan, within)

    def cut(self, graph: Graph, plan: Plan) -> PrunedModule:
        """The model that a resolved plan leaves, with the weights that recovery starts from; the dense model's own."""
        if self.recovery.start != "keep" and not plan.is_dense:
            with self.clock.time("prune"):
                model = (self._early or graph).build(plan)
                if self.recovery.start == "random":
                    reinitialise(graph, model, self.seed)
                return _channels_last(model)
        all_groups = self.recovery.least_squares
        needs = frozenset({GRAM} if plan.cuts and (all_groups or refitted_groups(plan)) else ())
        statistics = self._ranking(graph, needs).statistics
        with self.clock.time("prune"):
            return _channels_last(graph.cut(plan, statistics, least_squares=all_groups))

    def onnx(self, model: PrunedModule) -> bytes:
        """ONNX of a pruned model."""
        return self.maker.onnx(model)

    def int8(self, model: PrunedModule) -> bytes | None:
        """ONNX in int8 of a model whose plan asks for it, with ranges of the calibration batches; None of any other."""
        if model.plan.precision != "int8":
            return None
        return quantize(self.onnx(model), self.graph.example_inputs, (e.inputs for e in self.calibration()))

    def score(self, model: PrunedModule, int8: bytes | None, split: str) -> Score:
        """The score of what is deployed: of the model in torch, or of its ONNX in int8 in onnxruntime."""
        deployed = model if int8 is None else OnnxModule(int8, model, self.graph.example_inputs)
        with self.clock.time("evaluate"):
            return self.task.evaluate(deployed, split)

    def deployed(self, model: PrunedModule) -> bytes:
        """ONNX of what is deployed: the one in int8 where that is the plan's precision."""
        return self.int8(model) or self.onnx(model)

    def recover(self, model: PrunedModule, steps: int, cycle: int = 0) -> None:
        """Set the masks of the model's plan, fine-tune `model` in place, and recalibrate its norms: before that, too,
        where something reads them.
        """
        with self.clock.time("train"):
            if model.plan.masks or self.settings.patience:
                self.recalibrate(model)
            if model.plan.masks:
                mask_planned(model, self.graph.example_inputs, self.task, self.calibration(), self.seed
                             ).make_permanent()
            with zeros_kept(model, model.plan.masks):
                self._finetune(model, self._fine_tuning_examples(), steps, self.seed + cycle)
            self.recalibrate(model)

    def tune(self, model: PrunedModule) -> None:
        """Fine-tune an evaluated model for twice the steps, half of them on batches that no candidate has seen."""
        steps = self.settings.steps
        fresh = examples(self.task, self.dense, self.task.split("train"), min(steps, _SAMPLE_BATCHES))
        data = [*self._fine_tuning_examples(), *fresh]
        with zeros_kept(model, model.plan.masks):
            self._finetune(model, data, 2 * steps, self.seed + 1)
        self.recalibrate(model)

    def evaluate(self, number: int, origin: str, plan: Plan, latency: Latency
                 ) -> tuple[Candidate, PrunedModule, bytes | None]:
        """Everything about one plan, given its latency (which depends on widths and precision only):
        the candidate, the model, and its ONNX in int8 if that is the plan's precision.

        Raises `AutopruneError` when the candidate fails.
        """
        before = dict(self.clock.seconds)
        torch.manual_seed(self.seed)
        start = time.perf_counter()
        model = self.prune(plan) if plan.is_dense else shrink(self.source, plan, self.recovery, self)
        with self.clock.time("quantize"):
            int8 = self.int8(model)
        score = self.score(model, int8, "validation")
        with self.clock.time("count"):
            counts = count(model, self.graph.example_inputs)
        seconds = {k: round(v - before.get(k, 0.0), 4) for k, v in self.clock.seconds.items()}
        seconds["total"] = round(time.perf_counter() - start, 4)
        candidate = Candidate(number, origin, model.plan, score=score, latency=latency, macs=counts.macs,
                              params=counts.params, seconds=seconds,
                              size_bytes=counts.size_bytes if int8 is None else weight_bytes(int8),
                              compressed_bytes=self._compressed_bytes(model, int8),
                              steps=0 if plan.is_dense else self.settings.steps)
        return candidate, model, int8

    def look(self, plan: Plan) -> float:
        """The quality (higher is better) of the untrained model, readers refitted: minus its divergence on a few
        training batches, −inf where that is no number. Not the metric on the search split: what was chosen by that
        would look better on it than it is. Raises `AutopruneError` when the candidate fails.
        """
        model = self.prune(plan)
        with self.clock.time("look"):
            divergence = self.divergence(model, self._looked_at())
        return -divergence if math.isfinite(divergence) else -math.inf

    def divergence(self, model: PrunedModule, data: Sequence[Example]) -> float:
        """How far the outputs of a model that was only cut are from the dense model's, the mean of training batches: as
        in distillation, at a temperature of 1; the task's own loss where the outputs cannot be compared. Norms go by
        each batch's own statistics, and have those of `data` afterwards: as good as to recalibrate them first
        (`docs/decisions/2026-11-28-looks-in-one-pass.md`), and twice as fast.
        """
        found: list[float] = []

        def compare(running: Any, example: Example) -> None:
            found.append(self._divergence(running, example))
        if not recalibrate(model, data, compare):  # which runs nothing where there are no norms
            with evaluating(model), torch.no_grad(), on_accelerator(model):
                for example in data:
                    compare(model, example)
        return statistics.fmean(found)

    def _divergence(self, model: PrunedModule, example: Example) -> float:
        outputs = self.task.forward(model, example.inputs)
        student = self.task.logits(outputs)
        if student is None or example.teacher is None:
            return float(self.task.loss(outputs, example.target))
        axis = self.task.class_axis(student, example.target)
        return float(distillation(student, example.teacher, FineTune(temperature=1.0), axis))

    def _compressed_bytes(self, model: PrunedModule, int8: bytes | None) -> int:
        """Bytes of what is deployed, without zeros where they cost anything and zipped; 0 in a space without masks."""
        if not self._compress:
            return 0
        return len(sparse_zip(model.tensors())) if int8 is None else zipped_bytes(int8)

    # -- shared ---------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make what all candidates share now, before the first of them asks for it. What cannot be made is every
        candidate's to fail with.
        """
        with contextlib.suppress(*CANDIDATE_ERRORS):
            self._fine_tuning_examples()
            refit = frozenset({GRAM} if self.recovery.least_squares else ())
            self._ranking(self.source, _needs(self._methods) | refit)

    def halve_batches(self) -> None:
        """Train, calibrate and evaluate on batches of half the size from now on. A step of training sees half as many
        samples then; calibration and evaluation see the same.
        """
        self._examples = [Example(*half) for e in self._fine_tuning_examples()
                          for half in halves((e.inputs, e.target, e.teacher))]
        self.recovery = replace(self.recovery, calibration_batches=2 * self.recovery.calibration_batches)
        self.task = self.task.with_half_batches()

    def statistics(self, methods: Iterable[str]) -> Statistics | None:
        """What `methods` need of data about the model that candidates are cut from."""
        return self._ranking(self.source, _needs(methods)).statistics

    def calibration(self) -> list[Example]:
        """The batches that norms are recalibrated on, with the dense model's logits."""
        return self._fine_tuning_examples()[: max(1, self.recovery.calibration_batches)]

    def _looked_at(self) -> list[Example]:
        """As many of the training batches as have enough samples together."""
        data, samples = self._fine_tuning_examples(), 0
        for i, example in enumerate(data):
            samples += sample_count(example.inputs)
            if samples >= _LOOK_SAMPLES:
                return data[:i + 1]
        return data

    def recalibrate(self, model: PrunedModule) -> None:
        """Set the norms' statistics to those of the calibration batches (of none where the space says so)."""
        used = self.calibration()[: self.recovery.calibration_batches]
        recalibrate(model, (e.inputs for e in used), self.task.forward)

    @cached_property
    def source(self) -> Graph:
        """The graph that all candidates are cut from: with the model's own weights, or those of learned sparsity."""
        penalty = self.recovery.penalty
        if penalty.steps == 0:
            return self.graph
        model = _channels_last(self.graph.dense())
        with self.clock.time("train"):
            finetune(model, self.task, self._fine_tuning_examples(), replace(self.settings, steps=penalty.steps),
                     self.seed, Extras(penalty=penalty_of(self.graph, model, penalty)))
        return self.graph.with_tensors(model.tensors())

    def _ranking(self, graph: Graph, needs: frozenset[str]) -> Ranking:
        """The ranking of `graph` with at least `needs` gathered; for the source in the same pass also what the space's
        other methods need.
        """
        known = next((r for r in self._rankings if r.graph is graph), Ranking(graph, seed=self.seed))
        have = known.statistics
        gathered = have.gathered if have is not None else frozenset()
        if not needs <= gathered:
            if graph is self.source:
                needs |= _needs(self._methods) | ({GRAM} if self.recovery.least_squares else frozenset())
            with self.clock.time("train"), _seeded(self.seed):
                new = collect(graph, self.task.split("train"), self._loss, seed=self.seed, needs=needs - gathered,
                              weights=tuple(graph.readers))
            known = Ranking(graph, new if have is None else have.joined(new), self.seed)
        self._rankings = [*[r for r in self._rankings if r.graph is self.source and r.graph is not graph], known]
        return known

    def _finetune(self, model: PrunedModule, data: list[Example], steps: int, seed: int) -> None:
        nodes = unchanged(self.graph, model.plan) if self.settings.distill_features > 0 and steps else ()
        with on_accelerator(model, *([self.dense] if nodes else [])):
            extras = Extras(features=Features(model, self.dense, nodes)) if nodes else None
            finetune(model, self.task, data, replace(self.settings, steps=steps), seed, extras)

    def _early_weights(self) -> Graph:
        state = self.task.early if self.recovery.checkpoint is None else read_checkpoint(self.recovery.checkpoint)
        if state is None:
            raise ConfigError('start = "rewind" needs the weights of an earlier checkpoint', given="none",
                              allowed="a .safetensors file of the same model, or Task(early=state_dict)",
                              fix='[recover] checkpoint = "early.safetensors"')
        return early_graph(self.graph, state)

    def _loss(self, model: Any, inputs: Any, target: Any) -> torch.Tensor:
        return self.task.loss(self.task.forward(model, inputs), target)

    def _fine_tuning_examples(self) -> list[Example]:
        if self._examples is None:
            steps = max(self.settings.steps, self.recovery.penalty.steps)
            limit = max(1, self.recovery.calibration_batches, min(steps, _SAMPLE_BATCHES))
            with _seeded(self.seed):  # the same batches in every process, also of shuffled data
                found = examples(self.task, self.dense, self.task.split("train"), limit)
            # a batch norm does not train on one sample, as a last batch may be
            self._examples = [e for e in found if sample_count(e.inputs) > 1] or found
        return self._examples


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's random state of a seed inside, and what it was afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _needs(methods: Iterable[str]) -> frozenset[str]:
    return frozenset(need for m in methods for need in criterion(m).needs)


def _channels_last(model: PrunedModule) -> PrunedModule:
    """Weights of 2-D convolutions with channels innermost: evaluating the example took 2.5 s instead of 3.5 s."""
    for weight in model.parameters():
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return model
