"""The pruning graph beside torch-pruning 1.6.1, in one run: `python benchmarks/graph.py [--out …/results/graph.json]`.

`pip install torch-pruning==1.6.1` first. Models: third-party code from `transformers`, random weights, and one
ResNet-50-size net. For each: prune 30 % of every width by L2 norm, run it, train one step.

- autoprune: `export` is torch.export, once per model; `typing` and `typing + slicing` are what a search pays.
- torch-pruning: `MagnitudePruner` as its README says; the classifier is ignored, and attention gets the hints that a
  user would know (`num_heads` for q, k and v, and the module's head size afterwards). Time is building its dependency
  graph and one `step`.

"works" means: the pruned model has fewer parameters, runs, and its parameters get gradients.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import resource
import signal
import statistics
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import nn

import autoprune
from autoprune.graph.onnx_template import CannotSlice, OnnxTemplate
from autoprune.graph.typing import Typing

IMAGE, SMALL = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 32, 32)
IDS = {"input_ids": torch.arange(16)[None] + 1}
VIT = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 192,
       "image_size": 32, "patch_size": 8}
BERT = {"vocab_size": 100, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 96, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

MODELS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "ResNet-50": (lambda: hf.ResNetForImageClassification(hf.ResNetConfig()), torch.randn(1, 3, 224, 224)),
    "ResNet basic": (lambda: hf.ResNetForImageClassification(hf.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], layer_type="basic")), IMAGE),
    "RegNet": (lambda: hf.RegNetForImageClassification(hf.RegNetConfig(
        embedding_size=32, hidden_sizes=[64, 128], depths=[1, 2], groups_width=16)), IMAGE),
    "MobileNetV1": (lambda: hf.MobileNetV1ForImageClassification(hf.MobileNetV1Config(image_size=64)), IMAGE),
    "MobileNetV2": (lambda: hf.MobileNetV2ForImageClassification(hf.MobileNetV2Config(image_size=64)), IMAGE),
    "EfficientNet": (lambda: hf.EfficientNetForImageClassification(hf.EfficientNetConfig(
        image_size=64, width_coefficient=0.5, depth_coefficient=0.5, hidden_dim=640)), IMAGE),
    "ConvNeXt": (lambda: hf.ConvNextForImageClassification(hf.ConvNextConfig(
        hidden_sizes=[16, 32, 64, 64], depths=[1, 1, 1, 1])), IMAGE),
    "ConvNeXt V2": (lambda: hf.ConvNextV2ForImageClassification(hf.ConvNextV2Config(
        hidden_sizes=[16, 32, 64, 64], depths=[1, 1, 1, 1])), IMAGE),
    "PoolFormer": (lambda: hf.PoolFormerForImageClassification(hf.PoolFormerConfig(
        hidden_sizes=[16, 32, 32, 64], depths=[1, 1, 1, 1])), IMAGE),
    "ViT": (lambda: hf.ViTForImageClassification(hf.ViTConfig(**VIT)), SMALL),
    "DeiT": (lambda: hf.DeiTForImageClassification(hf.DeiTConfig(**VIT)), SMALL),
    "Swin": (lambda: hf.SwinForImageClassification(hf.SwinConfig(
        image_size=32, patch_size=2, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4)), SMALL),
    "SegFormer": (lambda: hf.SegformerForImageClassification(hf.SegformerConfig(
        hidden_sizes=[16, 32, 32, 64], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4])), IMAGE),
    "MobileViT": (lambda: hf.MobileViTForImageClassification(hf.MobileViTConfig(
        image_size=64, hidden_sizes=[48, 64, 80], neck_hidden_sizes=[16, 16, 24, 32, 40, 48, 160])), IMAGE),
    "BERT": (lambda: hf.BertForSequenceClassification(hf.BertConfig(**BERT)), IDS),
    "RoBERTa": (lambda: hf.RobertaForSequenceClassification(hf.RobertaConfig(**BERT)), IDS),
    "DistilBERT": (lambda: hf.DistilBertForSequenceClassification(hf.DistilBertConfig(
        vocab_size=100, dim=48, n_layers=2, n_heads=4, hidden_dim=96)), IDS),
    "GPT-2": (lambda: hf.GPT2LMHeadModel(hf.GPT2Config(
        vocab_size=100, n_embd=48, n_layer=2, n_head=4, n_positions=32, use_cache=False, bos_token_id=1,
        eos_token_id=2)), IDS),
    "T5 encoder": (lambda: hf.T5EncoderModel(hf.T5Config(
        vocab_size=100, d_model=48, d_kv=12, d_ff=96, num_layers=2, num_heads=4)), IDS),
    "LLaMA": (lambda: hf.LlamaForCausalLM(hf.LlamaConfig(
        vocab_size=100, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=96, use_cache=False)), IDS),
}


QKV = ("query", "key", "value", "q_proj", "k_proj", "v_proj", "q", "k", "v", "q_lin", "k_lin", "v_lin")
HEADS = ("num_attention_heads", "num_heads", "n_heads")


LIMIT_S = 60


def call(model: nn.Module, inputs: Any) -> Any:
    return model(**inputs) if isinstance(inputs, dict) else model(inputs)


def works(model: nn.Module, inputs: Any, before: int) -> bool:
    out = call(model.train(), inputs)
    tensors = [t for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor) and t.is_floating_point()]
    sum(t.sum() for t in tensors).backward()
    some = any(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters())
    return some and sum(p.numel() for p in model.parameters()) < before


def ours(model: nn.Module, inputs: Any, with_onnx: bool) -> dict[str, Any]:
    before = sum(p.numel() for p in model.parameters())
    start = time.perf_counter()
    graph = autoprune.trace(model, inputs)
    out: dict[str, Any] = {"export_s": round(time.perf_counter() - start, 3)}
    plan = autoprune.Plan.uniform(graph, keep=0.7, method="l2")
    typing_s, slicing_s = [], []
    for _ in range(5):
        start = time.perf_counter()
        Typing(graph.captured.graph).run()
        typing_s.append(time.perf_counter() - start)
        start = time.perf_counter()
        small = graph.cut(plan)
        slicing_s.append(time.perf_counter() - start)
    out.update(typing_ms=round(1e3 * statistics.median(typing_s), 1),
               prune_ms=round(1e3 * (statistics.median(typing_s) + statistics.median(slicing_s)), 1),
               free=round(graph.free_params / graph.params, 3), works=works(small, inputs, before),
               user_class=isinstance(graph.prune(plan), type(model)))
    if with_onnx:
        try:
            template = OnnxTemplate(graph)
            start = time.perf_counter()
            template.slice(small.plan, small.tensors())
            out["onnx_ms"] = round(1e3 * (time.perf_counter() - start), 1)
        except CannotSlice as error:
            out["onnx_ms"] = f"re-exported: {error}"
    return out


def hints(model: nn.Module) -> tuple[dict[nn.Module, int], list[tuple[nn.Module, str]]]:
    """`num_heads` of q, k and v layers, and the attention modules with the name of their query."""
    heads: dict[nn.Module, int] = {}
    attention = []
    for module in model.modules():
        names = [n for n, m in module.named_children() if isinstance(m, nn.Linear) and n in QKV]
        count = next((getattr(module, a) for a in HEADS if hasattr(module, a)), None)
        if count is None and hasattr(module, "head_dim") and names:
            count = getattr(module, names[0]).out_features // module.head_dim
        if len(names) >= 3 and count:
            heads.update({getattr(module, n): int(count) for n in names})
            attention.append((module, names[0]))
    return heads, attention


def theirs(model: nn.Module, inputs: Any) -> dict[str, Any]:
    import torch_pruning as tp

    before = sum(p.numel() for p in model.parameters())
    heads, attention = hints(model)
    ignored = [m for n, m in model.named_modules() if isinstance(m, nn.Linear)
               and any(part in n for part in ("classifier", "lm_head"))]
    start = time.perf_counter()
    pruner = tp.pruner.MagnitudePruner(
        model.eval(), inputs, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=0.3,
        ignored_layers=ignored, num_heads=heads,
        output_transform=lambda out: sum(t.sum() for t in torch.utils._pytree.tree_leaves(out)
                                         if isinstance(t, torch.Tensor) and t.requires_grad))
    pruner.step()
    elapsed_s = time.perf_counter() - start
    for module, query in attention:
        width, count = getattr(module, query).out_features, pruner.num_heads.get(getattr(module, query), 1)
        for name, value in (("head_dim", width // count), ("attention_head_size", width // count),
                            ("all_head_size", width), ("inner_dim", width), ("embed_dim", width), ("dim", width)):
            if hasattr(module, name):
                setattr(module, name, value)
    return {"prune_ms": round(1e3 * elapsed_s, 1), "works": works(model, inputs, before)}


def attempt(function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LIMIT_S)
    try:
        return function()
    except Exception as error:  # a benchmark records what goes wrong, whatever it is
        first = str(error).splitlines()[0] if str(error) else ""
        return {"works": False, "error": f"{type(error).__name__}: {first}"[:160]}
    finally:
        signal.alarm(0)


def _too_long(*_: object) -> None:
    raise TimeoutError(f"not done after {LIMIT_S} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "graph.json")
    parser.add_argument("--only", nargs="*", choices=list(MODELS))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: dict[str, Any] = {}
    for name in args.only or MODELS:
        make, inputs = MODELS[name]
        torch.manual_seed(0)
        model = make().eval()
        peer = copy.deepcopy(model)
        rows[name] = {"params": sum(p.numel() for p in model.parameters()),
                      "autoprune": attempt(lambda m=model, x=inputs: ours(m, x, True)),  # type: ignore[misc]
                      "torch-pruning": attempt(lambda m=peer, x=inputs: theirs(m, x))}  # type: ignore[misc]
        print(name, json.dumps(rows[name]), flush=True)
    both = [r["torch-pruning"]["prune_ms"] / r["autoprune"]["prune_ms"] for r in rows.values()
            if r["autoprune"]["works"] and r["torch-pruning"]["works"]]
    summary = {"models": len(rows), "autoprune_works": sum(r["autoprune"]["works"] for r in rows.values()),
               "torch_pruning_works": sum(r["torch-pruning"]["works"] for r in rows.values()), "both": len(both),
               "median_times_faster": round(statistics.median(both), 1) if both else None,
               "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    machine = {"machine": platform.machine(), "cores": len(os.sched_getaffinity(0)),
               "python": platform.python_version(),
               **{p: metadata.version(p) for p in ("torch", "torch-pruning", "transformers", "onnxruntime")}}
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps({"machine": machine, "summary": summary, "models": rows}, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
