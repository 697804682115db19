"""Candidates' ONNX cut out of one dense export.

The exporter needs seconds per model and a search needs hundreds of models. `OnnxTemplate` exports the dense model
once, types the decomposed graph that the exporter used (its node names are the ONNX value names), and makes a
candidate by cutting initialisers and rewriting the few shape constants through the same dimension expressions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from onnx import numpy_helper

from autoprune.graph.branches import find_branches
from autoprune.graph.dims import Dim, Expr, Product, dims_of, resolve, size_of
from autoprune.graph.kept import Kept
from autoprune.graph.onnx import export_program
from autoprune.graph.onnx_bytes import array_of, serialize
from autoprune.graph.onnx_tidy import drop_unused, settle_casts, settle_shapes, split_directly
from autoprune.graph.typing import NodeType, TensorType, Typing, tensor_types

if TYPE_CHECKING:
    from autoprune.graph.graph import Graph
    from autoprune.graph.plan import Plan

__all__ = ["CannotSlice", "OnnxTemplate"]


class CannotSlice(Exception):
    """This model's ONNX cannot be cut from the dense export; export each candidate instead."""


@dataclass(frozen=True)
class _Patch:
    """One constant of one node: which input (or the `group` attribute), and its value for the units that stay."""

    node: int
    slot: int | str
    value: Callable[[Kept], Any]
    axes: list[Expr]

    def apply(self, graph: Any, kept: Kept) -> dict[str, Any]:
        """Write the value into a graph; the initialiser that it needs, by name."""
        node, value = graph.node[self.node], self.value(kept)
        if isinstance(self.slot, str):
            next(a for a in node.attribute if a.name == self.slot).i = value
            return {}
        name = f"{node.output[0]}::{self.slot}"
        node.input.extend([""] * (self.slot + 1 - len(node.input)))
        node.input[self.slot] = name
        if node.op_type == "Split":
            others = [a for a in node.attribute if a.name != "num_outputs"]
            del node.attribute[:]
            node.attribute.extend(others)
        return {name: np.asarray(value, dtype=np.int64)}


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
        self._types = {n.name: t for n, t in typing.types.items()}
        _type_casts(proto, self._types)
        self._constants = _constants(proto)
        settle_casts(proto.graph)
        settle_shapes(proto.graph, self._fixed_sizes)
        split_directly(proto.graph, self._constants, lambda name: len(tensor_types(self._types.get(name))))
        self._makers = _makers(proto.graph)
        self._write_static_shapes(proto.graph)
        needed = drop_unused(proto.graph)
        self._makers = _makers(proto.graph)
        self._initializers = {i.name: None if i.name in graph.captured.tensors else i
                              for i in proto.graph.initializer if i.name in needed}
        sizes = {n: t.numel() for n, t in graph.captured.tensors.items() if isinstance(t, torch.nn.Parameter)}
        branches = find_branches(program.exported_program.graph, typing, sizes, names)
        self._branches = {n: (b.total.name, b.skip.name) for n, b in branches.items()}
        self._patches = [p for i, n in enumerate(proto.graph.node) for p in self._patches_of(i, n)]
        self._skeleton = type(proto)()
        self._skeleton.CopyFrom(proto)
        del self._skeleton.graph.initializer[:]
        del self._skeleton.graph.value_info[:]
        self._skeleton.graph.value_info.extend(v for v in proto.graph.value_info if self._typed(v))
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
            _write_shape(value, self._type(value.name), kept)
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
            needed = drop_unused(model.graph, self._skips(plan.dropped))
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
            for patch in self._patches_of(i, node) if node.op_type in ("Reshape", "Split") else ():
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

    def _type(self, name: str) -> TensorType | None:
        if name in self._tensors:
            return self._tensors[name]
        found = tensor_types(self._types.get(name))
        return found[0] if len(found) == 1 else None

    def _fixed_sizes(self, name: str) -> list[int | None]:
        """Sizes of a value's axes, None where they depend on the inputs or on what is pruned."""
        return [None if _dynamic(e) or any(d.frozen is None for d in dims_of(e)) else size_of(e)
                for e in self._type(name) or ()]

    def _typed(self, value: Any) -> bool:
        """Whether the shape that the exporter noted for a value can be kept up to date (fusions depend on it)."""
        axes = self._type(value.name)
        return axes is not None and len(axes) == len(value.type.tensor_type.shape.dim)

    def _patches_of(self, index: int, node: Any) -> list[_Patch]:
        output = self._type(node.output[0]) if node.output else None
        if node.op_type in ("Reshape", "Expand", "ConstantOfShape") and output is not None:
            slot = 0 if node.op_type == "ConstantOfShape" else 1
            dynamic = sum(_dynamic(e) for e in output)
            if dynamic > (node.op_type == "Reshape"):  # only a reshape can leave a size open, and only one
                return self._patch_pieces(node, slot, output)
            return [_Patch(index, slot, lambda kept: _shape(output, kept), output)]
        if node.op_type == "Slice" and output is not None:
            return self._patch_slice(index, node, output)
        if node.op_type == "Split":
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            outputs = [self._type(n) or self._split_part(n) for n in node.output]
            parts = [o[axis] for o in outputs if o is not None]
            if len(parts) == len(outputs):
                return [_Patch(index, 1, lambda kept: [kept.size(p) for p in parts], parts)]
            self._refuse(node, parts)
        if node.op_type == "SplitToSequence":
            types = tensor_types(self._types.get(node.output[0]))
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            cuts = [t[axis] for t in types]
            return [_Patch(index, 1, lambda kept: [kept.size(p) for p in cuts], cuts)]
        if node.op_type in ("Conv", "ConvTranspose"):
            return self._patch_groups(index, node)
        if node.op_type in ("LSTM", "GRU", "RNN"):
            hidden = self._recurrent_width(node.input[2])
            return [_Patch(index, "hidden_size", lambda kept: kept.size(hidden), [hidden])]
        return []

    @staticmethod
    def _refuse(node: Any, axes: list[Expr]) -> None:
        """Sizes that cannot be written down are only a problem where something may be removed."""
        if any(d.frozen is None for e in axes for d in dims_of(e)):
            raise CannotSlice(f"the sizes of {node.op_type} {node.name} are not constants")

    def _recurrent_width(self, value: str) -> Expr:
        """Hidden units: the second axis of the recurrent weights that `value` is put together from."""
        todo = [value]
        while todo:
            name = todo.pop()
            axes = self._tensors.get(name, [])
            if len(axes) == 2:
                return axes[1]
            if name in self._makers:
                maker = self._makers[name][1]
                todo.extend(maker.input if maker.op_type == "Concat" else maker.input[:1])  # not starts and ends
        raise CannotSlice(f"no recurrent weights behind {value}")

    def _patch_pieces(self, node: Any, slot: int, output: TensorType) -> list[_Patch]:
        """A dynamic shape is put together from one number per axis: write the static ones."""
        index, maker = self._makers.get(node.input[slot], (-1, None))
        if maker is None or maker.op_type != "Concat" or len(maker.input) != len(output):
            if maker is None or maker.op_type != "Shape":  # the shape of another value is right by itself
                self._refuse(node, output)
            return []
        self._refuse(node, [e for e in output if _dynamic(e)])
        return [_Patch(index, i, _one_size(e), [e]) for i, e in enumerate(output) if not _dynamic(e)]

    def _split_part(self, name: str) -> TensorType | None:
        """Outputs of a split are named after the node that makes them all: `split_split_0`, `split_split_1`, …"""
        base, _, number = name.rpartition("_split_")
        parts = tensor_types(self._types.get(base))
        return parts[int(number)] if number.isdigit() and int(number) < len(parts) else None

    def _patch_slice(self, index: int, node: Any, output: TensorType) -> list[_Patch]:
        x = self._type(node.input[0])
        values = [self._constants.get(n) for n in node.input[1:4]]
        if x is None or any(v is None or v.size != 1 for v in values):
            self._refuse(node, [*(x or []), *output])
            return []
        start, _, axis = (int(np.asarray(v).reshape(-1)[0]) for v in values)
        whole, part = x[axis], output[axis]
        step = self._constants.get(node.input[4]) if len(node.input) > 4 and node.input[4] else np.ones(1)
        if resolve(whole) is resolve(part) or step is None or step.reshape(-1)[0] != 1:  # every n-th: all there are
            return [_Patch(index, 2, lambda kept: [kept.size(whole)], [whole])]
        start += size_of(whole) if start < 0 else 0
        end = start + size_of(part)
        return [_Patch(index, 1, lambda kept: [kept.before(whole, start)], [whole]),
                _Patch(index, 2, lambda kept: [kept.before(whole, end)], [whole])]

    def _patch_groups(self, index: int, node: Any) -> list[_Patch]:
        x, weight = self._type(node.input[0]), self._type(node.input[1])
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        if groups == 1 or x is None or weight is None:
            return []
        if node.op_type == "Conv":
            channels, per_group = x[1], weight[1]
        else:  # the weight's first axis is groups × width
            lead = resolve(weight[0])
            factors, inner = list(lead) if isinstance(lead, Product) else [lead], list[Expr]()
            while math.prod(size_of(e) for e in inner) < size_of(lead) // groups:
                inner.insert(0, factors.pop())
            channels, per_group = lead, Product(inner)
        return [_Patch(index, "group", lambda kept: kept.size(channels) // kept.size(per_group), [channels])]


def _type_casts(proto: Any, types: dict[str, NodeType]) -> None:
    """What is only cast afterwards has the type of the result: the exporter makes a fill in two steps."""
    for node in reversed(proto.graph.node):
        if node.op_type in ("Cast", "CastLike", "Identity") and node.output[0] in types:
            types.setdefault(node.input[0], types[node.output[0]])


def _write_shape(value: Any, axes: TensorType | None, kept: Kept) -> None:
    for dim, e in zip(value.type.tensor_type.shape.dim, axes or (), strict=False):
        if dim.HasField("dim_value") and kept.touches(e):
            dim.dim_value = kept.size(e)


def _dynamic(e: Expr) -> bool:
    return any(d.symbolic for d in dims_of(e))


def _one_size(e: Expr) -> Callable[[Kept], list[int]]:
    return lambda kept: [kept.size(e)]


def _shape(axes: TensorType, kept: Kept) -> list[int]:
    """Sizes with the dynamic one left to be inferred."""
    return [-1 if _dynamic(e) else kept.size(e) for e in axes]


def _makers(graph: Any) -> dict[str, tuple[int, Any]]:
    """The node that makes a value, with its index."""
    return {o: (i, n) for i, n in enumerate(graph.node) for o in n.output}


def _constants(proto: Any) -> dict[str, Any]:
    """Small constants by value name."""
    out = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer if np.prod(i.dims, initial=1) <= 8}
    for node in proto.graph.node:
        for a in node.attribute if node.op_type == "Constant" else ():
            if a.name == "value":
                out[node.output[0]] = numpy_helper.to_array(a.t)
            elif a.name == "value_ints":
                out[node.output[0]] = np.asarray(a.ints, dtype=np.int64)
            elif a.name == "value_int":
                out[node.output[0]] = np.asarray(a.i, dtype=np.int64)
        if node.op_type in ("Cast", "Reshape", "Identity", "Squeeze", "Unsqueeze") and node.input[0] in out:
            out[node.output[0]] = out[node.input[0]]  # the same numbers, only ever read as a flat list
    return out


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
