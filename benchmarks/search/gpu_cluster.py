"""Candidates on a GPU, alone and as Ray's tasks: `python benchmarks/search/gpu_cluster.py` (some minutes).

One search of a ResNet of the size of ResNet-18 (2,048 generated images of 96 pixels, predicted latencies) for each way
of evaluating candidates: this process on the GPU, Ray's tasks that take a share of the GPU each, or stay on the CPU.
Wall clock per candidate from the first to the last one that ended → benchmarks/results/gpu_cluster.json. Needs
`autoprune[ray]`, transformers and an NVIDIA GPU; without one the ways that need it are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers as hf

import autoprune
from autoprune.search.run_folder import environment
from autoprune.tasks.task import Task

RESULTS = Path(__file__).parents[1] / "results" / "gpu_cluster.json"
WAYS: dict[str, dict[str, Any]] = {
    "this process, GPU": {"workers": 0},
    "Ray, a GPU each": {"cluster": "local", "candidate_gpus": "1"},
    "Ray, a quarter each": {"cluster": "local", "candidate_gpus": "0.25"},
    "Ray, an eighth each": {"cluster": "local", "candidate_gpus": "0.125"},
    "Ray, CPU": {"cluster": "local", "workers": 8}}


def images_task(count: int) -> Task:
    """Ten classes of smooth patterns under noise, in batches of 32."""
    torch.manual_seed(0)
    target = torch.randint(0, 10, (count,))
    patterns = torch.nn.functional.interpolate(torch.randn(10, 3, 6, 6), size=96, mode="bilinear")
    images = patterns[target] + torch.randn(count, 3, 96, 96)
    batches = [(images[i:i + 32].clone(), target[i:i + 32].clone()) for i in range(0, count, 32)]  # pickled one by one
    config = hf.ResNetConfig(embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2],
                             layer_type="basic", num_labels=10)
    third = len(batches) // 4
    return Task(hf.ResNetForImageClassification(config), train=batches[2 * third:], validation=batches[:third],
                test=batches[third:2 * third], name="patterns")


def searched(task: Task, trials: int, **way: Any) -> dict[str, Any]:
    """Seconds of the whole search, and per candidate between the first and the last that ended."""
    ended: list[float] = []

    def note(progress: Any) -> None:
        while len(ended) < progress.done:
            ended.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        front = autoprune.search(task, "rpi4", "0.5x", run=str(Path(folder) / "run"), trials=trials, on_progress=note,
                                 **way)
        seconds = time.perf_counter() - start
    states = [c.status for c in front.candidates]
    return {"seconds": round(seconds, 1), "per_candidate_s": round((ended[-1] - ended[0]) / (len(ended) - 1), 3),
            "ok": states.count("ok"), "candidates": len(states), "met": front.met}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    has_gpu = torch.cuda.is_available()
    results: dict[str, Any] = {"environment": environment(), "cores": os.cpu_count(),
                               "gpu": torch.cuda.get_device_name() if has_gpu else None, "ways": {}}
    for name, way in WAYS.items():
        if "CPU" not in name and not has_gpu:
            continue
        results["ways"][name] = searched(images_task(args.images), args.trials, **way)
        print(name, results["ways"][name], file=sys.stderr, flush=True)
        args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
