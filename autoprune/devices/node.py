"""`Node`: one operator of the graph after onnxruntime's own optimisation, and the price class it belongs to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["FREE", "GEMMS", "OPERATOR_CLASS", "PRICED", "Node", "classify"]

Shape = tuple[int, ...]

FREE = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Constant", "Shape", "Size",
                  "ConstantOfShape", "Range"})
"""Operators that only rename memory (or act on shapes): onnxruntime aliases the buffer."""

_BY_CLASS = {
    "relu": "Relu Neg Abs Clip LeakyRelu PRelu Sign Floor Ceil Round Not ThresholdedRelu Cast Reciprocal",
    "sigmoid": "Sigmoid", "tanh": "Tanh", "erf": "Erf", "exp": "Exp Log Pow Softplus Elu Selu Celu Softsign Mish",
    "sqrt": "Sqrt", "hardsigmoid": "HardSigmoid", "hardswish": "HardSwish", "silu": "QuickGelu Swish",
    "gelu": "Gelu FastGelu BiasGelu",
    "add": "Add Sub Mul Div Min Max Sum Mean Where And Or Xor Equal Greater GreaterOrEqual Less LessOrEqual Mod",
    "softmax": "Softmax LogSoftmax",
    "layernorm": "LayerNormalization SkipLayerNormalization SimplifiedLayerNormalization RMSNormalization "
                 "SkipSimplifiedLayerNormalization EmbedLayerNormalization InstanceNormalization GroupNormalization "
                 "GroupNorm SkipGroupNorm LpNormalization MeanVarianceNormalization",
    "batchnorm": "BatchNormalization",
    "maxpool": "MaxPool", "avgpool": "AveragePool LpPool",
    "reduce": "GlobalAveragePool GlobalMaxPool ReduceMean ReduceSum ReduceMax ReduceMin ReduceL2 ReduceSumSquare "
              "ReduceProd ArgMax ArgMin",
    "copy": "Concat Split Slice Gather Pad Expand Tile GatherElements GatherND ScatterND DepthToSpace SpaceToDepth",
    "transpose": "Transpose", "resize": "Resize Upsample",
}
OPERATOR_CLASS: Mapping[str, str] = {op: cls for cls, ops in _BY_CLASS.items() for op in ops.split()}

GEMMS = frozenset({
    "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Attention", "MultiHeadAttention", "LSTM", "GRU", "RNN",
    "ConvTranspose", "Einsum", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
    "QGemm", "QAttention", "MatMulNBits"})
"""Operators whose work is multiply-adds: priced by them, as a GEMM."""

PRICED = frozenset({
    "Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Relu", "Neg", "Clip", "Sigmoid", "Tanh", "Erf",
    "Exp", "Sqrt", "HardSigmoid", "HardSwish", "QuickGelu", "Gelu", "Add", "Sub", "Mul", "Softmax",
    "LayerNormalization", "SkipLayerNormalization", "BatchNormalization", "MaxPool", "AveragePool",
    "GlobalAveragePool", "ReduceMean", "Concat", "Split", "Slice", "Gather", "Transpose", "Resize", *FREE})
"""Operators whose instructions were counted themselves (Split, Slice and Gather as the copies that they are, Sub as
Add, ReduceMean as GlobalAveragePool). Anything else borrows a relative's price, and the answer says so."""


@dataclass(frozen=True)
class Node:
    """One operator of the optimised graph.

    Units: elements (not bytes) for `in_elems` (activations read), `out_elems`, `weights` (parameters read);
    multiply-adds for `macs`. `cls` is the price class ("conv3x3", "pointwise", "stem", "conv", "grouped",
    "depthwise", "depthwise_other", "gemm", an elementwise class, "free" or "unknown"). `activation` is the class of
    the activation fused into this node, or "". `gather` is the number of elements that im2col lays out, `rows` the
    number of contiguous runs they come in; both 0 where there is no im2col.
    """

    name: str
    op: str
    cls: str
    macs: int = 0
    in_elems: int = 0
    out_elems: int = 0
    weights: int = 0
    in_shapes: tuple[Shape, ...] = ()
    out_shapes: tuple[Shape, ...] = ()
    kernel: Shape = ()
    stride: int = 1
    groups: int = 1
    gather: int = 0
    rows: int = 0
    activation: str = ""
    priced: bool = True
    features: Mapping[str, float] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", _features(self))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values (the derived `features` are left out)."""
        data = asdict(self)
        del data["features"]
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Node:
        """The inverse of `to_json`."""
        shapes = {k: tuple(tuple(s) for s in data.get(k, ())) for k in ("in_shapes", "out_shapes")}
        return cls(**{**data, **shapes, "kernel": tuple(data.get("kernel", ()))})


def _features(node: Node) -> dict[str, float]:
    """The quantities that `aarch64_costs.json` multiplies its coefficients with, by name."""
    last = node.out_shapes[0][-1] if node.out_shapes and node.out_shapes[0] else 1
    out_h = node.out_shapes[0][-2] if node.out_shapes and len(node.out_shapes[0]) >= 4 else 1
    strided = node.stride > 1
    window = math.prod(node.kernel) if node.kernel else 1
    vector = node.cls == "gemm" and 0 < node.macs <= node.weights  # one row: every weight is read once
    return {"one": 1.0, "macs": float(node.macs), "in": float(node.in_elems), "out": float(node.out_elems),
            "weights": float(node.weights), "gather1": 0.0 if strided else float(node.gather),
            "gather2": float(node.gather) if strided else 0.0, "rows": float(node.rows),
            "groups": float(node.groups), "group_rows": float(node.groups * out_h),
            "gemv_weights": float(node.weights) if vector else 0.0,
            "window": float(node.out_elems * window), "lines": node.out_elems / max(last, 1)}


def classify(op: str, *, channels_in: int = 0, channels_out: int = 0, groups: int = 1, kernel: Shape = (),
             stride: int = 1, dilation: int = 1) -> str:
    """The price class of an operator.

    Convolutions: "depthwise" is 3x3 stride 1 (a kernel of its own in MLAS, 2.2 instructions per multiply-add);
    "depthwise_other" every other depthwise shape (im2col per channel, 4–10); "stem" has at most 4 input channels.
    """
    if op in ("Conv", "FusedConv"):
        if groups > 1 and groups == channels_in:
            plain = kernel == (3, 3) and stride == dilation == 1 and channels_out == channels_in
            return "depthwise" if plain else "depthwise_other"
        if groups > 1:
            return "grouped"
        if channels_in <= 4:
            return "stem"
        if math.prod(kernel) == 1 and stride == 1:
            return "pointwise"
        return "conv3x3" if kernel == (3, 3) and stride == 1 else "conv"
    if op in GEMMS:
        return "gemm"
    return "free" if op in FREE else OPERATOR_CLASS.get(op, "unknown")
