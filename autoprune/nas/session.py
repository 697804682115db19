"""Ask and tell for other people's search loops: `space_of(graph)` and `Session`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import optuna

from autoprune.devices.latency import Latency
from autoprune.errors import ConfigError, ModelError
from autoprune.graph.graph import Graph
from autoprune.graph.plan import Plan
from autoprune.search.propose import Proposer
from autoprune.search.space import Choices, Space, load_space

__all__ = ["Session", "space_of"]


def space_of(graph: Graph, space: str | Space = "default", align: int = 1) -> dict[str, dict[str, Any]]:
    """The choices of every group as plain JSON: `{group: {"size": n, "widths": [...], "methods": [...]}}`."""
    loaded = load_space(space) if isinstance(space, str) else space
    return {name: {"size": graph.groups[name].size, "widths": list(c.widths), "methods": list(c.methods)}
            for name, c in loaded.choices(graph, align).items()}


class Session:
    """A search without training: `ask` for plans, `tell` what they reached.

    The proposals come from an in-memory Optuna study with the two objectives (score, higher is better; latency in
    milliseconds). One session, one thread.
    """

    def __init__(self, graph: Graph, space: str | Space = "default", align: int = 1, seed: int = 0,
                 sampler: optuna.samplers.BaseSampler | None = None):
        loaded = load_space(space) if isinstance(space, str) else space
        choices: Mapping[str, Choices] = loaded.choices(graph, align)
        if not choices:
            raise ModelError("nothing in this model can be pruned in this space", given=f"space {loaded.name!r}",
                             fix="look at graph.frozen, or choose a space with a smaller min_keep")
        if loaded.precisions != ("fp32",):
            raise ConfigError("a session has no data to calibrate int8 with", given=f"the space {loaded.name!r}",
                              fix='precisions = ["fp32"] in the space')
        if loaded.masks:
            raise ConfigError("a session trains nothing that could wear masks", given=f"the space {loaded.name!r}",
                              fix="a space without [masks]")
        self._proposer = Proposer(graph, choices, seed)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(directions=["maximize", "minimize"],
                                          sampler=sampler or optuna.samplers.TPESampler(seed=seed))
        self._open: dict[str, list[optuna.trial.Trial]] = {}

    def ask(self) -> Plan:
        """The next plan to try."""
        trial = self._study.ask()
        plan = self._proposer.suggest(trial)
        self._open.setdefault(plan.digest, []).append(trial)
        return plan

    def tell(self, plan: Plan, score: float, latency_ms: float | Latency) -> None:
        """What a plan from `ask` reached, the latency in milliseconds or as an oracle tells it. Raises `ConfigError`
        for a plan that was not asked for, or told twice, and for values that are not finite or a latency that is not
        above 0; the plan can still be told then.
        """
        try:
            score, latency_ms = float(score), latency_ms.ms if isinstance(latency_ms, Latency) else float(latency_ms)
        except (TypeError, ValueError) as error:
            raise ConfigError("a result is a score and a latency", given=f"{score!r}, {latency_ms!r}",
                              allowed="numbers, or an autoprune Latency", fix="session.tell(plan, 0.9, 12.5)"
                              ) from error
        if not math.isfinite(score) or not math.isfinite(latency_ms) or latency_ms <= 0:
            raise ConfigError("a result must be finite, and the latency above 0", given=f"{score}, {latency_ms} ms",
                              fix="leave a plan that failed untold")
        trials = self._open.get(plan.digest)
        if not trials:
            raise ConfigError("this plan was not asked for, or was told already", given=plan.digest)
        trial = trials.pop(0)
        if not trials:
            del self._open[plan.digest]
        self._study.tell(trial, [score, latency_ms])

    @property
    def best_plans(self) -> list[Plan]:
        """The plans that no other dominates."""
        return [self._proposer.plan(t.params) for t in self._study.best_trials]
