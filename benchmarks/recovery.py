"""Ways to recover, side by side on the built-in example: `python benchmarks/recovery.py [--keep 0.4] [--seeds 1]`.

Every width is cut to the same fraction by L1; all variants train 24 steps after (or between) the cuts and differ from
the first in what their name says. Accuracy is that of the search split (718 images); seconds are those of one
candidate. Writes benchmarks/results/recovery.json; rows that the file holds are not computed again.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoprune.devices.device import load_device
from autoprune.devices.profiler import open_profiler
from autoprune.graph.graph import trace
from autoprune.graph.plan import Plan
from autoprune.search.pipeline import Pipeline
from autoprune.search.run_folder import environment
from autoprune.search.space import load_space
from autoprune.tasks.digits import digits_task

RESULTS = Path(__file__).parent / "results" / "recovery.json"
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}),
    "no least squares": ({"least_squares": False}, {}),
    "patience 3": ({"patience": 3}, {}),
    "random weights": ({"start": "random", "least_squares": False}, {}),
    "iterative, 3 cycles": ({}, {"kind": "iterative", "cycles": 3}),
    "gradual, 3 cycles": ({}, {"kind": "gradual", "cycles": 3}),
    "soft, 3 cycles": ({}, {"kind": "gradual", "cycles": 3, "soft": True}),
    "24 steps with L1 on norm scales before": ({}, {"penalty_steps": 24, "l1_norms": 1e-3}),
    "24 steps with group lasso before": ({}, {"penalty_steps": 24, "group_lasso": 1e-5}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=float, default=0.4)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    task = digits_task()
    graph = trace(task.model, task.example_inputs)
    profiler = open_profiler(load_device("rpi4"))
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else []
    done = {(r["variant"], r["keep"], r["seed"]) for r in rows}
    for seed in range(options.seeds):
        for name, (recover, schedule) in VARIANTS.items():
            if (name, options.keep, seed) in done:
                continue
            base = load_space("default")
            pipeline = Pipeline(task, graph, replace(base, methods=("l1",), schedule=schedule,
                                                     recover={**base.recover, **recover}), seed)
            plan = Plan.uniform(graph, options.keep, "l1")
            latency = profiler.latency(pipeline.deployed(graph.cut(plan)))
            start = time.perf_counter()
            candidate, _, _ = pipeline.evaluate(0, name, plan, latency)
            assert candidate.score is not None
            rows.append({"variant": name, "keep": options.keep, "seed": seed, "accuracy": candidate.score.value,
                         "seconds": round(time.perf_counter() - start, 1)})
            RESULTS.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")
            print(json.dumps(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
