"""Training gates together with the net: the task's loss, distillation, and a cost for what is executed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from autoprune.errors import ConfigError
from autoprune.recover.finetune import Example, Extras, FineTune, Trainable, finetune

if TYPE_CHECKING:
    from autoprune.dynamic.skippable import Skippable

__all__ = ["Cost", "check_cost", "train"]

_QUIET = 0.25  # of training, at its end: gates decide without noise, as they will when they are used


@dataclass(frozen=True)
class Cost:
    """What training pays for the multiply-adds that are executed.

    target: their share of the dense model's, on average over inputs, in (0, 1). weight: of the squared distance to it.
    """

    target: float
    weight: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.target < 1 or not 0 < self.weight < math.inf:
            raise ConfigError("the cost of gates is out of range", given=self,
                              allowed="a target share of the multiply-adds in (0, 1), a weight above 0",
                              fix="--target 0.6")


def check_cost(model: Skippable, cost: Cost, settings: FineTune) -> None:
    """`ConfigError` when the target cannot be reached, or the settings are not for gates."""
    if cost.target <= model.rest:
        raise ConfigError("skipping all branches does not reach the target", given=f"target {cost.target:g}",
                          allowed=f"above {model.rest:.2f}, the share that always runs", fix="a higher --target")
    if settings.patience or settings.distill_features:
        raise ConfigError("gates are trained for all steps, with logits only", given=settings,
                          allowed="patience = 0 and distill_features = 0")


def train(model: Skippable, task: Trainable, data: list[Example], cost: Cost, settings: FineTune, seed: int = 0
          ) -> float:
    """Train net and gates of `model` in place, by `finetune` with `weight · (share executed − target)²` added.

    The noise of the gates fades in a straight line and is gone for the last quarter of the steps. Gates that are always
    open or always shut are a possible result; `autoprune.dynamic.paths` shows them. Returns the mean loss of the last
    tenth of the steps, cost included. Raises what `check_cost` does before any training.
    """
    check_cost(model, cost, settings)
    loud = max(1.0, (1 - _QUIET) * settings.steps)

    def penalty() -> torch.Tensor:
        return cost.weight * (model.share(model.opened()).mean() - cost.target).square()

    def quieten(step: int) -> None:
        for gate in model.gates:
            gate.noise = max(0.0, 1 - (step + 1) / loud)

    quieten(-1)
    return finetune(model, task, data, settings, seed, Extras(penalty=penalty, after_step=quieten))
