"""An LSTM whose hidden units are halved: `python examples/lstm.py` (offline).

It tells which package of the standard library 32 words of source come from. For each seed: train from random weights;
cut half of the hidden units by the pruning graph (all four gates, the recurrence, and what reads the units), those of
the smallest L2 norm; refit the layer that reads them and train what is left with the dense net as its teacher. A run
chooses nothing by the test split, which is read twice: for the dense net and for the pruned one.
"""

from __future__ import annotations

import torch
from common import PACKAGES, WORDS, Row, Splits, halved, options, package_task, sizes, tell_packages
from torch import Tensor, nn

import autoprune
from autoprune.recover.finetune import FineTune

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


def net_sizes(model: autoprune.PrunedModule, inputs: Tensor) -> dict[str, int]:
    """macs, params: of the net; params_lstm: of the LSTM."""
    lstm = sum(p.numel() for name, p in model.tensors().items() if name.startswith("lstm."))
    return {**sizes(model, inputs), "params_lstm": lstm}


def run(rows: Splits, seed: int, steps: int) -> Row:
    torch.manual_seed(seed)
    return halved(package_task(Lstm(), rows), plan_of, FineTune(steps=2 * steps, lr=1e-2, distill=0.0),
                  FineTune(steps=steps, lr=1e-2, temperature=2.0), net_sizes, seed)


def line(row: Row) -> str:
    dense, pruned, units = row["dense"], row["pruned"], next(iter(row["kept"].values()))
    return (f"{dense['accuracy']['value']:.2%} → {pruned['accuracy']['value']:.2%}; units {units[1]} → {units[0]}, "
            f"parameters of the LSTM {dense['params_lstm']:,} → {pruned['params_lstm']:,}, of the net "
            f"{dense['params']:,} → {pruned['params']:,}, multiply-adds {dense['macs']:,} → {pruned['macs']:,}")


if __name__ == "__main__":
    tell_packages(options(__doc__, 300, "of recovery; the dense net gets twice as many"), run, line)
