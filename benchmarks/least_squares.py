"""Does refitting the layers that read what goes help, before and after fine-tuning? On the built-in example.

    python benchmarks/least_squares.py            # writes benchmarks/results/least_squares.json

Every width is cut to the same fraction; then norm recalibration and 0 or 24 steps of fine-tuning with the default
settings. Accuracy is that of the search split (718 images). Rows that the file holds are not computed again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

from autoprune.graph.graph import Graph, trace
from autoprune.graph.plan import Plan
from autoprune.methods.choose import Ranking
from autoprune.methods.collect import collect
from autoprune.methods.refit import refit
from autoprune.methods.registry import criterion
from autoprune.recover.finetune import Example, FineTune, examples, finetune
from autoprune.recover.norms import recalibrate
from autoprune.search.run_folder import environment
from autoprune.tasks.digits import digits_task
from autoprune.tasks.task import Task

RESULTS = Path(__file__).parent / "results" / "least_squares.json"
METHODS = ("l1", "taylor", "random", "reduce_and_reuse", "lasso", "greedy", "obs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=float, nargs="+", default=[0.72, 0.4])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 24])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--damping", type=float, nargs="+", default=[1e-4])
    options = parser.parse_args()
    task = digits_task()
    graph = trace(task.model, task.example_inputs)
    statistics = collect(graph, task.split("train"), lambda m, x, y: task.loss(task.forward(m, x), y),
                         needs={"gradients", "gram"})
    data = examples(task, graph.dense(), task.split("train"), 24)
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else []
    done = {_key(r) for r in rows}
    for seed, steps, keep, method, damping in itertools.product(range(options.seeds), options.steps, options.keep,
                                                                options.methods, options.damping):
        refits = [True] if criterion(method).refits else [False, True]
        for least_squares in refits:
            row: dict[str, Any] = {"method": method, "keep": keep, "least_squares": least_squares,
                                   "steps": steps, "seed": seed, "damping": damping if least_squares else None}
            if _key(row) not in done:
                start = time.perf_counter()
                row["accuracy"] = _accuracy(task, graph, statistics, data, row)
                row["seconds"] = round(time.perf_counter() - start, 1)
                rows.append(row)
                done.add(_key(row))
                RESULTS.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")
                print(json.dumps(row), flush=True)


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[k] for k in ("method", "keep", "least_squares", "steps", "seed", "damping"))


def _accuracy(task: Task, graph: Graph, statistics: Any, data: list[Example], row: dict[str, Any]) -> float:
    plan = Ranking(graph, statistics, row["seed"]).resolve(Plan.uniform(graph, row["keep"], row["method"]))
    new = refit(graph, plan, statistics, damping=row["damping"]) if row["least_squares"] else {}
    model = graph.with_tensors(new).build(plan)

    def settle() -> None:
        recalibrate(model, (e.inputs for e in data[:6]), task.forward)

    settle()
    if row["steps"]:
        finetune(model, task, data, FineTune(steps=row["steps"]), row["seed"])
        settle()
    return task.evaluate(model, "validation").value


if __name__ == "__main__":
    main()
