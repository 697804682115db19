"""What it costs to score all criteria: `python benchmarks/criteria_cost.py [--rounds 3] [--out …/results/x.json]`.

A ResNet of the size of ResNet-18 (11.2 M parameters), 512 samples of 3 × 64 × 64 in batches of 64, one thread. In
turns: one training epoch (SGD with momentum), one pass that gathers everything that any criterion needs, and the
scores of all criteria for all groups. Times are processor seconds of the process, so that other work on the machine
counts for less; ratios are those of the same round, and the median is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Collection
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers as hf
from torch import Tensor, nn

from autoprune.graph.graph import Graph, trace
from autoprune.methods.choose import Ranking
from autoprune.methods.collect import collect
from autoprune.methods.criterion import Statistics
from autoprune.methods.registry import methods

SAMPLES, SIZE, BATCH = 512, 64, 64
PARTS: dict[str, frozenset[str]] = {
    "gradients": frozenset({"gradients"}),
    "activations": frozenset({"activations"}),
    "gradients, activations, fisher": frozenset({"gradients", "activations", "fisher"}),
    "gram": frozenset({"gram"}),
    "hessian": frozenset({"hessian"}),
    "all that criteria need": frozenset(need for m in methods() for need in m.needs)}


class ResNet18(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = hf.ResNetForImageClassification(hf.ResNetConfig(
            hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", num_labels=10))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x).logits
        return logits


def loss(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs), target)


def epoch(model: nn.Module, data: list[tuple[Tensor, Tensor]]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    model.train()
    for inputs, target in data:
        optimizer.zero_grad()
        loss(model, inputs, target).backward()
        optimizer.step()


def gather(graph: Graph, data: list[tuple[Tensor, Tensor]], needs: Collection[str]) -> Statistics:
    return collect(graph, data, loss, len(data), needs=needs)


def score(graph: Graph, gathered: Statistics) -> int:
    """Number of (group, criterion) pairs that were scored."""
    ranking = Ranking(graph, gathered)
    pairs = [(g, m.name) for g in graph.groups for m in methods() if ranking.applies(g, m.name)]
    for group, method in pairs:
        ranking.order(group, method)
    return len(pairs)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def run(rounds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = ResNet18()
    data = [(torch.randn(BATCH, 3, SIZE, SIZE), torch.randint(0, 10, (BATCH,))) for _ in range(SAMPLES // BATCH)]
    epoch(model, data[:1])
    trace_s, graph = timed(lambda: trace(model, data[0][0][:1]))
    gather(graph, data[:1], PARTS["all that criteria need"])
    seconds: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {}
    pairs = 0
    for _ in range(rounds):
        epoch_s, _ = timed(lambda: epoch(model, data))
        seconds.setdefault("training epoch", []).append(epoch_s)
        for name, needs in PARTS.items():
            taken_s, found = timed(lambda needs=needs: gather(graph, data, needs))
            if name == "all that criteria need":
                score_s, pairs = timed(lambda found=found: score(graph, found))
                seconds.setdefault("scores alone", []).append(score_s)
                taken_s, name = taken_s + score_s, "all criteria, scores included"
            seconds.setdefault(name, []).append(taken_s)
            ratios.setdefault(name, []).append(taken_s / epoch_s)
            print(f"{name}: {taken_s:.1f} s, {taken_s / epoch_s:.2f} epochs", flush=True)
    return {"parameters": sum(p.numel() for p in model.parameters()), "samples": SAMPLES, "size": SIZE, "batch": BATCH,
            "groups": len(graph.groups), "criteria": len(methods()), "pairs": pairs, "trace_s": round(trace_s, 2),
            "seconds": {k: [round(v, 2) for v in values] for k, values in seconds.items()},
            "ratio_to_epoch": {k: {"median": round(statistics.median(v), 2), "all": [round(r, 2) for r in v]}
                               for k, v in ratios.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "criteria_cost.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    out = {"machine": {"processor": platform.processor() or platform.machine(), "system": platform.platform(),
                       "cores": len(os.sched_getaffinity(0))},
           "versions": {p: metadata.version(p) for p in ("autoprune", "torch", "transformers", "numpy")},
           **run(args.rounds)}
    args.out.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(out["ratio_to_epoch"], indent=1))


if __name__ == "__main__":
    main()
