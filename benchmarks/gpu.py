"""On a machine with an NVIDIA GPU: latencies through CUDA, twice each, and training a candidate there and on its CPU.

    python benchmarks/gpu.py        # about 4 minutes; onnxruntime-gpu and transformers installed
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import onnxruntime
import torch
import transformers as hf

from autoprune.devices.device import load_device
from autoprune.devices.measure import Measurer
from autoprune.graph.graph import trace
from autoprune.graph.onnx import export_onnx
from autoprune.graph.plan import Plan
from autoprune.search.pipeline import Pipeline
from autoprune.search.space import load_space
from autoprune.tasks.task import Task

_VIT = hf.ViTConfig(hidden_size=384, num_hidden_layers=8, num_attention_heads=6, intermediate_size=1536)
NETS = {"ResNet-50": lambda: hf.ResNetForImageClassification(hf.ResNetConfig()),
        "MobileNetV2": lambda: hf.MobileNetV2ForImageClassification(hf.MobileNetV2Config()),
        "ViT of 384": lambda: hf.ViTForImageClassification(_VIT)}


def latencies() -> list[dict[str, Any]]:
    """Each net dense and at half its widths, batch 1, 224 pixels, fp32, measured twice."""
    out = []
    with Measurer(load_device("cuda"), 1) as measurer:
        for name, make in NETS.items():
            graph = trace(make().eval(), torch.randn(1, 3, 224, 224))
            for keep in (1.0, 0.5):
                model = graph.dense() if keep == 1 else graph.cut(Plan.uniform(graph, keep, "l2", 8))
                content = export_onnx(model, graph.example_inputs)
                first, again = (measurer.measure(content, min_runs=30, min_s=0.3, warmup_s=0.3, repeats=1,
                                                 profile_runs=5) for _ in range(2))
                out.append({"net": name, "keep": keep, "ms": first.latency.ms, "again": again.latency.ms,
                            "p90": first.stats.p90_ms, "nodes": len(first.nodes), "notes": first.latency.notes})
                print(out[-1], flush=True)
    return out


def candidate_s() -> dict[str, float]:
    """Seconds to prune, train for 24 steps of 32 images of 96 pixels, and score a ResNet-50 at half its widths; the
    second of two.
    """
    images, target = torch.randn(256, 3, 96, 96), torch.randint(0, 10, (256,))
    batches = [(images[i:i + 32], target[i:i + 32]) for i in range(0, 256, 32)]
    model, out, seen = hf.ResNetForImageClassification(hf.ResNetConfig(num_labels=10)), {}, torch.cuda.is_available
    for where in ("cuda", "cpu"):
        if where == "cpu":
            torch.cuda.is_available = lambda: False
        graph = trace(model, images[:1])
        pipeline = Pipeline(Task(model, train=batches, validation=batches[:2]), graph, load_space("default"))
        pipeline.prepare()
        for _ in range(2):
            start = time.perf_counter()
            pruned = pipeline.prune(Plan.uniform(graph, 0.5, "l2"))
            pipeline.recover(pruned, 24)
            pipeline.score(pruned, None, "validation")
            out[where] = round(time.perf_counter() - start, 2)
        torch.cuda.is_available = seen
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"))
    args = parser.parse_args()
    torch.manual_seed(0)
    found = {"machine": torch.cuda.get_device_name(),
             "versions": {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__},
             "candidate_s": candidate_s(), "latencies": latencies()}
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
