"""A table of real evaluations, made once and replayed in milliseconds.

    python benchmarks/search/table.py make [--tasks digits] [--blocks 5]   # 20 to 40 minutes of one core per task
    python benchmarks/search/table.py replay [--seeds 20]                  # seconds
    python benchmarks/search/table.py methods                              # does choosing methods by layer pay?
    python benchmarks/search/table.py looks                                # what does a look say of the trained score?

The nets and data are those of `real_tasks.py`, the recovery is that of `real.py` (24 steps), latency is the Raspberry
Pi 4 profile's. Each row has a plan, its latency, and its score at every fidelity that a search has: untrained with
refitted readers and recalibrated norms (the look), and trained, on the search split; and trained on the test split. A
block is 60 candidates of autoprune's own search with a seed of its own, and 60 plans that it did not propose: uniform,
jittered and random ones, and five patterns of widths four times each, by other methods.

A replay gives a sampler the row nearest to what it proposes (kept shares, the mean absolute difference) that it has not
seen. It has no looks: that of the nearest row says too little of a plan (tried: a little worse than without). Its score
is `score.volume` over that of the whole table. A pool is kinder to a sampler that proposes badly than a real search is,
and cannot reward plans that nobody has evaluated.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import torch
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from real_tasks import TASKS
from score import interval, volume
from simulator import BLIND
from world import World, search, spread

from autoprune.devices.device import load_device
from autoprune.graph.plan import Plan
from autoprune.search.candidate import Candidate
from autoprune.search.failures import CANDIDATE_ERRORS
from autoprune.search.knapsack.curves import Curve
from autoprune.search.knapsack.sampler import ARMS, KnapsackSampler
from autoprune.search.propose import Proposer
from autoprune.search.run_folder import environment
from autoprune.search.space import Choices
from autoprune.search.study import join_population

TABLES = Path(__file__).parents[1] / "data"
RESULTS = Path(__file__).parents[1] / "results" / "search_table.json"
DEVICE = "rpi4"
METHOD = "sensitivity"  # of the uniform plans
SINGLE = ("l1", "wanda", METHOD)  # methods that a pattern has everywhere
BANDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # of the dense latency
OWN, UNIFORM, JITTER, RANDOM, PATTERNS = 60, 10, 15, 15, 5  # rows of a block; patterns, four times each


def path_of(task: str) -> Path:
    return TABLES / f"search_{task}.json.gz"


# -- making ----------------------------------------------------------------------------------------------------------


class Maker:
    """Adds blocks to the table of one task; what is there stays."""

    def __init__(self, name: str):
        self.name, self.world = name, World(name, 0, float("inf"), load_device(DEVICE))
        self.groups = dict(self.world.proposer.choices)
        self.methods = list(dict.fromkeys(m for c in self.groups.values() for m in c.methods))
        file = path_of(name)
        self.table: dict[str, Any] = json.loads(gzip.decompress(file.read_bytes())) if file.is_file() else {
            "task": name, "device": DEVICE, "environment": environment(), "methods": self.methods,
            "groups": {n: {"widths": list(c.widths), "methods": list(c.methods)} for n, c in self.groups.items()},
            "dense_ms": self.world.ms(Plan()),
            "dense": self.world.task.evaluate(self.world.pipeline.dense, "test").value,
            "blocks": 0, "rows": []}

    def add_block(self) -> None:
        seed = self.table["blocks"]
        rows = [*self._own(seed), *self._others(seed)]
        self.table["rows"] += rows
        self.table["blocks"] += 1
        text = json.dumps(self.table, separators=(",", ":")).encode()
        path_of(self.name).write_bytes(gzip.compress(text, 9, mtime=0))

    def _row(self, source: str, found: Candidate, model: Any) -> dict[str, Any]:
        plan = found.plan
        keep = [plan.cuts[n].keep if n in plan.cuts else c.widths[-1] for n, c in self.groups.items()]
        chosen = [self.methods.index(plan.cuts[n].method) if n in plan.cuts else -1 for n in self.groups]
        return {"from": source, "keep": keep, "method": chosen, "ms": round(found.ms, 4),
                "look": round(self._look(plan), 5),
                "seen": round(found.score.value, 5), "test": round(self.world.task.evaluate(model, "test").value, 5),
                "s": found.seconds["total"]}

    def _look(self, plan: Plan) -> float:
        """The untrained model's score on the search split."""
        model = self.world.pipeline.prune(plan)
        self.world.pipeline.recalibrate(model)
        return self.world.task.evaluate(model, "validation", limit=1024).value

    def _own(self, seed: int) -> list[dict[str, Any]]:
        self.world.seed, rows = seed, list[dict[str, Any]]()
        notes = search(self.world, "knapsack", OWN, lambda *found: rows.append(self._row(f"own {seed}", *found)))
        self.table.setdefault("scan", notes["knapsack"])
        return rows

    def _others(self, seed: int) -> list[dict[str, Any]]:
        world, rows = self.world, list[dict[str, Any]]()
        world.pipeline.seed, world.random = seed, np.random.default_rng(1000 + seed)
        for source, parameters in self._plans(seed):
            plan = world.proposer.plan(parameters)
            try:
                found, model, _ = world.pipeline.evaluate(0, source, plan, world.latency(plan))
            except CANDIDATE_ERRORS as error:
                print(f"{self.name}: {source} is left out: {error}", flush=True)
                continue
            rows.append(self._row(source, found, model))
        return rows

    def _plans(self, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
        random, make = self.world.random, self.world.proposer.parameters
        levels = spread()
        for _ in range(seed * UNIFORM):
            next(levels)

        def widths(draw: Callable[[], float]) -> dict[str, int]:
            return {n: min(c.widths, key=lambda w, k=draw(), c=c: abs(w / c.widths[-1] - k))
                    for n, c in self.groups.items()}

        def mixed() -> dict[str, str]:
            return {n: str(random.choice([m for m in c.methods if m != "random"])) for n, c in self.groups.items()}
        for _ in range(UNIFORM):
            keep = 0.1 + 0.9 * next(levels)
            yield "uniform", make(widths(lambda k=keep: k), dict.fromkeys(self.groups, METHOD))
        for _ in range(JITTER):
            keep = float(random.uniform(0.1, 1))
            yield "jitter", make(widths(lambda k=keep: k + 0.15 * random.normal()), mixed())
        for _ in range(RANDOM):
            low = float(random.uniform(0.05, 0.9))
            yield "random", make(widths(lambda k=low: random.uniform(k, 1)), mixed())
        for number in range(PATTERNS):
            keep = float(random.uniform(0.15, 0.7))
            pattern = widths(lambda k=keep: k + 0.2 * random.normal())
            for name in SINGLE:
                yield f"pattern {seed}.{number} {name}", make(pattern, dict.fromkeys(self.groups, name))
            yield f"pattern {seed}.{number} mixed", make(pattern, mixed())


# -- replaying -------------------------------------------------------------------------------------------------------


class Table:
    """The rows of one task, for samplers."""

    def __init__(self, name: str):
        self.data = json.loads(gzip.decompress(path_of(name).read_bytes()))
        plans = {(tuple(r["keep"]), tuple(r["method"])): r for r in reversed(self.data["rows"])}
        self.rows = list(reversed(plans.values()))
        self.choices = {n: Choices(tuple(g["widths"]), tuple(g["methods"])) for n, g in self.data["groups"].items()}
        self.sizes = np.array([c.widths[-1] for c in self.choices.values()])
        self.shares = np.array([r["keep"] for r in self.rows]) / self.sizes
        self.reference = (self.data["dense_ms"], 0.5 * self.data["dense"])
        self.best = volume(self.rows, *self.reference)
        self.log_ms = _fit(self.shares, np.log([r["ms"] for r in self.rows]))

    def proposer(self, seed: int) -> Proposer:
        return Proposer(SimpleNamespace(fingerprint="table"), self.choices, seed)

    def shares_of(self, plan: Plan) -> np.ndarray:
        return np.array([plan.cuts[n].keep if n in plan.cuts else c.widths[-1]
                         for n, c in self.choices.items()]) / self.sizes

    def ms(self, plan: Plan) -> float:
        """Of any plan: quadratic in the kept shares, fitted to the logarithms of the rows."""
        return float(np.exp(self.log_ms(self.shares_of(plan)[None])[0]))

    def knapsack(self, proposer: Proposer, seed: int, arms: tuple[str, ...]) -> KnapsackSampler:
        scan = self.data["scan"]
        curves = {n: Curve.from_json(c) for n, c in scan["curves"].items()}
        return KnapsackSampler(proposer, curves, self.data["dense_ms"], (), self.ms, scan["shared"], seed, arms)

    def score(self, seen: list[int]) -> float:
        return volume((self.rows[i] for i in seen), *self.reference) / self.best


def _fit(shares: np.ndarray, log_ms: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    from sklearn.linear_model import RidgeCV

    def features(x: np.ndarray) -> np.ndarray:
        return np.hstack([x, x ** 2, np.log(x), x.mean(1, keepdims=True) * x])
    model = RidgeCV(np.logspace(-4, 2, 13)).fit(features(shares), log_ms)
    return lambda x: model.predict(features(x))


def replay(table: Table, name: str, seed: int, count: int) -> dict[int, float]:
    proposer, random = table.proposer(seed), np.random.default_rng(seed)
    samplers: dict[str, Callable[[], BaseSampler]] = {
        "random": lambda: RandomSampler(seed=seed), "nsga2": lambda: NSGAIISampler(seed=seed, population_size=12),
        "tpe": lambda: TPESampler(seed=seed, multivariate=True, n_startup_trials=8),
        "knapsack": lambda: table.knapsack(proposer, seed, ARMS),
        **{f"knapsack, {arm} only": (lambda a=arm: table.knapsack(proposer, seed, (a,))) for arm in BLIND}}
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=samplers[name]())
    for parameters in proposer.controls().values():
        study.enqueue_trial(parameters)
    left, seen = np.ones(len(table.rows), dtype=bool), list[int]()
    out: dict[int, float] = {}
    while len(seen) < count:
        trial = study.ask()
        join_population(study, trial)
        far = np.abs(table.shares - table.shares_of(proposer.suggest(trial))).mean(1) + 1e-9 * random.random(len(left))
        row = int(np.where(left, far, np.inf).argmin())
        left[row] = False
        seen.append(row)
        study.tell(trial, [table.rows[row]["seen"], table.rows[row]["ms"]])
        if len(seen) in (count // 4, count):
            out[len(seen)] = table.score(seen)
    return out


def compare_methods(table: Table) -> dict[str, list[float]]:
    """Test score of the mixed methods less that of each single one on the same widths: mean and standard error."""
    by: dict[str, dict[str, float]] = {}
    for r in table.rows:
        if r["from"].startswith("pattern"):
            _, pattern, name = r["from"].split()
            by.setdefault(pattern, {})[name] = r["test"]
    out = {}
    for name in SINGLE:
        lead = np.array([p["mixed"] - p[name] for p in by.values() if {"mixed", name} <= p.keys()])
        out[name] = _mean(lead)
    best = np.array([max(p.values()) - p[METHOD] for p in by.values() if len(p) == 4])
    out["best of the four"] = _mean(best)
    return out


def rank_correlations(table: Table) -> dict[str, list[float]]:
    """Spearman's, of the look and the trained score on the search split, in bands of a tenth of the dense latency; and
    how many rows a band has.
    """
    from scipy.stats import spearmanr

    shares, out = np.array([r["ms"] for r in table.rows]) / table.reference[0], {}
    for low in BANDS:
        rows = [r for r, share in zip(table.rows, shares, strict=True) if low <= share < low + 0.1]
        rho = spearmanr([r["look"] for r in rows], [r["seen"] for r in rows]).statistic
        out[f"{low} to {low + 0.1:.1f}"] = [round(float(rho), 2), len(rows)]
    return out


def _mean(values: np.ndarray) -> list[float]:
    """Mean, its standard error, and how many they are."""
    return [round(float(values.mean()), 4), round(float(values.std(ddof=1) / len(values) ** 0.5), 4), len(values)]


SUMMARIES: dict[str, Callable[[Table], dict[str, list[float]]]] = {
    "methods": compare_methods, "looks": rank_correlations}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "replay", "methods", "looks"))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--count", type=int, default=100, help="rows that a replay sees")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    if args.what == "make":
        makers = [Maker(name) for name in args.tasks]
        for block in range(args.blocks):
            for maker in makers:
                if maker.table["blocks"] <= block:
                    maker.add_block()
                    print(maker.name, len(maker.table["rows"]), "rows", flush=True)
        return
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    results["environment"] = environment()
    for name in args.tasks:
        table = Table(name)
        if args.what in SUMMARIES:
            results.setdefault(args.what, {})[name] = SUMMARIES[args.what](table)
            print(name, results[args.what][name])
            continue
        for way in ("knapsack", *(f"knapsack, {arm} only" for arm in BLIND), "tpe", "nsga2", "random"):
            start = time.perf_counter()
            scores = [replay(table, way, seed, args.count) for seed in range(args.seeds)]
            row = {str(n): interval([s[n] for s in scores]) for n in scores[0]}
            row["ms_per_candidate"] = [round(1e3 * (time.perf_counter() - start) / args.seeds / args.count, 2)]
            results.setdefault("replay", {}).setdefault(name, {})[way] = row
            print(f"{name:11} {way:22}", row, flush=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
