"""The pruning graph beside torch-pruning 1.6.1, in one run: `python benchmarks/graph.py [--out …/results/graph.json]`.

`pip install torch-pruning==1.6.1` first. Models: third-party code from `transformers`, random weights; small ones of
many families, and ten of the size that is published under the name. For each: prune 30 % of every width by L2 norm,
run it, train one step. Every time is a median of five.

- autoprune: `export_s` is torch.export, once per model; `once_ms` is typing and generating the code that candidates
  share, also once; `first_ms` is typing, scoring all groups, choosing and slicing; `candidate_ms` is what each further
  candidate of a search costs (choosing and slicing); `onnx_ms` is that candidate's ONNX.
- torch-pruning: `MagnitudePruner` as its README says; the classifier is ignored, and attention gets the hints that a
  user would know (`num_heads` for q, k and v, and the module's head size afterwards). `prune_ms` is building its
  dependency graph and one `step`. It prunes in place, so a search needs all of it for every candidate (and a copy of
  the model, which is not counted).

"works" means: the pruned model has fewer parameters, runs, and its parameters get gradients. Memory is measured in a
process of its own: the growth of the peak while pruning, over the size of the model.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
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
from autoprune.graph.program import Program
from autoprune.graph.typing import Typing
from autoprune.methods.choose import Ranking

IMAGE, SMALL = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 32, 32)
IDS = {"input_ids": torch.arange(16)[None] + 1}
VIT = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 192,
       "image_size": 32, "patch_size": 8}
BERT = {"vocab_size": 100, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 96, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

SMALL_MODELS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
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
IMAGENET = torch.randn(1, 3, 224, 224)
FULL: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "ResNet-50": (lambda: hf.ResNetForImageClassification(hf.ResNetConfig()), IMAGENET),
    "RegNetY": (lambda: hf.RegNetForImageClassification(hf.RegNetConfig()), IMAGENET),
    "MobileNetV2 1.0": (lambda: hf.MobileNetV2ForImageClassification(hf.MobileNetV2Config()), IMAGENET),
    "EfficientNet-B0": (lambda: hf.EfficientNetForImageClassification(hf.EfficientNetConfig(
        image_size=224, width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280)), IMAGENET),
    "ConvNeXt-T": (lambda: hf.ConvNextForImageClassification(hf.ConvNextConfig()), IMAGENET),
    "PoolFormer-S12": (lambda: hf.PoolFormerForImageClassification(hf.PoolFormerConfig()), IMAGENET),
    "ViT-B/16": (lambda: hf.ViTForImageClassification(hf.ViTConfig()), IMAGENET),
    "Swin-T": (lambda: hf.SwinForImageClassification(hf.SwinConfig()), IMAGENET),
    "BERT base": (lambda: hf.BertForSequenceClassification(hf.BertConfig()), IDS),
    "DistilBERT base": (lambda: hf.DistilBertForSequenceClassification(hf.DistilBertConfig()), IDS),
}

QKV = ("query", "key", "value", "q_proj", "k_proj", "v_proj", "q", "k", "v", "q_lin", "k_lin", "v_lin")
HEADS = ("num_attention_heads", "num_heads", "n_heads")


LIMIT_S = 60
_TIMES = 5


def call(model: nn.Module, inputs: Any) -> Any:
    return model(**inputs) if isinstance(inputs, dict) else model(inputs)


def works(model: nn.Module, inputs: Any, before: int) -> bool:
    out = call(model.train(), inputs)
    tensors = [t for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor) and t.is_floating_point()]
    sum(t.sum() for t in tensors).backward()
    some = any(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters())
    return some and sum(p.numel() for p in model.parameters()) < before


def median_ms(function: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(_TIMES):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return round(1e3 * statistics.median(seconds), 2)


def ours(model: nn.Module, inputs: Any) -> dict[str, Any]:
    before = sum(p.numel() for p in model.parameters())
    start = time.perf_counter()
    graph = autoprune.trace(model, inputs)
    out: dict[str, Any] = {"export_s": round(time.perf_counter() - start, 3)}
    plan = autoprune.Plan.uniform(graph, keep=0.7, method="l2")
    small = graph.cut(plan)
    ranking = Ranking(graph)
    typing_ms = median_ms(lambda: Typing(graph.captured.graph).run())
    program_ms = median_ms(lambda: Program(graph.captured.graph, graph.typing, {}))
    first_ms = typing_ms + median_ms(lambda: graph.cut(plan))
    out.update(typing_ms=typing_ms, once_ms=round(typing_ms + program_ms, 2), first_ms=round(first_ms, 2),
               candidate_ms=median_ms(lambda: graph.cut(ranking.resolve(plan))),
               free=round(graph.free_params / graph.params, 3), works=works(small, inputs, before),
               user_class=isinstance(graph.prune(plan), type(model)))
    try:
        template = OnnxTemplate(graph)
        out["onnx_ms"] = median_ms(lambda: template.slice(small.plan, small.tensors()))
    except CannotSlice as error:
        out["onnx_ms"] = f"re-exported: {error}"
    return out


def extra_memory(name: str) -> float:
    """Growth of this process's peak memory while the model is pruned, over the model's size (Linux)."""
    torch.manual_seed(0)
    warm_up, inputs = SMALL_MODELS["ResNet basic"]
    tiny = autoprune.trace(warm_up().eval(), inputs)
    tiny.prune(autoprune.Plan.uniform(tiny, keep=0.7, method="l2"))  # what is imported on first use is not ours
    make, inputs = FULL[name]
    model = make().eval()
    size = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    graph = autoprune.trace(model, inputs)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _memory("VmRSS")
    pruned = graph.cut(autoprune.Plan.uniform(graph, keep=0.7, method="l2"))
    assert pruned.plan.cuts
    return round((_memory("VmHWM") - before) / size, 2)


def _memory(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


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
    before = sum(p.numel() for p in model.parameters())
    seconds = []
    for _ in range(_TIMES):
        small = copy.deepcopy(model)
        seconds.append(torch_pruning_s(small, inputs))
    return {"prune_ms": round(1e3 * statistics.median(seconds), 1), "works": works(small, inputs, before)}


def torch_pruning_s(model: nn.Module, inputs: Any) -> float:
    """Seconds that torch-pruning takes; `model` is pruned in place."""
    import torch_pruning as tp

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
    return elapsed_s


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
    parser.add_argument("--only", nargs="*", choices=[*SMALL_MODELS, *FULL])
    parser.add_argument("--memory-of", choices=list(FULL), help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.memory_of:
        print(extra_memory(args.memory_of))
        return
    rows: dict[str, Any] = {}
    models = {**SMALL_MODELS, **FULL}
    for name in args.only or models:
        make, inputs = models[name]
        torch.manual_seed(0)
        model = make().eval()
        peer = copy.deepcopy(model)
        rows[name] = {"params": sum(p.numel() for p in model.parameters()),
                      "autoprune": attempt(lambda m=model, x=inputs: ours(m, x)),  # type: ignore[misc]
                      "torch-pruning": attempt(lambda m=peer, x=inputs: theirs(m, x))}  # type: ignore[misc]
        if name in FULL:
            command = [sys.executable, __file__, "--memory-of", name]
            rows[name]["autoprune"]["extra_memory"] = float(subprocess.check_output(command, text=True))
        print(name, json.dumps(rows[name]), flush=True)
    machine = {"machine": platform.machine(), "cores": len(os.sched_getaffinity(0)),
               "python": platform.python_version(),
               **{p: metadata.version(p) for p in ("torch", "torch-pruning", "transformers", "onnxruntime")}}
    args.out.parent.mkdir(exist_ok=True)
    result = {"machine": machine, "summary": summary(rows), "models": rows}
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["summary"], indent=1))


def summary(rows: dict[str, Any]) -> dict[str, Any]:
    both = [r for r in rows.values() if r["autoprune"]["works"] and r["torch-pruning"]["works"]]

    def faster(*keys: str) -> float | None:
        ratios = [r["torch-pruning"]["prune_ms"] / sum(r["autoprune"][k] for k in keys) for r in both]
        return round(statistics.median(ratios), 1) if ratios else None

    return {"models": len(rows), "autoprune_works": sum(r["autoprune"]["works"] for r in rows.values()),
            "torch_pruning_works": sum(r["torch-pruning"]["works"] for r in rows.values()), "both": len(both),
            "median_times_faster": {"first time, with scoring": faster("first_ms"),
                                    "typing and slicing": faster("typing_ms", "candidate_ms"),
                                    "a further candidate": faster("candidate_ms")},
            "largest_extra_memory": max((r["autoprune"].get("extra_memory", 0.0) for r in rows.values()), default=0.0)}


if __name__ == "__main__":
    main()
