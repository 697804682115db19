"""Searches on real nets at equal time.

    autoprune devices calibrate cpu --name here                                     # five minutes
    python benchmarks/search/real.py run --device here.toml [--tasks …] [--ways …]  # four minutes a run
    python benchmarks/search/real.py measure --device here.toml --rounds 2          # alone on the machine
    python benchmarks/search/real.py show

Three small nets (`real_tasks.py`), the same recovery for all (least squares where the way allows it, norm
recalibration, 24 steps of distillation). Time is processor time of one thread, so that another process on the machine
changes nothing; reading the test split, which no way is told of, is not counted. While they run, all ways are told the
latencies that the calibration predicts; `measure` then times every member of every front, at the end and early, through
onnxruntime, `--rounds` times each in other orders (the median counts), and scores go by these.

A run's front is chosen on the search split and scored on the test split (`score.volume`), from the dense latency and
half the dense metric, over all fronts of a task together (nHV); the regret is what is missing to 1. Every run is
written at once; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

from autoprune.devices.calibration.calibrate import time_net
from autoprune.devices.device import Device, load_device
from autoprune.devices.measure import Measurer
from autoprune.graph.plan import Plan
from autoprune.search.run_folder import environment

sys.path.insert(0, str(Path(__file__).parent))
from real_tasks import TASKS
from score import BUDGETS, better, front_of, interval, summary
from ways import OWN, WAYS
from world import TimeUp, World

RESULTS = Path(__file__).parents[1] / "results" / "search_real.json"
EARLY = 0.3  # of the time: the second look


def run(name: str, way: str, seed: int, seconds: float, cache: Path, device: Device) -> dict[str, Any]:
    world = World(name, seed, seconds, cache, device)
    dense = world.task.evaluate(world.pipeline.dense, "test").value
    world.start()
    torch.manual_seed(seed)
    error = None
    try:
        WAYS[way](world)
    except TimeUp:
        pass
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"[:200]
    row = {"task": name, "way": way, "seed": seed, "seconds": seconds, "dense_ms": world.ms(Plan()), "dense": dense,
           "error": error, "points": world.rows}
    folder = models_of(row, cache)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dense.onnx").write_bytes(world.pipeline.onnx(world.pipeline.dense))
    for place in wanted(row):
        (folder / f"{place}.onnx").write_bytes(world.models[place])
    return row


def models_of(row: dict[str, Any], cache: Path) -> Path:
    return cache / "fronts" / "-".join(str(row[k]).replace(" ", "_") for k in ("task", "way", "seed", "seconds"))


def wanted(row: dict[str, Any]) -> list[int]:
    """The places of the points that are on the front at the end or early."""
    early = [p for p in row["points"] if p["s"] <= EARLY * row["seconds"]]
    members = [id(p) for points in (row["points"], early) for p in front_of(points)]
    return [place for place, p in enumerate(row["points"]) if id(p) in members]


def measure(rows: list[dict[str, Any]], cache: Path, device: Device, rounds: int) -> None:
    """Time what was not timed yet, in random orders, in turns with the calibration's probe and scaled by it."""
    calibration = device.calibration
    assert calibration is not None
    jobs = [(row, place) for row in rows if "measured_dense_ms" not in row and models_of(row, cache).is_dir()
            for place in (None, *wanted(row))]
    order = [number for seed in range(rounds) for number in random.Random(seed).sample(range(len(jobs)), len(jobs))]
    taken: list[list[float]] = [[] for _ in jobs]
    with Measurer(load_device("cpu"), calibration.threads) as measurer:
        for done, number in enumerate(order):
            row, place = jobs[number]
            file = models_of(row, cache) / f"{'dense' if place is None else place}.onnx"
            found = time_net(measurer, file.read_bytes(), calibration.layout, runs=30, seconds=0.15, warmup_runs=5)
            taken[number].append(found.ms * calibration.probe_ms / found.probe_ms)
            if done % 100 == 0:
                print(done, "of", len(order), flush=True)
    for (row, place), times in zip(jobs, taken, strict=True):
        ms = round(float(np.median(times)), 5)
        if place is None:
            row["measured_dense_ms"] = ms
        else:
            row["points"][place]["measured"] = ms


def show(found: dict[str, Any]) -> None:
    """Tables in Markdown: nHV at the end (early) by way and task; ours against the best of the others; budgets."""
    ways = list(dict.fromkeys(w for cells in found.values() for w in cells))
    print("| way | " + " | ".join(f"{t}: end (early), candidates" for t in found) + " |")
    print("|---" * (len(found) + 1) + "|")
    for way in ways:
        cells = [found[t].get(way) for t in found]
        print(f"| {way} | " + " | ".join("–" if c is None else f"{np.mean(c['end']):.3f} ± {np.std(c['end']):.3f} "
              f"({np.mean(c['early']):.3f}), {np.mean(c['candidates']):.0f} × {len(c['end'])}"
              + ("!" if c["errors"] else "") for c in cells) + " |")
    for task, cells in found.items():
        ours, peers = cells.get("knapsack"), {w: c for w, c in cells.items() if w not in OWN}
        if ours is None or not peers:
            continue
        best = max(peers, key=lambda w: np.mean(peers[w]["end"]))
        print(f"{task}: regret {interval([1 - v for v in ours['end']])}, of {best} "
              f"{interval([1 - v for v in peers[best]['end']])}; P(better) {better(ours['end'], peers[best]['end'])}")
        for place, share in enumerate(BUDGETS[task]):
            at = {w: [b[place] for b in c["at_budgets"] if b[place] is not None] for w, c in cells.items()}
            first = max(peers, key=lambda w, at=at: np.mean(at[w]) if at[w] else 0.0)
            print(f"  at {share} of dense: {np.mean(at['knapsack']):.4f}, {first} {np.mean(at[first]):.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "measure", "show"))
    parser.add_argument("--device", help="the file of this machine, calibrated")
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--rounds", type=int, default=1, help="of measuring")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "autoprune-real")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    rows = json.loads(args.out.read_text())["rows"] if args.out.is_file() else []

    def write() -> None:
        args.out.write_text(json.dumps({"environment": environment(), "rows": rows, "summary": summary(rows, EARLY)})
                            + "\n")
    if args.what != "show" and args.device is None:
        parser.error("--device is needed: autoprune devices calibrate cpu --name here")
    if args.what == "measure":
        measure(rows, args.cache, load_device(args.device), args.rounds)
        write()
    done = {(r["task"], r["way"], r["seed"], r["seconds"]) for r in rows}
    jobs = [(task, way, seed) for seed in args.seeds for task in args.tasks for way in args.ways]
    for task, way, seed in jobs if args.what == "run" else []:
        if (task, way, seed, args.seconds) not in done:
            start = time.perf_counter()
            rows.append(run(task, way, seed, args.seconds, args.cache, load_device(args.device)))
            print(task, way, seed, len(rows[-1]["points"]), "points", rows[-1]["error"] or "",
                  f"{time.perf_counter() - start:.0f} s", flush=True)
            write()
    show(summary(rows, EARLY))


if __name__ == "__main__":
    main()
