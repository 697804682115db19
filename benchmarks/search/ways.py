"""Ways to search: autoprune's own, Optuna's samplers, and others from papers and their packages."""

from __future__ import annotations

import copy
import io
import itertools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

from autoprune.graph.graph import trace
from autoprune.graph.onnx import export_onnx
from autoprune.graph.plan import Cut, Plan
from autoprune.recover.finetune import finetune
from autoprune.search.knapsack.decoder import Decoder
from autoprune.search.knapsack.sensitivity import scan
from autoprune.search.plan_latency import PlanLatency
from autoprune.search.study import join_population

sys.path.insert(0, str(Path(__file__).parent))
from amc import Agent
from world import METHOD, TimeUp, World, search, spread


def uniform(world: World, jitter: float = 0.0) -> None:
    for keep in spread():
        world.evaluate(world.uniform(0.1 + 0.9 * keep, jitter))


def recalibrated(world: World) -> None:
    """Random plans, norms recalibrated, not trained (EagleEye's proxy, as a search of its own)."""
    for keep in spread():
        world.evaluate(world.uniform(0.1 + 0.9 * keep, 0.25), steps=0)


def stock(world: World, sampler: optuna.samplers.BaseSampler) -> None:
    """One of Optuna's samplers over all widths and methods, after the controls that every search gets."""
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for parameters in world.proposer.controls().values():
        study.enqueue_trial(parameters)
    while True:
        trial = study.ask()
        join_population(study, trial)
        plan = world.proposer.suggest(trial)
        score = world.evaluate(plan)
        study.tell(trial, [score, world.ms(plan)] if math.isfinite(score) else None,
                   state=None if math.isfinite(score) else optuna.trial.TrialState.FAIL)


def own(world: World, sampler: str, **space: Any) -> None:
    """autoprune's own search."""
    search(world, sampler, 100_000, lambda found, model: world.note(
        found.ms, model, found.score.value, lambda: world.pipeline.onnx(model)), **space)


def scan_only(world: World) -> None:
    """The knapsack sampler's scan, decoded; nothing is learnt from candidates."""
    table = PlanLatency(world.graph, world.device)
    curves, shared = scan(world.pipeline, world.proposer.choices, table)
    names = list(curves)

    def plan(levels: Any) -> Plan:
        widths = {n: curves[n].widths[k] for n, k in zip(names, levels, strict=True)}
        return world.proposer.plan(world.proposer.parameters(widths, dict.fromkeys(names, METHOD)))
    dense_ms = table.latency(Plan()).ms
    decoder = Decoder(curves, dense_ms, lambda levels: table.latency(plan(levels)).ms, shared)
    for share in spread():
        world.evaluate(plan(decoder.at(decoder.least_ms + share * (dense_ms - decoder.least_ms))))


def netadapt(world: World) -> None:
    """Yang et al. 2018: again and again, of the single groups whose narrowing saves enough, the one that costs least
    (looked at with recalibrated norms); 4 % of the latency at first, a little less each time. Half of that in the next
    chain, and so on.
    """
    proposer = world.proposer
    world.evaluate(Plan(model=world.graph.fingerprint))
    for chain in itertools.count():
        widths = {n: c.widths[-1] for n, c in proposer.choices.items()}
        methods, step = dict.fromkeys(widths, METHOD), 0.04 * 0.5**chain * world.ms(Plan())
        while True:
            here = world.ms(proposer.plan(proposer.parameters(widths, methods)))
            found: list[tuple[float, dict[str, int]]] = []
            for name, c in proposer.choices.items():
                for width in reversed([w for w in c.widths if w < widths[name]]):
                    tried = {**widths, name: width}
                    plan = proposer.plan(proposer.parameters(tried, methods))
                    if world.ms(plan) <= here - step:
                        model = world.pipeline.prune(plan)
                        world.pipeline.recalibrate(model)
                        found.append((world.task.evaluate(model, "validation", limit=256).value, tried))
                        if world.spent > world.seconds:
                            raise TimeUp
                        break
            if not found:
                break
            widths = max(found, key=lambda f: f[0])[1]
            world.evaluate(proposer.plan(proposer.parameters(widths, methods)))
            step *= 0.98


def amc(world: World) -> None:
    """A DDPG agent (`amc.py`): 25 episodes for a latency, then the best plan of all that reach it is trained."""
    names, choices = list(world.proposer.choices), world.proposer.choices
    table, known = PlanLatency(world.graph, world.device), dict[tuple[int, ...], float]()

    def keep(shares: np.ndarray) -> dict[str, int]:
        return {n: min(choices[n].widths, key=lambda w, s=s, n=n: abs(w / choices[n].widths[-1] - s))
                for n, s in zip(names, shares, strict=True)}

    def ms(shares: np.ndarray) -> float:
        widths = keep(shares)
        key = tuple(widths.values())
        if key not in known:
            known[key] = table.latency(Plan({n: Cut(w, "random") for n, w in widths.items()})).ms
        return known[key]

    def plan(shares: np.ndarray) -> Plan:
        return world.proposer.plan(world.proposer.parameters(keep(shares), dict.fromkeys(names, METHOD)))
    agent = Agent(np.array([choices[n].widths[-1] for n in names], float),
                  np.array([choices[n].widths[0] / choices[n].widths[-1] for n in names]), ms, world.seed)
    world.evaluate(Plan(model=world.graph.fingerprint))
    looks: list[tuple[float, float, Plan]] = []
    trained = set()
    for share in spread():
        target_ms = (0.1 + 0.9 * share) * world.ms(Plan())
        for _ in range(25):
            shares, states = agent.episode(target_ms)
            model = world.pipeline.prune(plan(shares))
            world.pipeline.recalibrate(model)
            reward = world.task.evaluate(model, "validation", limit=256).value
            agent.learn(shares, states, reward)
            looks.append((reward, ms(shares), plan(shares)))
            if world.spent > world.seconds:
                raise TimeUp
        fitting = [x for x in looks if x[1] <= target_ms and x[2].digest not in trained]
        if fitting:
            best = max(fitting, key=lambda x: x[0])
            trained.add(best[2].digest)
            world.evaluate(best[2])


def torch_pruning(world: World) -> None:
    """As its README says: iterative steps with fine-tuning between them, magnitude and Taylor, global, isomorphic or
    not, one chain after another; widths in multiples of 8. All points of all chains count for it. Only its own work
    and training are on the clock, not our export of what it makes.
    """
    import torch_pruning as tp

    task, data = world.task, world.pipeline._fine_tuning_examples()
    example = task.example_inputs[0]
    world.evaluate(Plan(model=world.graph.fingerprint))
    quick = abs(world.profiler.latency(quickly_exported(world, task.model)).ms / world.ms(Plan()) - 1) < 0.03
    to_predict = quickly_exported if quick else exported
    for steps in (10, 20, 40):
        for taylor in (False, True):
            for isomorphic in (False, True):
                model = copy.deepcopy(task.model).eval()
                heads = {m["qkv"]: model.heads for m in getattr(model, "layers", [])
                         if isinstance(m, torch.nn.ModuleDict)}
                importance = (tp.importance.GroupTaylorImportance() if taylor
                              else tp.importance.GroupMagnitudeImportance(p=2))
                pruner = tp.pruner.BasePruner(model, example, importance, global_pruning=True, pruning_ratio=0.8,
                                              isomorphic=isomorphic, iterative_steps=steps, round_to=8, num_heads=heads,
                                              ignored_layers=[model.head])
                for _ in range(steps):
                    if taylor:
                        model.zero_grad()
                        for e in data[:4]:
                            task.loss(task.forward(model, e.inputs), e.target).backward()
                    pruner.step()
                    finetune(model, task, data, world.pipeline.settings, world.seed)
                    seen = task.evaluate(model, "validation").value
                    ms = world.clock.off(lambda m=model: world.profiler.latency(to_predict(world, m)).ms)
                    world.note(ms, model, seen, lambda m=model: exported(world, m))


def exported(world: World, model: torch.nn.Module) -> bytes:
    graph = trace(copy.deepcopy(model).eval(), world.task.example_inputs)
    return export_onnx(graph.dense(), graph.example_inputs)


def quickly_exported(world: World, model: torch.nn.Module) -> bytes:
    """By torch's older exporter: thirty times faster, the same nodes for convolutional nets."""
    file = io.BytesIO()
    torch.onnx.export(copy.deepcopy(model).eval(), tuple(world.task.example_inputs), file, dynamo=False,
                      opset_version=18)
    return file.getvalue()


WAYS: dict[str, Callable[[World], None]] = {
    "knapsack": lambda w: own(w, "knapsack"),
    "knapsack, halving by 3": lambda w: own(w, "knapsack", halving=3),
    "knapsack, with depth": lambda w: own(w, "knapsack", drop=("*",)),
    "tpe, with depth": lambda w: own(w, "tpe", drop=("*",)),
    "tpe, varying the front": lambda w: own(w, "tpe"),
    "scan, no search": scan_only,
    "uniform": uniform,
    "jitter round uniform": lambda w: uniform(w, 0.1),
    "random, recalibrated only": recalibrated,
    "tpe": lambda w: stock(w, optuna.samplers.TPESampler(seed=w.seed, multivariate=True, n_startup_trials=8)),
    "nsga2": lambda w: stock(w, optuna.samplers.NSGAIISampler(seed=w.seed, population_size=12)),
    "netadapt": netadapt,
    "amc": amc,
    "torch-pruning": torch_pruning,
}

OWN = ("knapsack", "knapsack, halving by 3", "knapsack, with depth", "tpe, with depth", "tpe, varying the front",
       "scan, no search")
"""What belongs to autoprune: the others are its peers."""
