"""ONNX bytes → the nodes onnxruntime will execute (`read_nodes`).

A convolution with its batch norm and activation is one node there, which is why latency is priced on this graph and
not on the exported one. Only shapes are used: the model is not run, unless an operator hides its output's shape.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.devices.classes import INT8_CONVS, PRICED, classify, gathered
from autoprune.devices.node import Node
from autoprune.devices.runs import broadcast_kind, copied_run, reduce_kind, transpose_kind
from autoprune.devices.shapes import NCHWC, Shape, concretise, infer, run_for_shapes
from autoprune.errors import UnmeasurableError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["Node", "load_model", "read_nodes"]

_CONVS = frozenset({"Conv", "FusedConv", "ConvTranspose", *INT8_CONVS})
_RECURRENT = ("lstm", "gru")
_SECOND = {"QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3}  # where the second operand is; 1 elsewhere


def load_model(onnx_bytes: bytes) -> ModelProto:
    """Parse ONNX bytes with weights inside. Raises `UnmeasurableError` for anything else."""
    import onnx

    if not isinstance(onnx_bytes, bytes | bytearray) or not onnx_bytes:
        raise UnmeasurableError("an ONNX model must be given as non-empty bytes", given=type(onnx_bytes).__name__)
    try:
        model = onnx.load_model_from_string(bytes(onnx_bytes))
    except Exception as error:  # protobuf's decoding error and onnx's own share no public base
        raise UnmeasurableError("the bytes are not an ONNX model", given=f"{len(onnx_bytes)} bytes: {error}",
                                fix="export again with torch.onnx.export(..., dynamo=True, external_data=False)"
                                ) from error
    if not model.graph.node and not model.graph.output:
        raise UnmeasurableError("the ONNX model is empty", given=f"{len(onnx_bytes)} bytes",
                                fix="export again with torch.onnx.export(..., dynamo=True, external_data=False)")
    outside = [t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        raise UnmeasurableError("the ONNX model keeps weights outside itself, and only its own bytes are read",
                                given=", ".join(outside[:3]) + (" …" if len(outside) > 3 else ""),
                                fix="export with external_data=False, or "
                                    "onnx.save_model(..., save_as_external_data=False)")
    return model


def read_nodes(onnx_bytes: bytes, *, layout: bool = False) -> list[Node]:
    """The nodes of the optimised graph, in execution order.

    Batch and other symbolic dimensions are taken as 1. Optimisation is onnxruntime's own at ORT_ENABLE_EXTENDED
    (device-independent fusions); with `layout` at ORT_ENABLE_ALL, which adds the layout changes of the processor that
    this runs on (blocked channels on x86; the operators are then named `nchwc.Conv` and so on). Raises
    `UnmeasurableError` when the model does not parse, does not load in onnxruntime, or hides a shape inside it.
    """
    original = load_model(onnx_bytes)
    optimised = _optimise(onnx_bytes, layout)  # as it is: with symbolic sizes some fusions do not happen
    concretise(original)
    concretise(optimised)
    graph = optimised.graph
    shapes = infer(optimised, infer(original))  # a fused node's output keeps the name that it had before fusion
    missing = [o for n in graph.node for o in n.output if o and o not in shapes]
    if missing:
        shapes = {**shapes, **run_for_shapes(optimised, missing)}
    sizes = {t.name: tuple(t.dims) for t in graph.initializer}
    opset = max((o.version for o in optimised.opset_import if o.domain in ("", "ai.onnx")), default=0)
    nodes = [_node(proto, f"{proto.op_type}_{index}", shapes, sizes) for index, proto in enumerate(graph.node)]
    # average pools before opset 19 have a kernel in MLAS; later ones run a generic loop, 7 times as long
    return _placed([replace(n, cls="avgpool_18") if n.cls == "avgpool" and opset < 19 else n for n in nodes])


def _placed(nodes: Sequence[Node]) -> list[Node]:
    """The nodes, each told how long ago one like it ran."""
    last: dict[tuple[str, str], int] = {}
    out = []
    for index, node in enumerate(nodes):
        like = node.op, node.cls
        out.append(replace(node, since=index - last.get(like, index)))
        last[like] = index
    return out


def _optimise(onnx_bytes: bytes, layout: bool) -> ModelProto:
    import onnx
    import onnxruntime as ort

    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
        path = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(path)
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if layout else levels.ORT_ENABLE_EXTENDED
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        options.add_session_config_entry("session.disable_prepacking", "1")  # nothing is run here
        try:
            ort.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
            return onnx.load(str(path), load_external_data=False)
        except Exception as error:  # onnxruntime raises a family of classes with no common public base
            raise UnmeasurableError("onnxruntime cannot load the model", given=str(error).strip()[:400],
                                    fix="check it with onnx.checker.check_model") from error


def _node(proto: NodeProto, fallback: str, shapes: dict[str, Shape], weights: dict[str, Shape]) -> Node:
    activations = [shapes.get(i, ()) for i in proto.input if i and i not in weights]
    outs = tuple(shapes[o] for o in proto.output if o in shapes)
    read = sum(math.prod(weights[i]) for i in proto.input if i in weights)
    base: dict[str, Any] = {
        "name": proto.name or fallback, "op": "nchwc." * (proto.domain == NCHWC) + proto.op_type, "weights": read,
        "in_shapes": tuple(activations),
        "out_shapes": outs, "in_elems": sum(math.prod(s) for s in activations),
        "out_elems": sum(math.prod(s) for s in outs),
        "priced": proto.op_type in PRICED}
    attributes = {a.name: a for a in proto.attribute}
    operands = [shapes.get(i, ()) for i in proto.input]
    second = operands[_SECOND.get(proto.op_type, 1)] if len(operands) > _SECOND.get(proto.op_type, 1) else ()
    if proto.op_type in _CONVS and len(second) >= 3:
        return _conv(base, attributes, operands[0], second, outs)
    cls = classify(proto.op_type)
    if cls in ("gemm", "int8_gemm", "int8_dynamic", *_RECURRENT):
        if cls == "gemm" and not read and proto.op_type.endswith("MatMul"):
            cls = "matmul"  # both operands are activations: the second is packed anew in every inference
        return Node(cls=cls, macs=_matmul_macs(proto.op_type, attributes, operands, second, outs), **base)
    if cls == "free":
        base.update(in_elems=0, out_elems=0, weights=0)
    kernel: Shape = ()
    if "kernel_shape" in attributes and operands:  # a window wider than its input sees the input only
        kernel = tuple(min(k, side) for k, side in zip(attributes["kernel_shape"].ints, operands[0][2:], strict=False))
    cls, run = _moved(cls, proto.op_type, attributes, operands, outs)
    return Node(cls=cls, kernel=kernel, run=run, **base)


def _moved(cls: str, op: str, attributes: dict[str, Any], operands: list[Shape], outs: tuple[Shape, ...]) \
        -> tuple[str, int]:
    """The class refined by how elements move, and the length of the runs that they move in."""
    if not outs or not operands:
        return cls, 0
    if cls in ("add", "where", "pow"):
        return broadcast_kind(cls, operands, outs[0])
    if cls == "transpose":
        shape = operands[0]
        perm = list(attributes["perm"].ints) if "perm" in attributes else list(reversed(range(len(shape))))
        return transpose_kind(shape, perm)
    if op == "Gather":
        return cls, math.prod(operands[0][1:])
    if cls in ("copy", "pad", "int8_copy"):
        return cls, copied_run(operands, outs[0]) if op.endswith("Concat") else copied_run(outs, operands[0])
    if cls == "reduce":
        return reduce_kind(operands[0], outs[0]), 0
    if cls == "resize" and operands[0] == outs[0]:
        return "copy", math.prod(outs[0])
    mode = attributes["mode"].s.decode() if "mode" in attributes else "nearest"
    return (f"resize_{mode}" if cls == "resize" else cls), 0


def _conv(base: dict[str, Any], attributes: dict[str, Any], first: Shape, weight: Shape,
          outs: tuple[Shape, ...]) -> Node:
    groups = attributes["group"].i if "group" in attributes else 1
    stride = max(attributes["strides"].ints, default=1) if "strides" in attributes else 1
    dilation = max(attributes["dilations"].ints, default=1) if "dilations" in attributes else 1
    kernel, out = tuple(weight[2:]), outs[0]
    act = attributes["activation"].s.decode() if "activation" in attributes else ""
    if base["op"] == "ConvTranspose":  # a GEMM, then col2im: `gather` elements are added up
        gather = math.prod(first[2:]) * math.prod(weight[1:]) * groups * first[0]
        return Node(cls="convtranspose", macs=math.prod(first) * math.prod(weight[1:]), kernel=kernel, stride=stride,
                    groups=groups, gather=gather, **base)
    channels_in, channels_out = weight[1] * groups, weight[0]
    cls = classify(base["op"].removeprefix("nchwc."), channels_in=channels_in, channels_out=channels_out,
                   groups=groups, kernel=kernel, stride=stride, dilation=dilation)
    gather, rows = gathered(cls, channels_in, kernel, out)
    return Node(cls=cls, macs=math.prod(out) * math.prod(weight[1:]), kernel=kernel, stride=stride, groups=groups,
                gather=gather, rows=rows,
                activation=act, **base)


def _matmul_macs(op: str, attributes: dict[str, Any], operands: list[Shape], second: Shape,
                 outs: tuple[Shape, ...]) -> int:
    first = operands[0] if operands and operands[0] else (1,)
    if op == "Einsum" and "equation" in attributes:
        return _einsum_macs(attributes["equation"].s.decode(), operands, outs)
    if op.endswith("Gemm") or "MatMul" in op:
        inner = first[-2] if "transA" in attributes and attributes["transA"].i and len(first) > 1 else first[-1]
        return math.prod(outs[0]) * inner
    if op in ("LSTM", "GRU", "RNN"):  # X (steps, batch, in); W and R are (directions, gates*hidden, ·)
        weights = sum(math.prod(s) for s in operands[1:3])
        return math.prod(first[:-1]) * weights
    return math.prod(first[:-1]) * math.prod(second)  # fused attention: its projections


def _einsum_macs(equation: str, operands: list[Shape], outs: tuple[Shape, ...]) -> int:
    """One multiply-add per combination of labels; an ellipsis counts as the output's leading sides."""
    sides: dict[str, int] = {}
    for labels, shape in zip(equation.replace(" ", "").split("->")[0].split(","), operands, strict=False):
        if "..." in labels:
            return math.prod(outs[0]) * max((s[-1] for s in operands if s), default=1)
        sides.update(zip(labels, shape, strict=False))
    return math.prod(sides.values())
