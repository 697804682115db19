"""An LSTM whose hidden units are halved: `python examples/lstm.py` (offline).

It tells which package of the standard library 32 words of source come from. For each seed: train from random weights;
cut half of the hidden units by the pruning graph (all four gates, the recurrence, and what reads the units), those of
the smallest L2 norm; refit the layer that reads them and train what is left with the dense net as its teacher. A run
chooses nothing by the test split, which is read twice: for the dense net and for the pruned one.
"""

from __future__ import annotations

import torch
from common import (
    PACKAGES,
    WORDS,
    Row,
    Splits,
    batches,
    options,
    package_task,
    plain_batches,
    recovered,
    sizes,
    tell_packages,
)
from torch import Tensor, nn

import autoprune
from autoprune.recover.finetune import FineTune, finetune

HIDDEN, KEPT = 256, 0.5


class Lstm(nn.Module):
    """Word numbers `[N, T]` → logits `[N, packages]`: embedding, one LSTM, the largest value of each unit over time."""

    def __init__(self, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 64)
        self.lstm = nn.LSTM(64, hidden, batch_first=True)
        self.head = nn.Linear(hidden, len(PACKAGES))

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.lstm(self.embed(ids))[0].amax(1))
        return logits


def plan_of(graph: autoprune.Graph) -> autoprune.Plan:
    """Half of the hidden units; the embedding stays."""
    units = [name for name, group in graph.groups.items() if ("lstm.weight_hh_l0", 1) in group.tensors]
    return autoprune.Plan.of(graph, dict.fromkeys(units, KEPT), "l2")


def run(rows: Splits, seed: int, steps: int) -> Row:
    torch.manual_seed(seed)
    task = package_task(Lstm(), rows)
    net = task.model
    finetune(net, task, plain_batches(task, 2 * steps), FineTune(steps=2 * steps, lr=1e-2, distill=0.0), seed)
    graph = autoprune.trace(net, task.example_inputs)
    plan = plan_of(graph)
    model = recovered(task, graph, plan, batches(task, net, steps),
                      FineTune(steps=steps, lr=1e-2, temperature=2.0), seed)
    row: Row = {"kept": {name: [cut.keep, graph.groups[name].size] for name, cut in plan.cuts.items()}}
    for name, found in (("dense", graph.dense()), ("pruned", model)):
        lstm = sum(p.numel() for tensor, p in found.tensors().items() if tensor.startswith("lstm."))
        row[name] = {"accuracy": task.evaluate(found, "test").to_json(), **sizes(found, task.example_inputs),
                     "params_lstm": lstm}
    return row


def line(row: Row) -> str:
    dense, pruned, units = row["dense"], row["pruned"], next(iter(row["kept"].values()))
    return (f"{dense['accuracy']['value']:.2%} → {pruned['accuracy']['value']:.2%}; units {units[1]} → {units[0]}, "
            f"parameters of the LSTM {dense['params_lstm']:,} → {pruned['params_lstm']:,}, of the net "
            f"{dense['params']:,} → {pruned['params']:,}, multiply-adds {dense['macs']:,} → {pruned['macs']:,}")


if __name__ == "__main__":
    tell_packages(options(__doc__, 300, "of recovery; the dense net gets twice as many"), run, line)
