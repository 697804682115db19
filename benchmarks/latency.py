"""How far latencies can be trusted: `python benchmarks/latency.py [--out …/results/latency.json] [--ssh ADDRESS]`.

On this machine, onnxruntime's CPU provider, one thread, everything in one run:

- calibrate once (`autoprune devices calibrate cpu --threads 1`); how long it took;
- nets that the calibration never saw: third-party architectures from `transformers` with random weights, each dense and
  pruned to seven plans (uniform and random, widths aligned as a search proposes them). Each is measured in turns with
  the calibration's probe, and scaled by it, as a search does; error of the prediction, and Spearman's rank correlation
  among the variants of one model;
- the same after eight measured variants of a model, on its further variants;
- a plan priced from the table, against pricing its ONNX; the time of both and of the table;
- two measurements of the same model, minutes apart;
- with `--ssh`, what a measurement over ssh takes beyond its runs.

The Raspberry Pi figures (published rows, each network left out) are printed by `benchmarks/fit_profiles.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from scipy.stats import spearmanr
from torch import nn

import autoprune
from autoprune.devices.calibration.calibrate import calibrate, time_net
from autoprune.devices.calibration.profiler import CalibratedProfiler
from autoprune.devices.device import load_device
from autoprune.devices.measure import Measurer
from autoprune.devices.prices import nodes_for, predict
from autoprune.devices.profiler import open_profiler
from autoprune.graph.onnx_maker import OnnxMaker
from autoprune.graph.plan import Plan, aligned
from autoprune.search.plan_latency import PlanLatency
from autoprune.search.variants import variety

IDS = torch.arange(96)[None] % 1000 + 5
MODELS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "ResNet-18": (lambda: hf.ResNetForImageClassification(hf.ResNetConfig(
        hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic")), 160),
    "ResNet-50": (lambda: hf.ResNetForImageClassification(hf.ResNetConfig()), 128),
    "MobileNetV2": (lambda: hf.MobileNetV2ForImageClassification(hf.MobileNetV2Config()), 192),
    "RegNet": (lambda: hf.RegNetForImageClassification(hf.RegNetConfig(
        embedding_size=32, hidden_sizes=[64, 128, 256, 512], depths=[1, 3, 5, 2], groups_width=16)), 192),
    "ConvNeXt": (lambda: hf.ConvNextForImageClassification(hf.ConvNextConfig(
        hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 4, 2])), 128),
    "ViT": (lambda: hf.ViTForImageClassification(hf.ViTConfig(
        hidden_size=192, num_hidden_layers=6, num_attention_heads=3, intermediate_size=768)), 224),
    "Swin": (lambda: hf.SwinForImageClassification(hf.SwinConfig(
        embed_dim=64, depths=[2, 2, 2, 2], num_heads=[2, 4, 8, 16], image_size=224)), 224),
    "SegFormer": (lambda: hf.SegformerForSemanticSegmentation(hf.SegformerConfig()), 128),
    "EfficientNet": (lambda: hf.EfficientNetForImageClassification(hf.EfficientNetConfig(
        width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280, image_size=160)), 160),
    "MobileViT": (lambda: hf.MobileViTForImageClassification(hf.MobileViTConfig()), 160),
    "BERT": (lambda: hf.BertForSequenceClassification(hf.BertConfig(
        hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024)), None),
    "GPT-2": (lambda: hf.GPT2ForSequenceClassification(hf.GPT2Config(
        n_embd=256, n_layer=4, n_head=4, pad_token_id=0, use_cache=False)), None)}
TAUGHT = ("ResNet-50", "MobileNetV2", "ViT", "GPT-2")


class Model:
    """One architecture: its graph and the ONNX of plans."""

    def __init__(self, name: str):
        make, side = MODELS[name]
        torch.manual_seed(0)
        example = {"input_ids": IDS} if side is None else torch.randn(1, 3, side, side)
        self.name, self.graph = name, autoprune.trace(make().eval(), example)
        self.onnx = OnnxMaker(self.graph).of


def figures(errors: list[float]) -> dict[str, Any]:
    """Of relative errors."""
    size = np.abs(errors)
    return {"nets": len(size), "median": round(float(np.median(size)), 4),
            "p90": round(float(np.quantile(size, .9)), 4), "within_10_percent": round(float(np.mean(size <= 0.1)), 4)}


def unseen(device: Any, measurer: Measurer, models: list[Model], variants: int) -> dict[str, Any]:
    """Errors on nets that were never timed."""
    rows, ranks = [], {}
    for model in models:
        pairs = []
        for number, plan in enumerate(variety(model.graph, variants, device.alignment())):
            content = model.onnx(plan)
            timed = time_net(measurer, content, True, runs=20, seconds=0.4, warmup_runs=8)
            measured = timed.ms * device.calibration.probe_ms / timed.probe_ms
            found = predict(nodes_for(content, device), device)
            pairs.append((found.ms, measured))
            rows.append({"model": model.name, "plan": number, "measured_ms": round(measured, 4),
                         "predicted_ms": round(found.ms, 4), "error": round(found.ms / measured - 1, 4),
                         "inside": found.lo_ms <= measured <= found.hi_ms, "spread": round(timed.spread, 3)})
        ranks[model.name] = round(float(spearmanr(*zip(*pairs, strict=True))[0]), 4)
        print(f"  {model.name:13s} rank {ranks[model.name]:.3f}  "
              + " ".join(f"{r['error']:+.3f}" for r in rows[-variants:]), flush=True)
    errors = [r["error"] for r in rows]
    slow = [r["error"] for r in rows if r["measured_ms"] >= 2]
    return {"all": figures(errors), "from_2_ms": figures(slow), "spearman": ranks,
            "inside_interval": round(statistics.mean(r["inside"] for r in rows), 4), "rows": rows}


def taught(device: Any, measurer: Measurer, models: list[Model]) -> dict[str, Any]:
    """Errors on further variants of a model once eight of it were measured."""
    out, everything = {}, []
    for model in (m for m in models if m.name in TAUGHT):
        variants = variety(model.graph, 16, device.alignment())
        random.Random(1).shuffle(variants)
        errors = []
        with CalibratedProfiler(device) as profiler:
            for plan in variants[:8]:
                profiler.learn(model.onnx(plan))
            for plan in variants[8:]:
                content = model.onnx(plan)
                timed = time_net(measurer, content, True, runs=20, seconds=0.4, warmup_runs=8)
                measured = timed.ms * device.calibration.probe_ms / timed.probe_ms
                errors.append(profiler.latency(content).ms / measured - 1)
        out[model.name] = figures(errors)
        everything += errors
        print(f"  {model.name:13s} after 8: " + " ".join(f"{e:+.3f}" for e in errors), flush=True)
    return {"all": figures(everything), **out}


def tables(device: Any, models: list[Model]) -> list[dict[str, Any]]:
    """Time and error of pricing plans without their models."""
    rows = []
    for model in models:
        start = time.perf_counter()
        table = PlanLatency(model.graph, device)
        made_s = time.perf_counter() - start
        align = device.alignment()
        tried = variety(model.graph, 45, align)[5:]
        widths = {name: sorted({aligned(share / 8 * g.size, g.size, g.step(align)) for share in range(2, 9)})
                  for name, g in model.graph.groups.items()}
        start = time.perf_counter()
        prices = table.prepare(widths)
        table_s = time.perf_counter() - start
        start = time.perf_counter()
        for plan in tried:
            table.latency(plan)
        first_ms = (time.perf_counter() - start) / len(tried) * 1e3
        start = time.perf_counter()
        for plan in tried:
            table.latency(plan)
        again_ms = (time.perf_counter() - start) / len(tried) * 1e3
        errors = [table.latency(p).ms / predict(nodes_for(model.onnx(p), device), device).ms - 1 for p in tried[:4]]
        rows.append({"model": model.name, "device": device.name, "groups": len(model.graph.groups),
                     "followed": not table.exact, "why": table.why, "made_s": round(made_s, 2),
                     "table_s": round(table_s, 2), "prices": prices, "first_ms": round(first_ms, 3),
                     "again_ms": round(again_ms, 3), "worst_error": round(max(map(abs, errors)), 4)})
        print("  ", rows[-1], flush=True)
    return rows


def repeated(models: list[Model]) -> dict[str, Any]:
    """Two measurements of the same model, as a search or an oracle makes them, with all others in between."""
    nets = [(f"{m.name} {k}", m.onnx(p)) for m in models for k, p in enumerate(variety(m.graph, 3, 16))]
    found: list[dict[str, Any]] = [{} for _ in nets]
    with open_profiler("cpu", threads=1) as profiler:
        for turn in ("first", "second"):
            for row, (name, content) in zip(found, nets, strict=True):
                latency = profiler.latency(content)
                row |= {"net": name, f"{turn}_ms": round(latency.ms, 4), f"{turn}_flags": list(latency.notes)}
    within = [abs(r["second_ms"] / r["first_ms"] - 1) <= .03 for r in found]
    calm = [w for w, r in zip(within, found, strict=True) if not r["first_flags"] and not r["second_flags"]]
    return {"pairs": len(within), "within_3_percent": round(statistics.mean(within), 4), "unflagged": len(calm),
            "unflagged_within_3_percent": round(statistics.mean(calm), 4) if calm else None, "rows": found}


def over_ssh(address: str, content: bytes) -> dict[str, Any]:
    """What a measurement over ssh takes beyond its runs, once connected."""
    beyond = []
    with Measurer(load_device(address), 1) as measurer:
        start = time.perf_counter()
        measurer.measure(content, min_runs=1, min_s=0, warmup_runs=0, warmup_s=0, repeats=0)
        connected_s = time.perf_counter() - start
        for _ in range(10):
            start = time.perf_counter()
            found = measurer.measure(content, min_runs=20, min_s=0, warmup_runs=0, warmup_s=0, repeats=0)
            beyond.append(time.perf_counter() - start - found.stats.n * found.stats.p50_ms / 1e3)
    return {"first_s": round(connected_s, 3), "beyond_runs_s": round(statistics.median(beyond), 4)}


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "latency.json")
    parser.add_argument("--minutes", type=float, default=4.0, help="of timing nets")
    parser.add_argument("--variants", type=int, default=8, help="of each model")
    parser.add_argument("--plans", type=Path, help="a file calibrated by this benchmark: renew its plans' rows only")
    parser.add_argument("--ssh", help="address to measure the overhead on")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.plans is not None:
        out = json.loads(args.out.read_text(encoding="utf-8"))
        out["plans"] = tables(load_device(str(args.plans)), [Model(name) for name in MODELS])
        args.out.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
        return
    folder = tempfile.mkdtemp(prefix="autoprune-benchmark-")
    start = time.perf_counter()
    device = calibrate("cpu", "here", folder, threads=1, minutes=args.minutes)
    out: dict[str, Any] = {
        "machine": {"processor": platform.processor() or platform.machine(), "system": platform.platform(),
                    "cores": len(os.sched_getaffinity(0))},
        "versions": {p: metadata.version(p) for p in ("autoprune", "torch", "onnxruntime", "transformers", "numpy")},
        "calibration": {"seconds": round(time.perf_counter() - start, 1), "nets": device.calibration.nets,
                        "nodes": device.calibration.nodes, "held_out": {k: getattr(device.error, k) for k in (
                            "p50", "p90", "rows", "lo_ratio", "hi_ratio")}}}
    print(out["calibration"], flush=True)
    models = [Model(name) for name in MODELS]
    with Measurer(load_device("cpu"), 1) as measurer:
        out["unseen"] = unseen(device, measurer, models, args.variants)
        out["after_8_measured"] = taught(device, measurer, models)
    out["repeated"] = repeated(models)
    out["plans"] = tables(device, models)
    out["plans_rpi4"] = tables(load_device("rpi4"), models)
    if args.ssh:
        out["ssh"] = over_ssh(args.ssh, models[2].onnx(Plan()))
    args.out.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
    print({k: v for k, v in out["unseen"].items() if k != "rows"}, out["after_8_measured"]["all"],
          {k: v for k, v in out["repeated"].items() if k != "rows"}, out.get("ssh"), sep="\n")


if __name__ == "__main__":
    main()
