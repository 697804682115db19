"""Files that can be deployed: ONNX, `.pt2`, safetensors with plan and graph as JSON, and a card."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from autoprune.errors import ModelError
from autoprune.files import writing
from autoprune.front.front import Front, Point
from autoprune.front.words import again_sentence
from autoprune.graph.module import PrunedModule
from autoprune.graph.onnx import check_onnx, export_onnx
from autoprune.graph.trace import with_dynamic_batch
from autoprune.methods.masks.size import SPARSE_FILE, save_sparse
from autoprune.search.candidate import INT8_FILE

__all__ = ["export_model", "export_point"]

_PASSIVE = {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Where", "And", "Or", "Equal", "Less", "Greater",
            "LessOrEqual", "GreaterOrEqual", "Not", "Trilu", "Cast", "Expand", "Tile", "Reshape", "Unsqueeze",
            "Squeeze", "Slice", "Concat"}
"""Operators that read constants like masks, which an export folds and no parameter holds."""


def export_point(front: Front, point: Point, model: PrunedModule, example_inputs: Any, folder: str | os.PathLike[str],
                 int8: bytes | None = None, onnx: bytes | None = None) -> dict[str, Any]:
    """Write a point of a front: everything of `export_model`, and `card.md`."""
    facts = export_model(model, example_inputs, folder, int8, onnx)
    card = _card(front, point, facts)
    with writing("the export folder", Path(folder)):
        (Path(folder) / "card.md").write_text(card, encoding="utf-8")
    return facts


def export_model(model: PrunedModule, example_inputs: Any, folder: str | os.PathLike[str],
                 int8: bytes | None = None, onnx: bytes | None = None) -> dict[str, Any]:
    """Write `model.onnx`, `model.pt2`, `weights.safetensors`, `plan.json` and `graph.json`, all in fp32; and `int8`,
    the ONNX of the model quantised, as `model_int8.onnx`; of a model with masks also `weights.sparse.zip`. onnx: the
    ONNX of the model, where it is at hand.

    The ONNX model is run through onnxruntime and compared with torch (≤ 1e-4 relative), and its weights are counted
    against the pruned model's. Raises `ModelError` when either check fails.
    """
    path = Path(folder)
    with writing("the export folder", path, fix="free some space, or --output DIR with a folder you may write to"):
        return _write_files(model.eval(), example_inputs, path, int8, onnx)


def _write_files(model: PrunedModule, example_inputs: Any, path: Path, int8: bytes | None, onnx: bytes | None
                 ) -> dict[str, Any]:
    path.mkdir(parents=True, exist_ok=True)
    model.save(path)
    onnx_bytes = onnx or export_onnx(model, example_inputs)
    difference = check_onnx(onnx_bytes, model, example_inputs)
    _check_sizes(onnx_bytes, model)
    (path / "model.onnx").write_bytes(onnx_bytes)
    if int8 is not None:
        (path / INT8_FILE).write_bytes(int8)
    if model.plan.masks:
        save_sparse(model.tensors(), path / SPARSE_FILE)
    _save_pt2(model, example_inputs, path / "model.pt2")
    files = {f.name: f.stat().st_size for f in sorted(path.iterdir()) if f.is_file()}
    return {"folder": str(path), "onnx_difference": difference, "files": files}


def _check_sizes(onnx_bytes: bytes, model: nn.Module) -> None:
    """An export that still has the dense sizes must not leave the house (ultralytics #16806)."""
    import onnx

    graph = onnx.load_from_string(onnx_bytes).graph
    read = {name for node in graph.node if node.op_type not in _PASSIVE for name in node.input}
    held = sum(int(np.prod(i.dims)) for i in graph.initializer if len(i.dims) > 1 and i.name in read)
    own = sum(max(1, times) * t.numel() for t, times in _uses(model))
    if held > own * 1.01 + 4096:
        raise ModelError("the exported ONNX model is larger than the pruned model", given=f"{held:,} elements",
                         allowed=f"about {own:,}", fix="please report this with the model")


def _uses(model: nn.Module) -> list[tuple[torch.Tensor, int]]:
    """Parameters and buffers, and by how many nodes of a graph each is read: an export may hold it once for each, as a
    transpose that it has computed.
    """
    nodes = model.graph.nodes if isinstance(model, fx.GraphModule) else ()
    readers: dict[str, int] = {}
    for node in nodes:
        if node.op == "get_attr":
            readers[str(node.target)] = readers.get(str(node.target), 0) + len(node.users)
    names = [*model.named_parameters(), *model.named_buffers()]
    return list({id(t): (t, readers.get(name, 1)) for name, t in names}.values())


def _save_pt2(model: PrunedModule, example_inputs: Any, path: Path) -> None:
    args, kwargs, shapes = with_dynamic_batch(example_inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for dynamic in (shapes, None):
            try:
                program = torch.export.export(model, args, kwargs, dynamic_shapes=dynamic, strict=False)
                break
            except Exception as error:  # torch.export raises many types; the fixed batch decides
                if dynamic is None:
                    raise ModelError("the pruned model cannot be exported as .pt2", given=str(error)[:300]) from error
        torch.export.save(program, path)


def _card(front: Front, point: Point, facts: dict[str, Any]) -> str:
    c, dense = point.candidate, front.dense
    search, test = c.score, c.test
    assert search is not None
    ratio = dense.ms / c.ms
    lines = [
        f"# {front.task}, trial {c.number}", "",
        "| | pruned | dense |", "|---|---|---|",
        f"| {front.metric}, search split | {search} | {dense.score} |",
        f"| {front.metric}, test split | {test or 'not read'} | {dense.test or 'not read'} |",
        f"| precision | {c.plan.precision} | fp32 |",
        f"| latency on {front.device} | {c.latency} | {dense.latency} |",
        f"| MACs (1 per multiply-add) | {c.macs:,} | {dense.macs:,} |",
        f"| parameters | {c.params:,} | {dense.params:,} |",
        f"| bytes of weights | {c.size_bytes:,} | {dense.size_bytes:,} |",
        *([f"| bytes without zeros, zipped | {c.compressed_bytes:,} | {dense.compressed_bytes:,} |"]
          if c.compressed_bytes else []), "",
        f"{ratio:.2f}x faster than dense by the same source. onnxruntime and torch differ by "
        f"{facts['onnx_difference']:.1e} (relative).", "",
    ]
    if front.notes:
        lines += ["On the scores:", "", *(f"- {note}" for note in front.notes), ""]
    if c.latency is not None and c.latency.notes:
        lines += ["On this latency:", "", *(f"- {note}" for note in c.latency.notes), ""]
    if (again := again_sentence(c, None)) is not None:
        lines += [f"{again[0].upper()}{again[1:]}.", ""]
    if c.latency is not None and c.latency.source == "profile":
        deployed = INT8_FILE if c.plan.precision == "int8" else "model.onnx"
        lines += [f"The latency is a prediction from a device profile, not a measurement. Measure `{deployed}` on the "
                  "device before you promise it.", ""]
    if c.plan.precision == "int8":
        lines += [f"Score, latency and bytes are those of `{INT8_FILE}` in onnxruntime: deploy that file. The other "
                  "files hold the same model in fp32, to train on or to compare with.", ""]
    lines += ["## Files", ""] + [f"- `{name}`: {size:,} bytes" for name, size in facts["files"].items()]
    lines += ["", "## Use", "", "```python", "import autoprune", f"model = autoprune.load({facts['folder']!r})",
              "```", "", "## Environment", "", "```json", json.dumps(dict(front.environment), indent=1), "```", "",
              "## Plan", "", "| group | of | kept | method |", "|---|---|---|---|"]
    for name, size in front.groups.items():
        cut = c.plan.cuts.get(name)
        lines.append(f"| {name} | {size} | {cut.keep if cut else size} | {cut.method if cut else '–'} |")
    lines += ["", "Dropped residual branches: " + ", ".join(c.plan.dropped)] if c.plan.dropped else []
    if c.plan.masks:
        lines += ["", "| masked weight | pattern | kept | method |", "|---|---|---|---|"]
        lines += [f"| {name} | {m.pattern} | {m.kept:.3g} | {m.method} |" for name, m in c.plan.masks.items()]
    return "\n".join(lines) + "\n"
