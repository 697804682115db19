"""How candidates get from the dense weights to the pruned ones: every setting, and what may not go together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from autoprune.errors import ConfigError
from autoprune.methods.schedules import Schedule
from autoprune.recover.finetune import FineTune

__all__ = ["STARTS", "Penalty", "Recovery"]

STARTS = ("keep", "rewind", "random")


@dataclass(frozen=True)
class Penalty:
    """Sparsity that is learned before anything is cut, by `steps` steps of training the dense net.

    l1_norms: weight of Σ|γ| over the norm scales of all groups (Liu et al. 2017, arXiv:1708.06519). group_lasso: weight
    of Σ √elements · ‖unit‖₂ over the units of all groups, each with all its slices (Wen et al. 2016, arXiv:1608.03665).
    """

    steps: int = 0
    l1_norms: float = 0.0
    group_lasso: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 0 or not all(0 <= x < math.inf for x in (self.l1_norms, self.group_lasso)):
            raise ConfigError("the penalties of learned sparsity are out of range", given=self, allowed="all ≥ 0")
        if (self.steps > 0) != (self.l1_norms > 0 or self.group_lasso > 0):
            raise ConfigError("learned sparsity needs a penalty and steps to train with it", given=self,
                              fix="[schedule] penalty_steps = 100 with l1_norms or group_lasso, or none of them")


@dataclass(frozen=True)
class Recovery:
    """What `[recover]` and `[schedule]` of a space say.

    tune: the fine-tuning; its steps are divided among the cuts of `schedule`. calibration_batches: for norms.
    least_squares: refit the layers that read what goes, whatever the method. start: the weights that training begins
    with after each cut: "keep" the trained ones, "rewind" to those of `checkpoint`, or "random" ones. soft: until the
    last cut, units are set to zero and go on being trained, so that they can come back.

    `ConfigError` when the settings contradict each other.
    """

    tune: FineTune = field(default_factory=FineTune)
    calibration_batches: int = 6
    least_squares: bool = False
    start: str = "keep"
    checkpoint: str | None = None
    schedule: Schedule = field(default_factory=Schedule)
    soft: bool = False
    penalty: Penalty = field(default_factory=Penalty)

    def __post_init__(self) -> None:
        cuts, kind = self.schedule.cuts, self.schedule.kind
        if cuts > 1 and self.tune.steps < cuts:
            raise ConfigError("the schedule never reaches its target: training ends before the last cut",
                              given=f"{cuts} cuts in {self.tune.steps} steps", allowed=f"at least {cuts} steps",
                              fix="more recover.steps, or fewer schedule.cycles")
        if kind != "one-shot" and cuts < 2:
            raise ConfigError(f"a schedule that is {kind} needs several cuts", given=f"cycles = {cuts}",
                              fix="[schedule] cycles = 3")
        if self.soft and kind == "one-shot":
            raise ConfigError("soft masks need several cuts: units come back between them", given=kind,
                              fix='[schedule] kind = "gradual", cycles = 3, soft = true')
        if self.start not in STARTS:
            raise ConfigError("unknown start of recovery", given=self.start, allowed=", ".join(STARTS))
        if self.start != "keep" and self.least_squares:
            raise ConfigError("a least-squares correction of weights that are thrown away",
                              given=f"least_squares with start = {self.start}",
                              fix='least_squares = false, or start = "keep"')
        if self.start != "rewind" and self.checkpoint is not None:
            raise ConfigError("a checkpoint is for rewinding only", given=f"start = {self.start}",
                              fix='start = "rewind", or leave the checkpoint out')

    @classmethod
    def of(cls, recover: Mapping[str, Any], schedule: Mapping[str, Any]) -> Recovery:
        """From the two tables of a space; unknown keys are the space's to refuse."""
        own = {f.name for f in fields(cls)} & set(recover)
        timing = dict(schedule)
        soft = bool(timing.pop("soft", False))
        steps = timing.pop("penalty_steps", 0)
        penalty = Penalty(steps, timing.pop("l1_norms", 0.0), timing.pop("group_lasso", 0.0))
        return cls(FineTune(**{k: v for k, v in recover.items() if k not in own}), **{k: recover[k] for k in own},
                   schedule=Schedule(timing.get("kind", "one-shot"), timing.get("cycles", 1)), soft=soft,
                   penalty=penalty)
