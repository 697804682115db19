"""Blocks skipped for single inputs against blocks dropped for all: `python benchmarks/dynamic.py [--target 0.4]`.

A `DigitsNet` of 13 blocks (narrower than the built-in example, so that it trains here), trained on the example's
distorted digits. From it, with the same steps, data, distillation and share of multiply-adds: one with gates, and one
without the blocks whose loss alone raises the training loss least. Accuracy on the test split; latency of onnxruntime
on one thread of this machine, each net in turns with the dense one.
"""

from __future__ import annotations

import argparse
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from autoprune.devices.device import load_device
from autoprune.devices.measure import Measurer
from autoprune.dynamic.export import export
from autoprune.dynamic.paths import decisions, measure_paths
from autoprune.dynamic.skippable import skippable
from autoprune.dynamic.train import Cost, train
from autoprune.graph.graph import Graph, trace
from autoprune.graph.macs import count
from autoprune.graph.onnx import export_onnx
from autoprune.graph.plan import Plan
from autoprune.recover.finetune import Example, FineTune, examples, finetune
from autoprune.tasks.digits import DigitsNet, example_tensors
from autoprune.tasks.task import Task

RESULTS = Path(__file__).parent / "results" / "dynamic.json"
BATCH, BATCHES = 32, 134


def cpu_name() -> str:
    """What /proc says where it is there."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def make_task(steps: int) -> Task:
    torch.manual_seed(0)
    splits = {name: list(zip(x.split(BATCH), y.split(BATCH), strict=True))
              for name, (x, y) in example_tensors().items()}
    task = Task(DigitsNet((16, 32, 64), (5, 5, 3)), train=splits["train"], validation=splits["validation"],
                test=splits["test"], name="digits")
    data = [Example(x, y, None) for x, y in splits["train"]]
    finetune(task.model, task, data, FineTune(steps=steps, lr=3e-3, distill=0.0, precision="fp32"), 0)
    return task


def least_missed(graph: Graph, task: Task, data: list[Example], target: float) -> tuple[str, ...]:
    """Branches to drop: those without which alone the training loss is lowest, as many as come nearest to the share."""
    whole = count(graph.dense(), graph.example_inputs).macs

    def loss(name: str) -> float:
        model = graph.build(Plan(dropped=(name,)))
        with torch.no_grad():
            return sum(float(task.loss(task.forward(model, e.inputs), e.target)) for e in data[:8])

    ranked = sorted(graph.branches, key=loss)
    choices = [tuple(ranked[:n]) for n in range(len(ranked) + 1)]
    shares = [count(graph.build(Plan(dropped=c)), graph.example_inputs).macs / whole for c in choices]
    return min(zip(choices, shares, strict=True), key=lambda c: abs(c[1] - target))[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--target", type=float, default=0.4, help="share of the dense model's multiply-adds")
    parser.add_argument("--train-steps", type=int, default=200)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    task = make_task(options.train_steps)
    print(task.evaluate(task.model, "test"), flush=True)
    graph = trace(task.model, task.example_inputs)
    data = examples(task, task.model, task.split("train"), BATCHES)
    settings = FineTune(steps=options.steps, lr=1e-3, precision="fp32")
    gated = skippable(graph)
    train(gated, task, data, Cost(options.target), settings)
    static = graph.build(Plan(dropped=least_missed(graph, task, data, options.target)))
    finetune(static, task, data, settings)
    inputs = torch.cat([x for x, _ in task.split("test")])
    opened = decisions(gated, [inputs])
    whole = count(task.model, task.example_inputs).macs
    out: dict[str, Any] = {
        "environment": {"cpu": cpu_name(), "torch": torch.__version__,
                        "onnxruntime": metadata.version("onnxruntime")},
        "macs": whole, "target": options.target, "steps": options.steps,
        "accuracy": {n: task.evaluate(m, "test").to_json() for n, m in
                     (("dense", task.model), ("gated", gated), ("static", static))},
        "share": {"gated": float(gated.share(opened.float()).mean()),
                  "static": count(static, task.example_inputs).macs / whole},
        "opened": dict(zip(gated.branches, opened.float().mean(0).tolist(), strict=True)),
        "dropped": static.plan.dropped}
    print(json.dumps(out, indent=1), flush=True)
    dense_onnx, static_onnx = (export_onnx(m, task.example_inputs, dynamic_batch=False)
                               for m in (graph.dense(), static))
    with Measurer(load_device("cpu"), threads=1, timeout_s=1200) as measurer:
        paths = measure_paths(measurer, export(gated), dense_onnx, inputs, opened)
        fixed = measurer.measure(static_onnx, reference=dense_onnx, min_runs=100)
    assert fixed.reference is not None
    out["latency"] = {"gated": paths.to_json(), "static": {"ms": fixed.latency.ms, "reference_ms": fixed.reference.ms,
                                                           "ratio": fixed.latency.ms / fixed.reference.ms}}
    options.out.write_text(json.dumps(out, indent=1) + "\n")
    print(json.dumps(out["latency"], indent=1))


if __name__ == "__main__":
    main()
