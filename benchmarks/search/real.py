"""Searches on real nets at equal time.

    python benchmarks/search/real.py run [--tasks …] [--ways …] [--seeds …]   # four minutes a run
    python benchmarks/search/real.py measure [--tasks …] [--rounds 2]         # alone on the machine
    python benchmarks/search/real.py show

Three small nets (`real_tasks.py`), the same recovery for all (least squares where the way allows it, norm
recalibration, 24 steps of distillation). Time is processor time, one thread, corrected for what neighbours on the
core slow it down (`clock.py`); reading the test split, which no way is told of, is not counted. While they run, all
ways are told the latencies that a calibration predicts (of an Intel Xeon, one thread: the one that ships). Every run
is one file in `benchmarks/data/search_real/fronts` and is never run twice: delete the file to run it again. Several
processes may run different seeds, tasks or ways at once.

`measure` then times every member of every front, at the end and early, through onnxruntime on the machine that it runs
on, each in turns with its dense net, `--rounds` times in other orders (the median counts), all runs of a task together,
and scores go by these. A front is chosen on the search split and scored on the test split (`score.volume`), from the
dense latency and half the dense metric, over all fronts of a task together (nHV); the regret is what is missing to 1.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

from autoprune.devices import calibration
from autoprune.devices.device import Device, load_device
from autoprune.devices.profiler import MeasuredProfiler
from autoprune.graph.graph import trace
from autoprune.graph.onnx import export_onnx
from autoprune.graph.plan import Plan
from autoprune.search.run_folder import environment

sys.path.insert(0, str(Path(__file__).parent))
from clock import Clock
from real_runs import Run, read_runs, run_name, runnable, without_weights
from real_tasks import NETS, TASKS, trained
from score import BUDGETS, better, front_of, interval, iqm, summary
from ways import OWN, WAYS
from world import TimeUp, World

RESULTS = Path(__file__).parents[1] / "results" / "search_real.json"
RUNS, DEVICE = NETS / "fronts", Path(calibration.__file__).with_name("x86_64.toml")
EARLY = 0.3  # of the time: the second look
_EACH_S = 0.2  # that a file is timed for in a round, and the dense net between: several rounds say more than long ones


def run(name: str, way: str, seed: int, seconds: float, device: Device) -> Run:
    world = World(name, seed, seconds, device)
    dense = world.task.evaluate(world.pipeline.dense, "test").value
    world.clock = Clock()
    torch.manual_seed(seed)
    error = None
    try:
        WAYS[way](world)
    except TimeUp:
        pass
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"[:200]
    row = {"task": name, "way": way, "seed": seed, "seconds": seconds, "device": device.name,
           "dense_ms": world.ms(Plan()), "dense": dense, "error": error, "points": world.rows}
    return Run(row, {place: without_weights(world.models[place]) for place in wanted(row)})


def wanted(row: dict[str, Any]) -> list[int]:
    """The places of the points that are on the front at the end or early."""
    early = [p for p in row["points"] if p["s"] <= EARLY * row["seconds"]]
    members = [id(p) for points in (row["points"], early) for p in front_of(points)]
    return [place for place, p in enumerate(row["points"]) if id(p) in members]


def measure(name: str, runs: list[Run], rounds: int) -> dict[str, dict[int, float]]:
    """Shares of the dense latency by run (its digest) and point, of the runs of one task: all in random orders."""
    found: dict[str, dict[int, list[float]]] = {r.digest: {place: [] for place in r.models} for r in runs}
    jobs = [(r, place) for r in runs for place in r.models]
    order = [job for seed in range(rounds) for job in random.Random(seed).sample(jobs, len(jobs))]
    net = trained(name)
    graph = trace(net.model, net.example_inputs)
    with MeasuredProfiler(load_device("cpu"), threads=1,
                          reference=export_onnx(graph.dense(), graph.example_inputs)) as profiler:
        for done, (r, place) in enumerate(order):
            found[r.digest][place].append(profiler.measurer.measure(
                runnable(r.models[place]), reference=profiler.reference, min_s=_EACH_S, repeats=1).ratio)
            if done % 100 == 0:
                print(name, done, "of", len(order), flush=True)
    return {digest: {place: round(float(np.median(shares)), 5) for place, shares in points.items()}
            for digest, points in found.items()}


def with_measured(runs: list[Run], measured: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the runs, and in their points what was measured."""
    rows = []
    for r in runs:
        shares = {int(place): share for place, share in measured.get(r.digest, {}).items()}
        points = [{**p, "measured": shares[k]} if k in shares else p for k, p in enumerate(r.row["points"])]
        rows.append({**r.row, "points": points})
    return rows


def show(found: dict[str, Any]) -> None:
    """Tables in Markdown: nHV at the end (early) by way and task; ours against the best of the others; budgets."""
    cells_of = {task: found[task]["ways"] for task in TASKS if task in found}
    ways = list(dict.fromkeys(w for cells in cells_of.values() for w in cells))
    print("| way | " + " | ".join(f"{t}: end (early), candidates" for t in cells_of) + " |")
    print("|---" * (len(cells_of) + 1) + "|")
    for way in ways:
        cells = [of.get(way) for of in cells_of.values()]
        print(f"| {way} | " + " | ".join("–" if c is None else f"{', '.join(f'{v:.3f}' for v in c['end'])} "
              f"({np.mean(c['early']):.2f}), {np.mean(c['candidates']):.0f} candidates"
              + ("!" if c["errors"] else "") for c in cells) + " |")
    for task, cells in cells_of.items():
        ours, peers = cells.get("knapsack"), {w: c for w, c in cells.items() if w not in OWN}
        if ours is None or not peers:
            continue
        best = max(peers, key=lambda w: iqm(peers[w]["end"]))
        print(f"{task} ({'measured' if found[task]['measured'] else 'as told'}): regret "
              f"{interval([1 - v for v in ours['end']])}, early {iqm(1 - v for v in ours['early']):.3f}; of {best} "
              f"{interval([1 - v for v in peers[best]['end']])}; P(better) {better(ours['end'], peers[best]['end'])}")
        for place, share in enumerate(BUDGETS[task]):
            at = {w: [b[place] for b in c["at_budgets"] if b[place] is not None] for w, c in cells.items()}
            first = max(peers, key=lambda w, at=at: np.mean(at[w]) if at[w] else 0.0)
            print(f"  at {share} of dense: {np.mean(at['knapsack']):.4f}, {first} {np.mean(at[first]):.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "measure", "show"))
    parser.add_argument("--device", default=str(DEVICE), help="what predicts latencies")
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--rounds", type=int, default=2, help="of measuring")
    parser.add_argument("--missing", action="store_true", help="measure only runs that were not before")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--runs", type=Path, default=RUNS, help="the folder of what was run")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    for seed, task, way in itertools.product(args.seeds, args.tasks, args.ways) if args.what == "run" else ():
        if not (args.runs / f"{run_name(task, way, seed, args.seconds)}.tar.xz").is_file():
            start = time.perf_counter()
            found = run(task, way, seed, args.seconds, load_device(args.device))
            found.write(args.runs)
            print(task, way, seed, len(found.row["points"]), "points", found.row["error"] or "",
                  f"{time.perf_counter() - start:.0f} s", flush=True)
    runs = [r for r in read_runs(args.runs) if r.row["seconds"] == args.seconds]
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for task in args.tasks if args.what == "measure" else ():
        before = results if "measured" in results else {"environment": {}, "measured": {}}
        of_task = [r for r in runs if r.row["task"] == task and not (args.missing and r.digest in before["measured"])]
        measured = {r.digest: before["measured"][r.digest] for r in runs if r.digest in before["measured"]}
        measured |= measure(task, of_task, args.rounds)
        results = {"environment": {**before["environment"], task: environment()}, "measured": measured,
                   "summary": summary(with_measured(runs, measured), EARLY)}
        RESULTS.write_text(json.dumps(results) + "\n", encoding="utf-8")
    scores = summary(with_measured(runs, results.get("measured", {})), EARLY)
    show(scores)


if __name__ == "__main__":
    main()
