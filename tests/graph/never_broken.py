"""What must hold for any model and any plan (design/graph.md, "What it must guarantee"), as one function.

`check` raises `AssertionError` (or whatever broke) and returns a few numbers for people.
"""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from autoprune.errors import ModelError
from autoprune.graph.dims import dims_of
from autoprune.graph.graph import Graph, trace
from autoprune.graph.module import PrunedModule, load_module
from autoprune.graph.onnx import check_onnx, export_onnx
from autoprune.graph.onnx_template import CannotSlice, OnnxTemplate
from autoprune.graph.plan import Plan
from autoprune.graph.trace import split_inputs
from autoprune.graph.typing import tensor_types


@dataclass(frozen=True)
class Report:
    """free: share of the parameters that some group touches. onnx: "sliced", "exported", "no export",
    "dense is wrong too" or "not asked"."""

    groups: int
    free: float
    dynamic_batch: bool
    onnx: str


def tensors_in(value: Any) -> list[torch.Tensor]:
    return [x for x in pytree.tree_leaves(value) if isinstance(x, torch.Tensor)]


def call(model: nn.Module, inputs: Any) -> list[torch.Tensor]:
    args, kwargs = split_inputs(inputs)
    return tensors_in(model(*args, **kwargs))


def another_batch(inputs: Any) -> Any:
    """The same inputs with one more sample, another one where it holds fractions: norms need some variance. Only those
    whose first axis is the batch: as long as the first input's.
    """
    size = next((x.shape[0] for x in pytree.tree_leaves(inputs) if isinstance(x, torch.Tensor) and x.dim()), 0)

    def widen(x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or not x.dim() or x.shape[0] != size:
            return x
        return torch.cat([x, x[:1].roll(1, -1) * 0.9 if x.is_floating_point() else x[:1]])

    return pytree.tree_map(widen, inputs)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """torch and onnxscript warn about their own deprecations while exporting; nothing of ours may warn."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            theirs = r"(torch|onnxscript|onnx|transformers|copyreg)\b"
            warnings.filterwarnings("ignore", category=category, module=theirs)
        warnings.filterwarnings("ignore", message="LSTM with projections is not supported with oneDNN")
        yield


def check(model: nn.Module, inputs: Any, *, keeps: tuple[float, ...] = (0.7, 0.4), onnx: bool = False) -> Report:
    """Trace, prune, run, train, save, load, trace and prune again, and export."""
    graph = trace(model, inputs)
    identity(graph, model.eval(), inputs)
    pruned = None
    for keep, method in zip(keeps, ("random", "l1"), strict=False):
        pruned = graph.cut(Plan.uniform(graph, keep, method))
        runs(graph, pruned, inputs)
    assert pruned is not None
    trains(pruned, inputs, another_batch(inputs) if graph.captured.dynamic_batch else inputs)
    reloads(pruned, inputs)
    again = trace(pruned, inputs)
    if again.groups:
        assert all(torch.isfinite(x).all() for x in call(again.cut(Plan.uniform(again, 0.6)), inputs)
                   if x.is_floating_point())
    how = exports(graph, keeps[0], inputs) if onnx else "not asked"
    return Report(len(graph.groups), graph.free_params / max(graph.params, 1), graph.captured.dynamic_batch, how)


def identity(graph: Graph, model: nn.Module, inputs: Any) -> None:
    """The plan that removes nothing gives the model's outputs, bit for bit."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a kernel of its own for inference, which rounds differently
    try:
        with torch.no_grad():
            for a, b in zip(call(model, inputs), call(graph.dense(), inputs), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def runs(graph: Graph, pruned: PrunedModule, inputs: Any) -> None:
    """The pruned model runs at the traced batch and at another, and every tensor in it has the size its type says."""
    dense = call(graph.dense(), inputs)
    with torch.no_grad():
        outputs = call(pruned, inputs)
    assert [x.shape for x in outputs] == [x.shape for x in dense]
    assert [x.dtype for x in outputs] == [x.dtype for x in dense]
    sizes_follow_types(graph, pruned, inputs)
    if graph.captured.dynamic_batch:
        wide = another_batch(inputs)
        assert [x.shape for x in call(pruned, wide)] == [x.shape for x in call(graph.dense(), wide)]


class _Watch(fx.Interpreter):
    """Runs a pruned module and compares the size of every axis of every value with what the typing says."""

    def __init__(self, graph: Graph, pruned: PrunedModule):
        super().__init__(pruned)
        self._types = {n.name: tensor_types(t) for n, t in graph.typing.types.items() if n.op == "call_function"}
        self._kept = graph.kept(pruned.plan)

    def run_node(self, n: fx.Node) -> Any:
        out = super().run_node(n)
        values = [out] if isinstance(out, torch.Tensor) else list(out) if isinstance(out, list | tuple) else []
        for value, axes in zip(values, self._types.get(n.name, []), strict=False):
            if isinstance(value, torch.Tensor):
                said = [s if any(d.symbolic for d in dims_of(e)) else self._kept.size(e)
                        for e, s in zip(axes, value.shape, strict=True)]
                assert said == list(value.shape), f"{n.format_node()}: {axes} says {said}, is {list(value.shape)}"
        return out


def sizes_follow_types(graph: Graph, pruned: PrunedModule, inputs: Any) -> None:
    with torch.no_grad():
        _Watch(graph, pruned).run(*pytree.tree_leaves(split_inputs(inputs)), enable_io_processing=False)


def trains(pruned: PrunedModule, inputs: Any, batch: Any) -> None:
    """One step in training mode changes parameters and leaves a model that evaluates to finite numbers."""
    pruned.train()
    parameters = [p for p in pruned.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-4)
    loss = sum((x.float() ** 2).mean() for x in call(pruned, batch) if x.requires_grad)
    assert isinstance(loss, torch.Tensor)
    loss.backward()  # type: ignore[no-untyped-call]
    assert any(p.grad is not None and bool((p.grad != 0).any()) for p in parameters)
    optimizer.step()
    pruned.eval()
    with torch.no_grad():
        assert all(torch.isfinite(x).all() for x in call(pruned, inputs) if x.is_floating_point())


def reloads(pruned: PrunedModule, inputs: Any) -> None:
    """What `save` wrote gives the same outputs after `load`."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        pruned.save(folder)
        again = load_module(folder)
        for a, b in zip(call(pruned, inputs), call(again, inputs), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def exports(graph: Graph, keep: float, inputs: Any) -> str:
    """onnxruntime agrees with torch, through the template or, where that says it cannot, through an export."""
    plan = graph.resolve(Plan.uniform(graph, keep, "random"))
    pruned = graph.cut(plan)
    try:
        exported, how = OnnxTemplate(graph).slice(plan, pruned.tensors()), "sliced"
    except ModelError:
        return "no export"  # an operator that ONNX or its exporter does not have
    except CannotSlice:
        exported, how = export_onnx(pruned, inputs), "exported"
    try:
        check_onnx(exported, pruned, inputs)
    except Exception:
        if faithful(graph.dense(), inputs):
            raise
        return "dense is wrong too"
    return how


def faithful(model: PrunedModule, inputs: Any) -> bool:
    """Whether onnxruntime agrees with torch on a model that was never pruned: if not, nothing of ours is to blame."""
    try:
        check_onnx(export_onnx(model, inputs), model, inputs)
    except Exception:
        return False
    return True
