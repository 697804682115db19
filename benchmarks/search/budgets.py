"""Does what is recommended run within its budget? `python benchmarks/search/budgets.py [--tasks …] [--seeds 0 1 2]`.

autoprune's own search on the nets of `real_tasks.py`, on this machine (`--device cpu`, one thread, every candidate
measured), with three budgets at once. Each recommended model's exported file is then timed in turns with the dense one,
five times; a budget is hit when the median of the ratios is within it. Alone on the machine, eight minutes a task.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

import autoprune
from autoprune.devices.profiler import MeasuredProfiler, open_profiler
from autoprune.graph.graph import trace
from autoprune.graph.onnx import export_onnx
from autoprune.search.run_folder import environment

sys.path.insert(0, str(Path(__file__).parent))
from real_tasks import TASKS, trained
from score import BUDGETS

RESULTS = Path(__file__).parents[1] / "results" / "search_budgets.json"


def hits(name: str, seed: int, trials: int, timeout: str | None) -> list[dict[str, Any]]:
    task = trained(name)
    graph = trace(task.model, task.example_inputs)
    dense = export_onnx(graph.dense(), graph.example_inputs)
    out = []
    with tempfile.TemporaryDirectory() as folder, open_profiler("cpu", threads=1, reference=dense) as profiler:
        assert isinstance(profiler, MeasuredProfiler)
        budgets = ",".join(f"{share}x" for share in BUDGETS[name])
        start = time.perf_counter()
        front = autoprune.search(task, "cpu", budgets, threads=1, trials=trials, timeout=timeout, seed=seed, run=folder,
                                 workers=0)
        seconds = round(time.perf_counter() - start, 1)
        numbers = [front.recommended, *front.further.values()]
        for share, number in zip(BUDGETS[name], numbers, strict=True):
            row: dict[str, Any] = {"task": name, "seed": seed, "budget": share, "dense": front.dense.test.value,
                                   "dense_ms": front.dense.ms, "ratio": None, "test": None, "hit": False,
                                   "seconds": seconds, "candidates": len(front.candidates)}
            if number is not None:
                file = Path(folder) / "picked" / f"{number:04d}" / "model.onnx"
                ratios = [profiler.ratio(file.read_bytes()) for _ in range(5)]
                found = front.pick(trial=number).candidate
                row.update(ratio=round(statistics.median(ratios), 4), test=found.test.value,
                           told=round(found.ms / front.dense.ms, 4))
                row["hit"] = row["ratio"] <= share
            out.append(row)
            print(row, flush=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--timeout", help="of the candidates; what is recommended is tuned after that")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"rows": []}
    for seed in args.seeds:
        for name in args.tasks:
            results["rows"] = [r for r in results["rows"] if (r["task"], r["seed"]) != (name, seed)]
            results["rows"] += hits(name, seed, args.trials, args.timeout)
            results["environment"] = environment()
            RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
