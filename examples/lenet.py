"""LeNet with 431 thousand parameters, pruned to at most 8 thousand by magnitude, in cycles, without loss of accuracy.

`python examples/lenet.py` (scikit-learn's digits at 28×28, offline), or the same recipe on MNIST:
`python examples/lenet.py --data 'torchvision:MNIST?size=28&channels=1&batch=64&normalize=none'`.

For each seed: train from random weights; then, in every cycle, mask the smallest weights of the whole net and train the
others on (Han et al. 2015, arXiv:1506.02626). Nothing is chosen by the test split, which is read twice: for the dense
net and for the last. Also a model for the command line: `autoprune mask --model examples/lenet.py:lenet …`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

import autoprune
from autoprune.front.masked import nonzeros
from autoprune.methods.masks.size import save_sparse
from autoprune.methods.schedules import Schedule
from autoprune.recover.finetune import Example, FineTune, examples, finetune
from autoprune.recover.sparsify import Recipe, sparsify
from autoprune.tasks.data import load_data

DIGITS = "sklearn:digits?size=28&batch=64"
PARAMETERS = 8_000
BATCHES = 512


def lenet() -> nn.Module:
    """LeNet-5 as in Caffe and in Han et al.: 431,080 parameters, images `[N, 1, 28, 28]`."""
    return nn.Sequential(nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten(),
                         nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10))


def task_of(spec: str, seed: int) -> autoprune.Task:
    torch.manual_seed(seed)
    data = load_data(spec)
    return autoprune.Task(lenet(), train=data.train, validation=data.validation, test=data.test, name="LeNet")


def batches(task: autoprune.Task, teacher: nn.Module) -> list[Example]:
    """Batches of several passes over the training data, with the teacher's outputs."""
    out: list[Example] = []
    while len(out) < BATCHES:
        out += examples(task, teacher, task.split("train"), BATCHES - len(out))
    return out


def run(spec: str, seed: int, steps: int, cycles: int) -> dict[str, Any]:
    task = task_of(spec, seed)
    dense = task.model
    finetune(dense, task, batches(task, dense), FineTune(steps=3 * steps, lr=1e-3, distill=0.0), seed)
    graph = autoprune.trace(dense, task.example_inputs)
    masked = graph.dense()
    biases = sum(p.numel() for p in masked.parameters() if p.dim() < 2)
    weights = graph.params - biases
    recipe = Recipe(sparsity=1 - (PARAMETERS - biases) / weights, method="magnitude", scope="global",
                    schedule=Schedule("iterative", cycles))
    masks = sparsify(masked, graph, task, batches(task, dense), recipe,
                     FineTune(steps=steps * cycles, lr=1e-3, distill=0.5), seed=seed)
    masks.make_permanent()
    with tempfile.TemporaryDirectory() as folder:
        size = save_sparse(masked.tensors(), Path(folder) / "weights.sparse.zip")
    layers = nonzeros(masked)
    return {"seed": seed, "dense": task.evaluate(dense, "test").to_json(),
            "masked": task.evaluate(masked, "test").to_json(), "parameters": graph.params,
            "nonzeros": sum(n for n, _ in layers.values()), "dense_bytes": 4 * graph.params, "sparse_zip_bytes": size,
            "layers": {n: list(v) for n, v in layers.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=DIGITS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=250, help="of each cycle; the dense net gets three times as many")
    parser.add_argument("--cycles", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write the results as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    started, rows = time.perf_counter(), []
    for seed in range(args.seeds):
        rows.append(run(args.data, seed, args.steps, args.cycles))
        row = rows[-1]
        print(f"seed {seed}: {row['dense']['value']:.2%} → {row['masked']['value']:.2%}, {row['parameters']:,} → "
              f"{row['nonzeros']:,} parameters, {row['dense_bytes']:,} → {row['sparse_zip_bytes']:,} bytes", flush=True)
    change = [100 * (r["masked"]["value"] - r["dense"]["value"]) for r in rows]
    spread = statistics.stdev(change) if len(change) > 1 else 0.0
    print(f"change of accuracy on the test split: {statistics.mean(change):+.2f} points, standard deviation over "
          f"{len(rows)} seeds {spread:.2f}")
    if args.out is not None:
        machine = {"processor": platform.processor() or platform.machine(), "cores": len(os.sched_getaffinity(0)),
                   "python": platform.python_version(),
                   **{p: metadata.version(p) for p in ("torch", "scikit-learn", "autoprune")}}
        args.out.write_text(json.dumps({
            "machine": machine, "data": args.data, "steps": args.steps, "cycles": args.cycles,
            "elapsed_s": round(time.perf_counter() - started, 1), "mean_change_points": statistics.mean(change),
            "stdev_change_points": spread, "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
