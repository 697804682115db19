"""Shapes of every tensor in an ONNX model, fused operators included, without running it if that can be helped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from autoprune.errors import ConfigError, UnmeasurableError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["NCHWC", "Shape", "concretise", "infer", "run_for_shapes", "set_sizes"]

Shape = tuple[int, ...]
NCHWC = "com.microsoft.nchwc"
"""Domain of onnxruntime's operators on blocked channels (x86)."""

_SPATIAL = frozenset({"kernel_shape", "strides", "pads", "dilations", "group", "auto_pad", "ceil_mode"})
_LARGE = 4096  # an initializer with more elements cannot be a shape; inference need not carry its values


def concretise(model: ModelProto) -> bool:
    """Set symbolic or missing input dimensions of `model` to 1, in place; True when anything changed."""
    known = {t.name for t in model.graph.initializer}
    changed = False
    for value in model.graph.input:
        if value.name in known or not value.type.HasField("tensor_type"):
            continue
        for dim in value.type.tensor_type.shape.dim:
            if dim.WhichOneof("value") != "dim_value" or dim.dim_value < 1:
                dim.Clear()
                dim.dim_value = 1
                changed = True
    if changed:
        _forget_shapes(model)
    return changed


def set_sizes(model: ModelProto, sizes: Sequence[Shape] | Mapping[str, Shape]) -> None:
    """Give the inputs of `model` these sizes, in the order of its inputs or by their names, in place.

    Raises `ConfigError` where they are not sizes of its inputs: a fixed axis has its size, one name one size.
    """
    known = {t.name for t in model.graph.initializer}
    axes = {v.name: v.type.tensor_type.shape.dim for v in model.graph.input if v.name not in known}
    takes = {name: [d.dim_param or max(d.dim_value, 0) or "?" for d in dims] for name, dims in axes.items()}
    named = sizes if isinstance(sizes, Mapping) else dict(zip(axes, sizes, strict=False))
    symbols: dict[str | int, int] = {}
    fits = len(sizes) == len(axes) and named.keys() == axes.keys() and all(
        len(named[name]) == len(takes[name]) and all(
            size == (was if isinstance(was, int) else size if was == "?" else symbols.setdefault(was, size))
            for size, was in zip(named[name], takes[name], strict=True)) for name in axes)
    if not fits:
        given = sizes.items() if isinstance(sizes, Mapping) else zip([""] * len(sizes), sizes, strict=True)
        raise ConfigError("the example inputs do not fit those of the ONNX model",
                          given=", ".join(f"{name} {list(shape)}".strip() for name, shape in given),
                          allowed=", ".join(f"{name} [{', '.join(map(str, dims))}]" for name, dims in takes.items()),
                          fix="inputs of these sizes (names may have any), or export it again with others")
    for name, dims in axes.items():
        for dim, size in zip(dims, named[name], strict=True):
            dim.dim_value = size
    _forget_shapes(model)


def _forget_shapes(model: ModelProto) -> None:
    """Of all but the inputs: stale symbolic ones would contradict those."""
    del model.graph.value_info[:]
    for value in model.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")


def infer(model: ModelProto, known: dict[str, Shape] | None = None) -> dict[str, Shape]:
    """Tensor name → shape, by onnx's shape inference; `known` (say, from before fusion) is used and kept.

    Tensors whose shape cannot be told are left out.
    """
    import onnx

    found = {**(known or {}), **_declared(model)}
    if all(o in found for n in model.graph.node for o in n.output if o):
        return found
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    light.graph.CopyFrom(onnx.GraphProto(name="shapes", node=[_standard(n) for n in model.graph.node],
                                         input=model.graph.input, output=model.graph.output,
                                         value_info=model.graph.value_info))
    named = {v.name for v in [*light.graph.input, *light.graph.output, *light.graph.value_info]}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _LARGE:
            light.graph.initializer.append(tensor)
        elif tensor.name not in named:
            light.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    produced = {o for n in model.graph.node for o in n.output}
    for name, shape in (known or {}).items():
        if name in produced and name not in named:
            light.graph.value_info.append(
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(shape)))
    try:
        inferred = onnx.shape_inference.infer_shapes(light, strict_mode=False, data_prop=True)
    except Exception:  # inference is a convenience here: what it cannot tell, `run_for_shapes` can
        return found
    return {**_declared(inferred), **found}


def _standard(node: NodeProto) -> NodeProto:
    """The ONNX operator with the same output shape as one on blocked channels; any other node as it is."""
    import onnx

    if node.domain != NCHWC:
        return node
    plain = onnx.NodeProto(op_type=node.op_type, name=node.name, input=node.input[:3], output=node.output)
    plain.attribute.extend(a for a in node.attribute if a.name in _SPATIAL)
    if node.op_type.startswith("Reorder"):
        last = any(a.name == "channels_last" and a.i for a in node.attribute)
        order = [0, 3, 1, 2] if node.op_type == "ReorderInput" else [0, 2, 3, 1]
        plain.op_type = "Transpose" if last else "Identity"
        plain.attribute.extend([onnx.helper.make_attribute("perm", order)] * last)
    return plain


def _declared(model: ModelProto) -> dict[str, Shape]:
    graph = model.graph
    shapes: dict[str, Shape] = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(d.WhichOneof("value") == "dim_value" for d in tensor.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in tensor.shape.dim)
    return shapes


def run_for_shapes(model: ModelProto, names: list[str]) -> dict[str, Shape]:
    """Shapes of the tensors `names`, by running `model` once on made-up inputs; `UnmeasurableError` if that fails."""
    import onnx
    import onnxruntime as ort

    from autoprune.devices.agent.timing import make_inputs

    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    present = {o.name for o in wide.graph.output}
    wide.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in present)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(wide.SerializeToString(), options, providers=["CPUExecutionProvider"])
        inputs = make_inputs([(i.name, i.type, list(i.shape)) for i in session.get_inputs()])
        values = session.run(names, inputs)
    except Exception as error:  # onnxruntime raises a family of classes with no common public base
        raise UnmeasurableError("the shapes inside the model cannot be told", given=str(error).strip()[:400],
                                fix="export with fixed input sizes (only the batch may be dynamic)") from error
    return {n: tuple(getattr(v, "shape", ())) for n, v in zip(names, values, strict=True)}
