"""Short fine-tuning with distillation from the dense model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from autoprune.accelerator import device_of, on_accelerator
from autoprune.errors import AutopruneError, ConfigError
from autoprune.recover.early_stop import Best
from autoprune.recover.features import Features

__all__ = ["Diverged", "Example", "Extras", "FineTune", "distillation", "examples", "finetune"]

_CHECKS = 10  # on the held-out batches in a whole training
_HELD_OUT = 5  # one batch in so many


class Trainable(Protocol):
    """What fine-tuning needs of a task."""

    def forward(self, model: nn.Module, inputs: Any) -> Any: ...
    def loss(self, outputs: Any, target: Any) -> torch.Tensor: ...
    def logits(self, outputs: Any) -> torch.Tensor | None: ...
    def class_axis(self, logits: torch.Tensor, target: Any) -> int | None: ...


class Diverged(AutopruneError):
    """The loss became NaN or infinite."""


@dataclass(frozen=True)
class FineTune:
    """How to fine-tune.

    steps: optimiser steps, ≥ 0; lr: peak learning rate of AdamW, reached after a tenth of the steps and then lowered
    along a cosine; distill: weight of the distillation loss in [0, 1], the task's own loss gets the rest;
    temperature: of the softened distributions (Hinton et al. 2015, arXiv:1503.02531); precision: "fp32", "bf16"
    (autocast), or "auto", which is bf16 on processors with bf16 arithmetic (twice as fast there) and fp32 elsewhere.
    distill_features: weight ≥ 0 of the squared error to the dense model's hidden states (see `Features`), added to the
    rest. patience: 0 trains all steps; n > 0 holds out every fifth batch, looks at it ten times in the course of
    training, stops after n looks without an improvement, and keeps the best weights.
    """

    steps: int = 24
    lr: float = 3e-4
    distill: float = 0.9
    temperature: float = 4.0
    weight_decay: float = 1e-4
    precision: str = "auto"
    distill_features: float = 0.0
    patience: int = 0

    def __post_init__(self) -> None:
        if self.precision not in ("auto", "fp32", "bf16"):
            raise ConfigError("unknown precision for fine-tuning", given=self.precision, allowed="auto, fp32, bf16")
        positive = all(0 < x < math.inf for x in (self.lr, self.temperature))
        finite = all(0 <= x < math.inf for x in (self.weight_decay, self.distill_features))
        if not (positive and finite and self.steps >= 0 and 0 <= self.distill <= 1 and self.patience >= 0):
            raise ConfigError("fine-tuning settings are out of range", given=self,
                              allowed="steps ≥ 0, lr > 0, 0 ≤ distill ≤ 1, temperature > 0, weight_decay ≥ 0, "
                                      "distill_features ≥ 0, patience ≥ 0")


@dataclass(frozen=True)
class Example:
    """A training batch and the dense model's logits for it (None where the outputs have none)."""

    inputs: Any
    target: Any
    teacher: torch.Tensor | None


def examples(task: Trainable, teacher: nn.Module, batches: Iterable[tuple[Any, Any]], limit: int) -> list[Example]:
    """At most `limit` batches with the teacher's logits, computed once for all candidates; on the CPU."""
    teacher.eval()
    out: list[Example] = []
    with torch.no_grad(), on_accelerator(teacher):
        for inputs, target in islice(batches, limit):
            logits = task.logits(task.forward(teacher, inputs))
            out.append(Example(inputs, target, None if logits is None else logits.cpu()))
    return out


@dataclass(frozen=True)
class Extras:
    """What else happens in a training step.

    features: hidden states to distil, with `FineTune.distill_features`; they run the model that is trained, and are
    made where that is trained.
    penalty: called with nothing, gives a scalar that is added to the loss. after_step: called with the number of the
    step (from 0) once the optimiser has made it, without gradients; it may change the weights.
    """

    features: Features | None = None
    penalty: Callable[[], torch.Tensor] | None = None
    after_step: Callable[[int], None] | None = None


def finetune(model: nn.Module, task: Trainable, data: list[Example], settings: FineTune, seed: int = 0,
             extras: Extras | None = None) -> float:
    """Train `model` in place, on a GPU where there is one (`autoprune.accelerator`), and leave it in evaluation mode;
    returns the mean loss of the last tenth of the steps.

    `seed` decides the order of the batches and what dropout drops; the global random state stays as it is. Raises
    `Diverged` when the loss or its gradient is not finite, `ConfigError` when patience has no batch to hold out.
    Nothing happens (NaN) for 0 steps, without data, or when no parameter is trainable.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if settings.steps == 0 or not data or not parameters:
        return math.nan
    if settings.patience and len(data) < 2:
        raise ConfigError("an early stop needs a batch to hold out", given=f"{len(data)} batch of training data",
                          allowed="at least 2 batches", fix="recover.patience = 0 in the search space, or more data")
    with on_accelerator(model):
        device = device_of(model)
        with torch.random.fork_rng([device] if device.type != "cpu" else [],
                                   device_type=device.type if device.type != "cpu" else "cuda"):
            torch.manual_seed(seed)
            return _train(model, task, data, settings, parameters, seed, extras or Extras())


def _train(model: nn.Module, task: Trainable, data: list[Example], settings: FineTune, parameters: list[nn.Parameter],
           seed: int, extras: Extras) -> float:
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    losses: list[float] = []
    device = parameters[0].device.type
    data, best = _hold_out(model, task, data, settings)
    every = max(1, settings.steps // _CHECKS)
    model.train()
    for step, example in enumerate(_cycle(data, settings.steps, seed)):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * _scale(step, settings.steps)
        with torch.autocast(device, torch.bfloat16, enabled=_half(settings.precision, device)):
            loss = _step_loss(model, task, example, settings, extras)
        if not math.isfinite(loss.item()):
            raise _diverged("loss", step, settings)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if not bool(torch.isfinite(nn.utils.clip_grad_norm_(parameters, 5.0))):
            raise _diverged("gradient", step, settings)
        optimizer.step()
        if extras.after_step is not None:
            with torch.no_grad():
                extras.after_step(step)
        losses.append(loss.item())
        if best is not None and (step + 1) % every == 0 and best.check():
            break
    if best is not None:
        best.restore()
    model.eval()
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail)


def _scale(step: int, steps: int) -> float:
    """Share of the peak learning rate: up in a straight line for a tenth of the steps, then down along a cosine."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return max(0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))), 1e-3)


def _hold_out(model: nn.Module, task: Trainable, data: list[Example],
              settings: FineTune) -> tuple[list[Example], Best | None]:
    if settings.patience == 0:
        return data, None
    held = data[::_HELD_OUT]
    rest = [example for i, example in enumerate(data) if i % _HELD_OUT]

    def loss() -> float:
        return sum(float(_loss(model, task, e, settings)) for e in held) / len(held)

    return rest, Best(model, loss, settings.patience)


def _step_loss(model: nn.Module, task: Trainable, example: Example, settings: FineTune, extras: Extras) -> torch.Tensor:
    features = extras.features if settings.distill_features > 0 else None
    if features is None:
        loss = _loss(model, task, example, settings)
    else:
        with torch.no_grad():
            task.forward(features.teacher, example.inputs)
        features.student.train(model.training)
        loss = _loss(features.student, task, example, settings) + settings.distill_features * features.loss()
    return loss if extras.penalty is None else loss + extras.penalty()


def _diverged(what: str, step: int, settings: FineTune) -> Diverged:
    return Diverged(f"fine-tuning diverged: the {what} is not finite", given=f"step {step} of {settings.steps}",
                    fix="lower recover.lr in the search space")


def _half(precision: str, device: str) -> bool:
    if precision != "auto":
        return precision == "bf16"
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device == "cpu" and bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _loss(model: nn.Module, task: Trainable, example: Example, settings: FineTune) -> torch.Tensor:
    outputs = task.forward(model, example.inputs)
    loss = task.loss(outputs, example.target)
    student = task.logits(outputs)
    if settings.distill == 0 or example.teacher is None or student is None:
        return loss
    return (1 - settings.distill) * loss + settings.distill * distillation(
        student, example.teacher, settings, task.class_axis(student, example.target))


def distillation(student: torch.Tensor, teacher: torch.Tensor, settings: FineTune, axis: int | None) -> torch.Tensor:
    """KL of the softened distributions over the axis of the classes, or squared error where there are none."""
    teacher, student = teacher.to(student.device).float(), student.float()
    if axis is None:
        return F.mse_loss(student, teacher)
    t = settings.temperature
    kl = F.kl_div((student / t).log_softmax(axis), (teacher / t).log_softmax(axis), log_target=True, reduction="none")
    return kl.sum(axis).mean() * t * t


def _cycle(data: list[Example], steps: int, seed: int) -> Iterator[Example]:
    """`steps` batches, reshuffled on every pass."""
    generator = torch.Generator().manual_seed(seed)
    done = 0
    while True:
        for i in torch.randperm(len(data), generator=generator).tolist():
            if done == steps:
                return
            yield data[i]
            done += 1
