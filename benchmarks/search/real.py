"""Searches on real nets at equal time: `python benchmarks/search/real.py [--tasks …] [--ways …] [--seconds 60]`.

Three small nets (`real_tasks.py`), the same recovery for all (least squares where the way allows it, norm
recalibration, 24 steps of distillation). Time is processor time of one thread, so that another process on the machine
changes nothing; reading the test split, which no way is told of, is not counted. Latency is the Raspberry Pi 4
profile's: the same number for the same widths, everywhere.

A run's front is chosen on the search split and scored on the test split: hypervolume from the dense latency and half
the dense metric, over that of all points of all runs of a task together (nHV). Every run is written at once; the same
command goes on where it stopped, and prints the table.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

from autoprune.devices.device import load_device
from autoprune.devices.latency import Latency
from autoprune.devices.profiler import open_profiler
from autoprune.graph.graph import trace
from autoprune.graph.plan import Cut, Plan
from autoprune.recover.finetune import finetune
from autoprune.search.candidate import Candidate
from autoprune.search.knapsack.decoder import Decoder
from autoprune.search.knapsack.sensitivity import scan
from autoprune.search.pipeline import CANDIDATE_ERRORS, Pipeline
from autoprune.search.plan_latency import PlanLatency
from autoprune.search.propose import Proposer
from autoprune.search.run import Search
from autoprune.search.run_folder import RunFolder, environment
from autoprune.search.space import space_for
from autoprune.search.study import join_population

sys.path.insert(0, str(Path(__file__).parent))
from amc import Agent
from real_tasks import TASKS, trained

RESULTS = Path(__file__).parents[1] / "results" / "search_real.json"
DEVICE = "rpi4"
EARLY = 0.3  # of the time: the second look
METHOD = "sensitivity"  # of the ways that do not choose one: the best of docs/benchmarks.md


class TimeUp(BaseException):
    """Not an `Exception`: nothing catches it on the way."""


class World:
    """One task, and the points that one run has evaluated."""

    def __init__(self, name: str, seed: int, seconds: float, cache: Path):
        self.task, self.seed, self.seconds = trained(name, cache), seed, seconds
        self.graph = trace(self.task.model, self.task.example_inputs)
        self.device = load_device(DEVICE)
        self.space = space_for("default")
        self.profiler = open_profiler(self.device)
        self.random = np.random.default_rng(seed)
        self.rows: list[dict[str, float]] = []
        self.pipeline = Pipeline(self.task, self.graph, self.space, seed)
        self.proposer = Proposer(self.graph, self.space.choices(self.graph, self.device.alignment()), seed)
        self._known: dict[tuple[Any, ...], Latency] = {}
        self._uncounted = 0.0
        self.pipeline.onnx(self.pipeline.dense)  # a template that every way would make
        self._start = time.process_time()

    @property
    def spent(self) -> float:
        return time.process_time() - self._start - self._uncounted

    def off_the_clock(self, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        found = work()
        self._uncounted += time.process_time() - start
        return found

    def note(self, ms: float, model: torch.nn.Module, seen: float) -> None:
        test = self.off_the_clock(lambda: self.task.evaluate(model, "test").value)
        row = {"s": self.spent, "ms": ms, "seen": seen, "test": test}
        self.rows.append({key: round(value, 5) for key, value in row.items()})
        if self.spent > self.seconds:
            raise TimeUp

    def ms(self, plan: Plan) -> float:
        return self.latency(plan).ms

    def latency(self, plan: Plan) -> Latency:
        widths = tuple(sorted((n, c.keep) for n, c in plan.cuts.items()))
        if widths not in self._known:
            any_units = Plan({n: Cut(k, "random") for n, k in widths})
            self._known[widths] = self.profiler.latency(self.pipeline.onnx(self.graph.cut(any_units)))
        return self._known[widths]

    def evaluate(self, plan: Plan, steps: int | None = None) -> float:
        """The search score of a plan, noted as a point unless `steps` says 0 steps of a mere look."""
        pipeline = self.pipeline
        settings = pipeline.recovery
        if steps is not None:
            pipeline.recovery = replace(settings, tune=replace(settings.tune, steps=steps))
        try:
            found, model, _ = pipeline.evaluate(0, "", plan, self.latency(plan))
        except CANDIDATE_ERRORS:
            return -math.inf
        finally:
            pipeline.recovery = settings
        assert found.score is not None
        self.note(self.ms(plan), model, found.score.value)
        return found.score.value

    def uniform(self, keep: float, jitter: float = 0.0) -> Plan:
        widths = {n: min(c.widths, key=lambda w, c=c: abs(w / c.widths[-1] - keep - jitter * self.random.normal()))
                  for n, c in self.proposer.choices.items()}
        return self.proposer.plan(self.proposer.parameters(widths, dict.fromkeys(widths, METHOD)))


def spread() -> Any:
    """Numbers in (0, 1), ever finer (van der Corput)."""
    for i in range(1, 10_000):
        yield sum(((i >> k) & 1) / 2 ** (k + 1) for k in range(14))


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


def own(world: World, sampler: str, halving: int = 1) -> None:
    """autoprune's own search."""
    search(world, sampler, 100_000, lambda found, model: world.note(found.ms, model, found.score.value), halving)


def search(world: World, sampler: str, trials: int, heard: Callable[[Candidate, Any], None], halving: int = 1
           ) -> dict[str, Any]:
    """autoprune's own search, whose pipeline tells `heard` every candidate and its model; what its study notes."""
    space = replace(world.space, halving=halving)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder, \
            RunFolder(folder).open({"model_fingerprint": ""}) as run:
        runner = Search(world.task, world.graph, world.device, space, run, trials=trials, seed=world.seed,
                        sampler=sampler)
        runner.pipeline._template = world.pipeline._template
        evaluate = runner.pipeline.evaluate

        def noted(*job: Any) -> tuple[Candidate, Any, Any]:
            found = evaluate(*job)
            heard(*found[:2])
            return found
        runner.pipeline.evaluate = noted
        try:
            runner.run()
            return runner.study.attributes
        finally:
            runner.close()


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
    (looked at with recalibrated norms); 4 % of the latency at first, a little less each time.
    """
    proposer = world.proposer
    world.evaluate(Plan(model=world.graph.fingerprint))
    while True:  # with a finer step each time through
        widths = {n: c.widths[-1] for n, c in proposer.choices.items()}
        methods, step = dict.fromkeys(widths, METHOD), 0.04 * world.ms(Plan())
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
                    ms = world.off_the_clock(lambda m=model: exported_ms(world, m))
                    world.note(ms, model, seen)


def exported_ms(world: World, model: torch.nn.Module) -> float:
    from autoprune.graph.onnx import export_onnx

    graph = trace(copy.deepcopy(model).eval(), world.task.example_inputs)
    return world.profiler.latency(export_onnx(graph.dense(), graph.example_inputs)).ms


WAYS: dict[str, Callable[[World], None]] = {
    "knapsack": lambda w: own(w, "knapsack"),
    "knapsack, halving by 3": lambda w: own(w, "knapsack", 3),
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


def run(name: str, way: str, seed: int, seconds: float, cache: Path) -> dict[str, Any]:
    world = World(name, seed, seconds, cache)
    dense = world.task.evaluate(world.pipeline.dense, "test").value
    world._start, world._uncounted = time.process_time(), 0.0
    torch.manual_seed(seed)
    error = None
    try:
        WAYS[way](world)
    except TimeUp:
        pass
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"[:200]
    return {"task": name, "way": way, "seed": seed, "seconds": seconds, "dense_ms": world.ms(Plan()), "dense": dense,
            "error": error, "points": world.rows}


# -- the score ---------------------------------------------------------------------------------------------------------


def front_of(points: list[dict[str, float]], by: str = "seen") -> list[dict[str, float]]:
    out: list[dict[str, float]] = []
    for p in sorted(points, key=lambda p: (p["ms"], -p[by])):
        if not out or p[by] > out[-1][by]:
            out.append(p)
    return out


def volume(chosen: list[dict[str, float]], ms: float, metric: float) -> float:
    """Hypervolume of the test scores of what was chosen, from (ms, metric)."""
    area, top = 0.0, metric
    for p in front_of([p for p in chosen if p["ms"] <= ms], "test"):
        if p["test"] > top:
            area += (ms - p["ms"]) * (p["test"] - top)
            top = p["test"]
    return area


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """By task and way: nHV at the end and early, of each seed; by way: the mean over tasks and seeds with a bootstrap
    interval, and how often it is above the best of the others.
    """
    out: dict[str, Any] = {}
    for task in dict.fromkeys(r["task"] for r in rows):
        mine = [r for r in rows if r["task"] == task]
        ms, metric = mine[0]["dense_ms"], 0.5 * mine[0]["dense"]
        union = volume([p for r in mine for p in front_of(r["points"])], ms, metric)
        for r in mine:
            early = [p for p in r["points"] if p["s"] <= EARLY * r["seconds"]]
            cell = out.setdefault(task, {}).setdefault(r["way"], {"end": [], "early": [], "candidates": [],
                                                                  "errors": []})
            for key, points in (("end", r["points"]), ("early", early)):
                cell[key].append(round(volume(front_of(points), ms, metric) / max(union, 1e-12), 4))
            cell["candidates"].append(len(r["points"]))
            cell["errors"] += [r["error"]] if r["error"] else []
    return out


def show(found: dict[str, Any]) -> None:
    ways = list(dict.fromkeys(w for cells in found.values() for w in cells))
    print("| way | " + " | ".join(f"{t}: end (early), candidates" for t in found) + " |")
    print("|---" * (len(found) + 1) + "|")
    for way in ways:
        cells = [found[t].get(way) for t in found]
        print(f"| {way} | " + " | ".join("–" if c is None else f"{np.mean(c['end']):.3f} ± {np.std(c['end']):.3f} "
              f"({np.mean(c['early']):.3f}), {np.mean(c['candidates']):.0f}" + ("!" if c["errors"] else "")
              for c in cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "autoprune-real")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    before = json.loads(args.out.read_text()) if args.out.is_file() else {}
    rows = before.pop("rows", [])
    done = {(r["task"], r["way"], r["seed"], r["seconds"]) for r in rows}
    for seed in args.seeds:
        for task in args.tasks:
            for way in args.ways:
                if (task, way, seed, args.seconds) in done:
                    continue
                rows.append(run(task, way, seed, args.seconds, args.cache))
                r = rows[-1]
                print(task, way, seed, len(r["points"]), "points", r["error"] or "", flush=True)
                args.out.write_text(json.dumps({**before, "environment": environment(), "device": DEVICE, "rows": rows,
                                                "summary": summary(rows)}) + "\n")
    show(summary(rows))


if __name__ == "__main__":
    main()
