"""Which constants of an exporter's ONNX graph are sizes, and how they follow from the units that stay."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import numpy_helper

from autoprune.graph.dims import Expr, Product, dims_of, resolve, size_of
from autoprune.graph.kept import Kept
from autoprune.graph.typing import NodeType, TensorType, tensor_types

__all__ = ["CannotSlice", "Patch", "Sizes"]


class CannotSlice(Exception):
    """This model's ONNX cannot be cut from the dense export; export each candidate instead."""


@dataclass(frozen=True)
class Patch:
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


class Sizes:
    """What is known about the values of one graph: `types` by value name, `tensors` by initialiser name.

    `read` looks at the graph as it is; it is called again after the graph has changed.
    """

    def __init__(self, graph: Any, types: dict[str, NodeType], tensors: Mapping[str, TensorType]):
        self._types, self._tensors = types, tensors
        self._closed: dict[str, list[Expr]] = {}
        _type_casts(graph, types)
        self.constants = _constants(graph)
        self.read(graph)

    def read(self, graph: Any) -> None:
        """Remember which node makes which value."""
        self._makers = {o: (i, n) for i, n in enumerate(graph.node) for o in n.output}

    def parts(self, name: str) -> int:
        """Number of the tensors that a split with this name makes; 0 for what is no split."""
        return len(tensor_types(self._types.get(name)))

    def type(self, name: str) -> TensorType | None:
        """The axes of a value, or None when they are not known or it is several tensors."""
        if name in self._tensors:
            return self._tensors[name]
        found = tensor_types(self._types.get(name))
        return found[0] if len(found) == 1 else None

    def fixed(self, name: str) -> list[int | None]:
        """Sizes of a value's axes, None where they depend on the inputs or on what is pruned."""
        return [None if _is_open(e) or any(d.frozen is None for d in dims_of(e)) else size_of(e)
                for e in self.type(name) or ()]

    def closed(self, name: str, part: slice, output: str) -> bool:
        """Whether these sizes of a value do not depend on the inputs; they are then what `output` will be."""
        asked = list(self.type(name) or ())[part]
        if not asked or any(_is_open(e) for e in asked):
            return False
        self._closed[output] = asked
        return True

    def typed(self, value: Any) -> bool:
        """Whether the shape that the exporter noted for a value can be kept up to date (fusions depend on it)."""
        axes = self.type(value.name)
        return axes is not None and len(axes) == len(value.type.tensor_type.shape.dim)

    def patches(self, index: int, node: Any) -> list[Patch]:
        """What has to be written when units are removed, for the node at `index` (or for one that it reads)."""
        output = self.type(node.output[0]) if node.output else None
        if node.op_type in ("Reshape", "Expand", "ConstantOfShape") and output is not None:
            slot = 0 if node.op_type == "ConstantOfShape" else 1
            dynamic = sum(_is_open(e) for e in output)
            if dynamic > (node.op_type == "Reshape"):  # only a reshape can leave a size open, and only one
                return self._patch_pieces(node, slot, output)
            return [Patch(index, slot, lambda kept: _shape(output, kept), output)]
        if node.op_type == "Identity" and node.output[0] in self._closed:
            asked = self._closed[node.output[0]]
            return [Patch(index, 0, lambda kept: [kept.size(e) for e in asked], asked)]
        if node.op_type == "Slice" and output is not None:
            return self._patch_slice(index, node, output)
        if node.op_type == "Split":
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            outputs = [self.type(n) or self._split_part(n) for n in node.output]
            parts = [o[axis] for o in outputs if o is not None]
            if len(parts) == len(outputs):
                return [Patch(index, 1, lambda kept: [kept.size(p) for p in parts], parts)]
            self._refuse(node, parts)
        if node.op_type == "SplitToSequence":
            types = tensor_types(self._types.get(node.output[0]))
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            cuts = [t[axis] for t in types]
            return [Patch(index, 1, lambda kept: [kept.size(p) for p in cuts], cuts)]
        if node.op_type in ("Conv", "ConvTranspose"):
            return self._patch_groups(index, node)
        if node.op_type in ("LSTM", "GRU", "RNN"):
            hidden = self._recurrent_width(node.input[2])
            return [Patch(index, "hidden_size", lambda kept: kept.size(hidden), [hidden])]
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

    def _patch_pieces(self, node: Any, slot: int, output: TensorType) -> list[Patch]:
        """A dynamic shape is put together from one number per axis: write the static ones."""
        index, maker = self._makers.get(node.input[slot], (-1, None))
        if maker is None or maker.op_type != "Concat" or len(maker.input) != len(output):
            if maker is None or maker.op_type != "Shape":  # the shape of another value is right by itself
                self._refuse(node, output)
            return []
        self._refuse(node, [e for e in output if _is_open(e)])
        return [Patch(index, i, _one_size(e), [e]) for i, e in enumerate(output) if not _is_open(e)]

    def _split_part(self, name: str) -> TensorType | None:
        """Outputs of a split are named after the node that makes them all: `split_split_0`, `split_split_1`, …"""
        base, _, number = name.rpartition("_split_")
        parts = tensor_types(self._types.get(base))
        return parts[int(number)] if number.isdigit() and int(number) < len(parts) else None

    def _patch_slice(self, index: int, node: Any, output: TensorType) -> list[Patch]:
        x = self.type(node.input[0])
        values = [self.constants.get(n) for n in node.input[1:4]]
        if x is None or any(v is None or v.size != 1 for v in values):
            self._refuse(node, [*(x or []), *output])
            return []
        start, _, axis = (int(np.asarray(v).reshape(-1)[0]) for v in values)
        whole, part = x[axis], output[axis]
        step = self.constants.get(node.input[4]) if len(node.input) > 4 and node.input[4] else np.ones(1)
        if resolve(whole) is resolve(part) or step is None or step.reshape(-1)[0] != 1:  # every n-th: all there are
            return [Patch(index, 2, lambda kept: [kept.size(whole)], [whole])]
        start += size_of(whole) if start < 0 else 0
        end = start + size_of(part)
        return [Patch(index, 1, lambda kept: [kept.before(whole, start)], [whole]),
                Patch(index, 2, lambda kept: [kept.before(whole, end)], [whole])]

    def _patch_groups(self, index: int, node: Any) -> list[Patch]:
        x, weight = self.type(node.input[0]), self.type(node.input[1])
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
        return [Patch(index, "group", lambda kept: kept.size(channels) // kept.size(per_group), [channels])]


def _type_casts(graph: Any, types: dict[str, NodeType]) -> None:
    """What is only cast afterwards has the type of the result: the exporter makes a fill in two steps."""
    for node in reversed(graph.node):
        if node.op_type in ("Cast", "CastLike", "Identity") and node.output[0] in types:
            types.setdefault(node.input[0], types[node.output[0]])


def _is_open(e: Expr) -> bool:
    """Whether the size depends on the inputs."""
    return any(d.symbolic for d in dims_of(e))


def _one_size(e: Expr) -> Callable[[Kept], list[int]]:
    return lambda kept: [kept.size(e)]


def _shape(axes: TensorType, kept: Kept) -> list[int]:
    """Sizes with the dynamic one left to be inferred."""
    return [-1 if _is_open(e) else kept.size(e) for e in axes]


def _constants(graph: Any) -> dict[str, Any]:
    """Small constants by value name."""
    out = {i.name: numpy_helper.to_array(i) for i in graph.initializer if np.prod(i.dims, initial=1) <= 8}
    for node in graph.node:
        for a in node.attribute if node.op_type == "Constant" else ():
            if a.name == "value":
                out[node.output[0]] = numpy_helper.to_array(a.t)
            elif a.name == "value_ints":
                out[node.output[0]] = np.asarray(a.ints, dtype=np.int64)
            elif a.name == "value_int":
                out[node.output[0]] = np.asarray(a.i, dtype=np.int64)
            elif a.name == "value_float":
                out[node.output[0]] = np.asarray(a.f, dtype=np.float32)
        if node.op_type in ("Cast", "CastLike", "Reshape", "Identity", "Squeeze", "Unsqueeze") and node.input[0] in out:
            out[node.output[0]] = out[node.input[0]]  # the same numbers, only ever read as a flat list
    return out
