"""Candidates' ONNX cut out of one dense export.

The exporter needs seconds per model and a search needs hundreds of models. `OnnxTemplate` exports the dense model
once, types the decomposed graph that the exporter used (its node names are the ONNX value names), and makes a
candidate by cutting initialisers and rewriting the few shape constants through the same dimension expressions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from onnx import numpy_helper

from autoprune.graph.branches import find_branches
from autoprune.graph.dims import Dim, Expr, dims_of, resolve
from autoprune.graph.kept import Kept
from autoprune.graph.onnx import export_program
from autoprune.graph.onnx_bytes import array_of, serialize
from autoprune.graph.onnx_sizes import CannotSlice, Sizes
from autoprune.graph.onnx_tidy import drop_unused, settle_casts, settle_shapes, skip_repeats, split_directly
from autoprune.graph.typing import TensorType, Typing

if TYPE_CHECKING:
    from autoprune.graph.graph import Graph
    from autoprune.graph.plan import Plan

__all__ = ["CannotSlice", "OnnxTemplate"]


class OnnxTemplate:
    """The dense export of a graph, ready to be cut.

    Raises `CannotSlice` when the exporter's graph does not tell the same groups, and `ModelError` when there is no
    export at all.
    """

    def __init__(self, graph: Graph):
        program = export_program(graph.dense(), graph.example_inputs, graph.captured.dynamic_batch, optimize=False)
        proto = program.model_proto
        if any(a.HasField("g") for n in proto.graph.node for a in n.attribute):
            raise CannotSlice("the exporter's graph has branches or loops; sizes inside them are not known")
        signature = program.exported_program.graph_signature
        names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers,
                 **signature.inputs_to_lifted_tensor_constants}
        typing = Typing(program.exported_program.graph, names).run()
        self._graph = graph
        self._dims = _match_tensors(graph.typing.tensors, typing.tensors)
        missing = {g.dim for g in graph.groups.values()} - set(self._dims.values())
        if missing:
            raise CannotSlice(f"{len(missing)} groups are not found again in the exporter's graph")
        self._tensors = typing.tensors
        self._sizes = sizes = Sizes(proto.graph, {n.name: t for n, t in typing.types.items()}, typing.tensors)
        settle_casts(proto.graph)
        settle_shapes(proto.graph, sizes.fixed, sizes.closed)
        split_directly(proto.graph, sizes.constants, sizes.parts)
        sizes.read(proto.graph)
        self._write_static_shapes(proto.graph)
        needed = drop_unused(proto.graph, skip_repeats(proto.graph, sizes.constants, {}))
        sizes.read(proto.graph)
        self._initializers = {i.name: None if i.name in graph.captured.tensors else i
                              for i in proto.graph.initializer if i.name in needed}
        params = {n: t.numel() for n, t in graph.captured.tensors.items() if isinstance(t, torch.nn.Parameter)}
        branches = find_branches(program.exported_program.graph, typing, params, names)
        self._branches = {n: (b.total.name, b.skip.name) for n, b in branches.items()}
        self._patches = [p for i, n in enumerate(proto.graph.node) for p in self._sizes.patches(i, n)]
        self._skeleton = type(proto)()
        self._skeleton.CopyFrom(proto)
        del self._skeleton.graph.initializer[:]
        del self._skeleton.graph.value_info[:]
        self._skeleton.graph.value_info.extend(v for v in proto.graph.value_info if self._sizes.typed(v))
        for node in self._skeleton.graph.node:  # what the weights say themselves
            for a in [a for a in node.attribute if a.name == "kernel_shape" and "Conv" in node.op_type]:
                node.attribute.remove(a)

    def slice(self, plan: Plan, tensors: Mapping[str, torch.Tensor]) -> bytes:
        """ONNX of a pruned model; `plan` is resolved and `tensors` are the pruned module's, by name."""
        dense = self._graph.kept(plan)
        kept = Kept({theirs: dense.indices(ours) for theirs, ours in self._dims.items() if dense.touches(ours)})
        model = type(self._skeleton)()
        model.CopyFrom(self._skeleton)
        for value in [*model.graph.value_info, *model.graph.output]:
            _write_shape(value, self._sizes.type(value.name), kept)
        constants: dict[str, Any] = {}
        for name, proto in self._initializers.items():
            if proto is not None:
                constants[name] = self._cut(name, proto, kept)
            elif name in tensors:  # a removed branch leaves its tensors out
                constants[name] = array_of(tensors[name])
        for patch in self._patches:
            if any(kept.touches(e) for e in patch.axes):
                constants.update(patch.apply(model.graph, kept))
        if plan.dropped:
            skips = skip_repeats(model.graph, self._sizes.constants, self._skips(plan.dropped))
            needed = drop_unused(model.graph, skips)
            constants = {name: value for name, value in constants.items() if name in needed}
        return serialize(model, constants)

    def _skips(self, names: tuple[str, ...]) -> dict[str, str]:
        """The sums of residual branches and the values that take their places."""
        missing = [n for n in names if n not in self._branches]
        if missing:
            raise CannotSlice(f"the residual branch {missing[0]} is not found again in the exporter's graph")
        return dict(self._branches[n] for n in names)

    def _write_static_shapes(self, graph: Any) -> None:
        """Shapes that the exporter computes although at most one size in them is dynamic become constants."""
        for i, node in enumerate(graph.node):
            for patch in self._sizes.patches(i, node) if node.op_type in ("Reshape", "Split", "Identity") else ():
                if patch.node == i:
                    written = patch.apply(graph, Kept({}))
                    graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in written.items())

    def _cut(self, name: str, proto: Any, kept: Kept) -> Any:
        axes = self._tensors.get(name, [])
        if not any(kept.touches(e) for e in axes):
            return proto
        value = numpy_helper.to_array(proto)
        for i, e in enumerate(axes):
            value = value.take(kept.indices(e), axis=i)
        return np.asarray(value, order="C")


def _write_shape(value: Any, axes: TensorType | None, kept: Kept) -> None:
    for dim, e in zip(value.type.tensor_type.shape.dim, axes or (), strict=False):
        if dim.HasField("dim_value") and kept.touches(e):
            dim.dim_value = kept.size(e)


def _match_tensors(ours: Mapping[str, TensorType], theirs: Mapping[str, TensorType]) -> dict[Dim, Dim]:
    """`Dim`s of the second typing → those of the first, or `CannotSlice` when the two see different structure."""
    mapping: dict[Dim, Dim] = {}
    for name, axes in theirs.items():
        for a, b in zip(ours.get(name, ()), axes, strict=False):
            _match(a, b, mapping, name)
    return mapping


def _match(ours: Expr, theirs: Expr, mapping: dict[Dim, Dim], name: str) -> None:
    a, b = resolve(ours), resolve(theirs)
    if all(d.frozen is not None for d in dims_of(a)):
        return  # nothing of it is ever removed
    if isinstance(a, Dim) and isinstance(b, Dim):
        if b.frozen is not None or mapping.setdefault(b, a) is not a:
            raise CannotSlice(f"{name} is typed differently by the exporter ({b.frozen or 'another coupling'})")
        return
    if type(a) is type(b) and not isinstance(a, Dim) and not isinstance(b, Dim) and len(a) == len(b):
        for x, y in zip(a, b, strict=True):
            _match(x, y, mapping, name)
        return
    raise CannotSlice(f"{name} is typed differently by the exporter: {a} and {b}")
