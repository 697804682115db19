"""Short fine-tuning with distillation from the dense model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from autoprune.errors import AutopruneError, ConfigError

__all__ = ["Diverged", "Example", "FineTune", "distillation", "examples", "finetune"]


class Trainable(Protocol):
    """What fine-tuning needs of a task."""

    def forward(self, model: nn.Module, inputs: Any) -> Any: ...
    def loss(self, outputs: Any, target: Any) -> torch.Tensor: ...
    def logits(self, outputs: Any) -> torch.Tensor | None: ...


class Diverged(AutopruneError):
    """The loss became NaN or infinite."""


@dataclass(frozen=True)
class FineTune:
    """How to fine-tune.

    steps: optimiser steps, ≥ 0; lr: peak learning rate of AdamW, reached after a tenth of the steps and then lowered
    along a cosine; distill: weight of the distillation loss in [0, 1], the task's own loss gets the rest;
    temperature: of the softened distributions (Hinton et al. 2015, arXiv:1503.02531); precision: "fp32", "bf16"
    (autocast), or "auto", which is bf16 on processors with bf16 arithmetic (twice as fast there) and fp32 elsewhere.
    """

    steps: int = 24
    lr: float = 3e-4
    distill: float = 0.9
    temperature: float = 4.0
    weight_decay: float = 1e-4
    precision: str = "auto"

    def __post_init__(self) -> None:
        if self.precision not in ("auto", "fp32", "bf16"):
            raise ConfigError("unknown precision for fine-tuning", given=self.precision, allowed="auto, fp32, bf16")
        positive = all(0 < x < math.inf for x in (self.lr, self.temperature))
        if not (positive and self.steps >= 0 and 0 <= self.distill <= 1 and 0 <= self.weight_decay < math.inf):
            raise ConfigError("fine-tuning settings are out of range", given=self,
                              allowed="steps ≥ 0, lr > 0, 0 ≤ distill ≤ 1, temperature > 0, weight_decay ≥ 0")


@dataclass(frozen=True)
class Example:
    """A training batch and the dense model's logits for it (None where the outputs have none)."""

    inputs: Any
    target: Any
    teacher: torch.Tensor | None


def examples(task: Trainable, teacher: nn.Module, batches: Iterable[tuple[Any, Any]], limit: int) -> list[Example]:
    """At most `limit` batches with the teacher's logits, computed once for all candidates."""
    teacher.eval()
    out: list[Example] = []
    with torch.no_grad():
        for inputs, target in islice(batches, limit):
            out.append(Example(inputs, target, task.logits(task.forward(teacher, inputs))))
    return out


def finetune(model: nn.Module, task: Trainable, data: list[Example], settings: FineTune, seed: int = 0) -> float:
    """Train `model` in place and leave it in evaluation mode; returns the mean loss of the last tenth of the steps.

    `seed` decides the order of the batches and what dropout drops; the global random state stays as it is. Raises
    `Diverged` when the loss or its gradient is not finite. Nothing happens (NaN) for 0 steps, without data, or when no
    parameter is trainable.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if settings.steps == 0 or not data or not parameters:
        return math.nan
    device = parameters[0].device
    with torch.random.fork_rng([device] if device.type != "cpu" else [],
                               device_type=device.type if device.type != "cpu" else "cuda"):
        torch.manual_seed(seed)
        return _train(model, task, data, settings, parameters, seed)


def _train(model: nn.Module, task: Trainable, data: list[Example], settings: FineTune, parameters: list[nn.Parameter],
           seed: int) -> float:
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
    warm = max(1, settings.steps // 10)
    losses: list[float] = []
    device = parameters[0].device.type
    model.train()
    for step, example in enumerate(_cycle(data, settings.steps, seed)):
        scale = (step + 1) / warm if step < warm else 0.5 * (
            1 + math.cos(math.pi * (step - warm) / max(1, settings.steps - warm)))
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * max(scale, 1e-3)
        with torch.autocast(device, torch.bfloat16, enabled=_half(settings.precision, device)):
            loss = _loss(model, task, example, settings)
        if not math.isfinite(loss.item()):
            raise _diverged("loss", step, settings)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if not bool(torch.isfinite(nn.utils.clip_grad_norm_(parameters, 5.0))):
            raise _diverged("gradient", step, settings)
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail)


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
    return (1 - settings.distill) * loss + settings.distill * distillation(student, example.teacher, settings)


def distillation(student: torch.Tensor, teacher: torch.Tensor, settings: FineTune) -> torch.Tensor:
    """KL of the softened distributions over the class axis, or squared error for outputs without classes.

    The class axis is the last for `[N, classes]` and `[N, T, classes]`, and axis 1 for images `[N, classes, H, W]`.
    """
    teacher, student = teacher.to(student.device).float(), student.float()
    axis = 1 if student.dim() >= 4 else -1
    if student.dim() < 2 or student.shape[axis] == 1:
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
