"""LeNet with 431 thousand parameters, pruned to at most 8 thousand by magnitude, in cycles, without loss of accuracy.

`python examples/lenet.py` (scikit-learn's digits at 28×28, offline), or the same recipe on MNIST:
`python examples/lenet.py --data 'torchvision:MNIST?size=28&channels=1&batch=64&normalize=none'`.

For each seed: train from random weights; then, in every cycle, mask the smallest weights of the whole net and train the
others on (Han et al. 2015, arXiv:1506.02626). A run chooses nothing by the test split, which it reads twice: for the
dense net and for the last. Also a model for the command line: `autoprune mask --model examples/lenet.py:lenet …`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from common import Row, batches, options, plain_batches, points, run_seeds, say, write
from torch import nn

import autoprune
from autoprune.front.masked import nonzeros
from autoprune.methods.masks.size import save_sparse
from autoprune.methods.schedules import Schedule
from autoprune.recover.finetune import FineTune, finetune
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


def run(spec: str, seed: int, steps: int, cycles: int) -> Row:
    task = task_of(spec, seed)
    dense = task.model
    finetune(dense, task, plain_batches(task, BATCHES), FineTune(steps=3 * steps, lr=1e-3, distill=0.0), seed)
    graph = autoprune.trace(dense, task.example_inputs)
    masked = graph.dense()
    biases = sum(p.numel() for p in masked.parameters() if p.dim() < 2)
    weights = graph.params - biases
    recipe = Recipe(sparsity=1 - (PARAMETERS - biases) / weights, method="magnitude", scope="global",
                    schedule=Schedule("iterative", cycles))
    masks = sparsify(masked, graph, task, batches(task, dense, BATCHES), recipe,
                     FineTune(steps=steps * cycles, lr=1e-3, distill=0.9), seed=seed)
    masks.make_permanent()
    with tempfile.TemporaryDirectory() as folder:
        size = save_sparse(masked.tensors(), Path(folder) / "weights.sparse.zip")
    layers = nonzeros(masked)
    return {"dense": task.evaluate(dense, "test").to_json(),
            "masked": task.evaluate(masked, "test").to_json(), "parameters": graph.params,
            "nonzeros": sum(n for n, _ in layers.values()), "dense_bytes": 4 * graph.params, "sparse_zip_bytes": size,
            "layers": {n: list(v) for n, v in layers.items()}}


def line(row: Row) -> str:
    return (f"{row['dense']['value']:.2%} → {row['masked']['value']:.2%}, {row['parameters']:,} → {row['nonzeros']:,} "
            f"parameters, {row['dense_bytes']:,} → {row['sparse_zip_bytes']:,} bytes")


def main() -> None:
    parser = options(__doc__, 250, "of each cycle; the dense net gets three times as many")
    parser.add_argument("--data", default=DIGITS)
    parser.add_argument("--cycles", type=int, default=12)
    args = parser.parse_args()
    rows, elapsed_s = run_seeds(args, lambda seed: run(args.data, seed, args.steps, args.cycles), line)
    change = points((row["dense"], row["masked"]) for row in rows)
    say("change of accuracy on the test split", change, len(rows))
    write(args.out, {"data": args.data, "steps": args.steps, "cycles": args.cycles, "elapsed_s": elapsed_s,
                     "mean_change_points": change[0], "stdev_change_points": change[1], "runs": rows})


if __name__ == "__main__":
    main()
