"""Masks while training: one-shot, iterative, gradual; from the trained weights, or from given ones after every cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from autoprune.accelerator import to_device
from autoprune.errors import ConfigError, ModelError, did_you_mean
from autoprune.graph.graph import Graph, trace
from autoprune.graph.module import PrunedModule
from autoprune.graph.plan import Mask
from autoprune.methods.collect import collect
from autoprune.methods.masks.apply import Masks
from autoprune.methods.masks.choose import SCOPES, choose_masks
from autoprune.methods.masks.criterion import WeightView
from autoprune.methods.masks.patterns import NofM, check_pattern, parse_pattern, skipping
from autoprune.methods.masks.registry import element_criterion
from autoprune.methods.masks.weights import find_maskable
from autoprune.methods.schedules import Schedule
from autoprune.methods.statistics import GRAM, Statistics
from autoprune.recover.finetune import Example, Extras, FineTune, Trainable, finetune

__all__ = ["Recipe", "Sparsifier", "fitting_masks", "mask_planned", "sparsify"]


@dataclass(frozen=True)
class Recipe:
    """What is masked, by which scores, and when.

    sparsity: share of the maskable weights that goes, in [0, 1); None with an N:M pattern, which says it itself.
    pattern: see `masks.patterns`. method: an element criterion. scope: "layer" or "global". soft: masked weights go on
    being updated and can come back until the last cut. skip: names or patterns of weights that stay dense; skip_unfit:
    so do those which the pattern or the method does not fit.

    `ConfigError` when any of it is unknown, out of range or contradicts the rest.
    """

    sparsity: float | None = None
    pattern: str = "weight"
    method: str = "magnitude"
    scope: str = "layer"
    schedule: Schedule = field(default_factory=Schedule)
    soft: bool = False
    skip: tuple[str, ...] = ()
    skip_unfit: bool = False

    def __post_init__(self) -> None:
        pattern = parse_pattern(self.pattern)
        element_criterion(self.method)
        if self.scope not in SCOPES:
            raise ConfigError("unknown scope of masks", given=self.scope, allowed=did_you_mean(self.scope, SCOPES))
        if isinstance(pattern, NofM):
            if self.sparsity is not None and abs(self.sparsity - (1 - pattern.n / pattern.m)) > 1e-9:
                raise ConfigError("an N:M pattern says itself how much goes", given=f"{self.pattern} with sparsity "
                                  f"{self.sparsity}", fix="leave out --sparsity")
        elif self.sparsity is None or not 0 <= self.sparsity < 1:
            raise ConfigError("masks need the share of the weights that goes", given=self.sparsity,
                              allowed="0 ≤ sparsity < 1", fix="--sparsity 0.9")

    @property
    def kept(self) -> float:
        """Share of the maskable weights that stays in the end, in (0, 1]."""
        pattern = parse_pattern(self.pattern)
        if isinstance(pattern, NofM):
            return pattern.n / pattern.m
        assert self.sparsity is not None
        return 1 - self.sparsity

    def masks(self, graph: Graph) -> dict[str, Mask]:
        """The mask of each weight. `ConfigError` as in `fitting_masks`."""
        return {name: mask for name, (mask,) in fitting_masks(graph, [self]).items()}


def fitting_masks(graph: Graph, recipes: Sequence[Recipe]) -> dict[str, tuple[Mask, ...]]:
    """The masks that each weight may wear, by recipes that differ in their methods only; a method that compares inputs
    is left out where there are none to compare (a weight of which no tensor shows them, or that reads one channel).

    `ConfigError` that lists the weights which the pattern or all methods do not fit, unless they are to be skipped;
    then when none is left.
    """
    first, methods = recipes[0], ", ".join(r.method for r in recipes)
    pattern, weights = parse_pattern(first.pattern), find_maskable(graph, first.skip)
    if not first.skip_unfit:
        check_pattern(pattern, weights)
    seen = {r.weight for r in graph.reads if r.source is not None}
    blind = {n for n, w in weights.items() if n not in seen or w.inputs == 1}
    out = {n: tuple(Mask(r.method, r.pattern, r.kept) for r in recipes
                    if n not in blind or GRAM not in element_criterion(r.method).needs)
           for n, w in weights.items() if pattern.problem(w) is None}
    without = [n for n, masks in out.items() if not masks]
    if without and not first.skip_unfit:
        raise ConfigError(f"{methods} compare(s) the inputs of weights, and {len(without)} have none to compare",
                          given=", ".join(without[:3]), allowed="not states within recurrent layers, embeddings, or "
                          "convolutions of single channels; magnitude fits any", fix=skipping(without))
    if len(without) == len(out):
        raise ConfigError("masks fit no weight of the model", given=f"{pattern.text} by {methods}",
                          fix="another pattern or method")
    return {n: masks for n, masks in out.items() if masks}


class Sparsifier:
    """Cuts the weights of one model again and again, each time by what its weights and the data say then.

    model: in the form of `graph` (`graph.dense()`); the weights that `wanted` names get masks, all of them true until
    the first `cut`. data: batches for the methods that look at data. scope: see `choose_masks`; "global" compares the
    weights whose masks are alike.
    """

    def __init__(self, model: nn.Module, graph: Graph, task: Trainable, data: list[Example], wanted: Mapping[str, Mask],
                 *, schedule: Schedule | None = None, scope: str = "layer", soft: bool = False, seed: int = 0):
        self.graph, self.task, self.data, self.seed = graph, task, data, seed
        self.schedule, self.scope, self.soft = schedule or Schedule(), scope, soft
        self.wanted = dict(wanted)
        self.weights = {n: w for n, w in find_maskable(graph).items() if n in wanted}
        self.masks = Masks(model, list(self.weights), soft=soft)
        self._criteria = {n: element_criterion(wanted[n].method) for n in self.weights}

    @classmethod
    def of(cls, recipe: Recipe, model: nn.Module, graph: Graph, task: Trainable, data: list[Example], seed: int = 0
           ) -> Sparsifier:
        """What a recipe says. `ConfigError` as in `Recipe.masks`."""
        return cls(model, graph, task, data, recipe.masks(graph), schedule=recipe.schedule, scope=recipe.scope,
                   soft=recipe.soft, seed=seed)

    def cut(self, number: int) -> float:
        """Make cut `number` of the schedule (from 1) and return the share of the maskable weights that stays."""
        views, masks = self._views(), {n: m.cpu() for n, m in self.masks.masks().items()}
        scores = {n: self._criteria[n].score(v) for n, v in views.items()}
        if not self.soft:
            scores = {n: s.masked_fill(~masks[n], -torch.inf) for n, s in scores.items()}
        kinds = {n: (self.wanted[n].pattern, self.wanted[n].kept) for n in self.weights}
        for pattern, kept in dict.fromkeys(kinds.values()):
            alike = {n: scores[n] for n, kind in kinds.items() if kind == (pattern, kept)}
            masks |= choose_masks(alike, self.weights, parse_pattern(pattern), self.schedule.kept(number, kept),
                                  self.scope)
        with torch.no_grad():
            for name, parameter in self.masks.raw().items():
                parameter.copy_(self._criteria[name].update(views[name], masks[name]))
        self.masks.set(masks)
        return sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())

    def _views(self) -> dict[str, WeightView]:
        found = self._statistics()
        raw = {n: p.detach().cpu() for n, p in self.masks.raw().items()}
        return {n: WeightView(w, raw[n], found.gradients.get(n), found.hessian.get(n),
                              found.gram[n].matrix if n in found.gram else None, self.seed)
                for n, w in self.weights.items()}

    def _statistics(self) -> Statistics:
        needs = frozenset(need for criterion in self._criteria.values() for need in criterion.needs)
        if not needs:
            return Statistics()
        graph = self.graph.with_tensors(to_device(self.masks.tensors(), "cpu"))
        return collect(graph, ((e.inputs, e.target) for e in self.data),
                       lambda m, x, y: self.task.loss(self.task.forward(m, x), y), needs=needs,
                       weights=list(self.weights), seed=self.seed)


def mask_planned(model: PrunedModule, example_inputs: Any, task: Trainable, data: list[Example], seed: int = 0
                 ) -> Masks:
    """Set the masks of `model.plan`, by what the weights and the data say now; they hold until they are made permanent.

    `ModelError` when a pattern does not fit the widths of the plan.
    """
    wanted = model.plan.masks
    graph = trace(model, example_inputs)
    weights = find_maskable(graph)
    misfits = [f"{n}: {problem}" for n, m in wanted.items()
               if (problem := parse_pattern(m.pattern).problem(weights[n])) is not None]
    if misfits:
        raise ModelError("the pattern of the masks does not fit the widths of this plan", given="; ".join(misfits[:3]))
    run = Sparsifier(model, graph, task, data, wanted, seed=seed)
    run.cut(1)
    return run.masks


def sparsify(model: nn.Module, graph: Graph, task: Trainable, data: list[Example], recipe: Recipe,
             settings: FineTune, *, restart: Mapping[str, torch.Tensor] | None = None, seed: int = 0,
             on_cut: Callable[[int, float], None] | None = None) -> Masks:
    """Mask and train `model` (`graph.dense()`) in place; returns its masks, which are not yet permanent.

    One-shot: one cut, then all steps. Iterative: the steps are divided among the cycles, each a cut and a fine-tuning
    of its own. Gradual: one fine-tuning, with the cuts in its first three quarters. restart: values of the model's
    tensors that training starts from again after every cut (an early checkpoint: rewinding, Frankle et al. 2020,
    arXiv:1912.05671; or random ones); None goes on from the weights that are there. on_cut: told the number of each cut
    and the share that stays.

    `ConfigError` before any training for what does not fit, or for a schedule that never reaches its target.
    """
    schedule, tell = recipe.schedule, on_cut or (lambda *_: None)
    gradual = schedule.kind == "gradual"
    if gradual and restart is not None:
        raise ConfigError("a gradual schedule goes on from the weights that are there", given="gradual with a restart",
                          allowed="one-shot or iterative", fix="--schedule iterative")
    steps = schedule.steps(settings.steps) if gradual else ()
    if not gradual and schedule.cuts > 1 and settings.steps < schedule.cuts:
        raise ConfigError("the schedule never reaches its target: training ends before the last cut",
                          given=f"{schedule.cuts} cycles in {settings.steps} steps", fix="more steps, or fewer cycles")
    run = Sparsifier.of(recipe, model, graph, task, data, seed)
    if gradual:
        at = {step - 1: number for number, step in enumerate(steps, 1)}

        def after_step(step: int) -> None:
            if step in at:
                tell(at[step], run.cut(at[step]))

        after_step(-1)
        finetune(model, task, data, settings, seed, Extras(after_step=after_step))
        return run.masks
    for cycle in range(1, schedule.cuts + 1):
        tell(cycle, run.cut(cycle))
        if restart is not None:
            run.masks.load(restart)
        finetune(model, task, data, replace(settings, steps=settings.steps // schedule.cuts), seed + cycle)
    return run.masks
