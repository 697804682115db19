"""Price classes: which operators cost alike. Counting onnxruntime's kernels one by one says which do."""

from __future__ import annotations

import math
from collections.abc import Mapping

__all__ = ["FREE", "GEMMS", "INT8_CONVS", "OPERATOR_CLASS", "PRICED", "classify", "gathered"]

Shape = tuple[int, ...]

FREE = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Constant", "Shape", "Size",
                  "ConstantOfShape", "Range"})
"""Operators that only rename memory (or act on shapes): onnxruntime aliases the buffer."""

_BY_CLASS = {
    "relu": "Relu Neg Abs Clip LeakyRelu PRelu Sign Floor Ceil Round Not ThresholdedRelu Reciprocal IsNaN",
    "sigmoid": "Sigmoid", "tanh": "Tanh", "erf": "Erf", "exp": "Exp", "elu": "Elu Selu Celu Softsign Mish",
    "log": "Log", "softplus": "Softplus", "pow": "Pow", "sqrt": "Sqrt", "hardsigmoid": "HardSigmoid HardSwish",
    "silu": "QuickGelu Swish", "gelu": "Gelu BiasGelu", "fastgelu": "FastGelu", "cast": "Cast", "where": "Where",
    "add": "Add Sub Mul Div Min Max Sum Mean And Or Xor Equal Greater GreaterOrEqual Less LessOrEqual Mod",
    "softmax": "Softmax LogSoftmax",
    "layernorm": "LayerNormalization SkipLayerNormalization EmbedLayerNormalization",
    "rmsnorm": "SimplifiedLayerNormalization RMSNormalization SkipSimplifiedLayerNormalization LpNormalization",
    "instancenorm": "InstanceNormalization GroupNormalization GroupNorm SkipGroupNorm MeanVarianceNormalization",
    "batchnorm": "BatchNormalization",
    "maxpool": "MaxPool", "avgpool": "AveragePool LpPool",
    "reduce": "GlobalAveragePool GlobalMaxPool ReduceMean ReduceSum ReduceMax ReduceMin ReduceL2 ReduceSumSquare "
              "ReduceProd ArgMax ArgMin",
    "pad": "Pad",
    "copy": "Concat Split Slice Gather Expand Tile GatherElements GatherND ScatterND DepthToSpace SpaceToDepth",
    "transpose": "Transpose", "resize": "Resize Upsample",
    "lstm": "LSTM RNN", "gru": "GRU", "convtranspose": "ConvTranspose",
    "int8_gemm": "QGemm QLinearMatMul MatMulInteger MatMulIntegerToFloat QAttention",
    "int8_dynamic": "DynamicQuantizeMatMul", "quantize": "QuantizeLinear DynamicQuantizeLinear",
    "dequantize": "DequantizeLinear", "int8_add": "QLinearAdd QLinearMul",
    "int8_table": "QLinearSigmoid QLinearLeakyRelu QLinearSoftmax",
    "int8_reduce": "QLinearGlobalAveragePool QLinearAveragePool QLinearReduceMean", "int8_copy": "QLinearConcat",
}
OPERATOR_CLASS: Mapping[str, str] = {op: cls for cls, ops in _BY_CLASS.items() for op in ops.split()}

GEMMS = frozenset({"Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Attention", "MultiHeadAttention", "Einsum",
                   "MatMulNBits"})
"""Operators whose work is multiply-adds: priced by them, as a GEMM."""

INT8_CONVS = frozenset({"QLinearConv", "ConvInteger"})

PRICED = frozenset({
    "Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Relu", "Neg", "Clip", "LeakyRelu", "Abs",
    "Floor", "Reciprocal", "IsNaN", "Cast", "Sigmoid", "Tanh", "Erf", "Exp", "Elu", "Log", "Softplus", "Pow", "Sqrt",
    "HardSigmoid", "HardSwish", "QuickGelu", "Gelu", "FastGelu", "Add", "Sub", "Mul", "Div", "Max", "Where", "Softmax",
    "LayerNormalization", "SkipLayerNormalization", "SimplifiedLayerNormalization", "InstanceNormalization",
    "BatchNormalization", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Concat", "Split", "Slice",
    "Gather", "Pad", "Transpose", "Resize", "LSTM", "GRU", "ConvTranspose", "QLinearConv", "QGemm", "QLinearMatMul",
    "DynamicQuantizeMatMul", "QuantizeLinear", "DequantizeLinear", "QLinearAdd", "QLinearMul", "QLinearSigmoid",
    "QLinearLeakyRelu", "QLinearGlobalAveragePool", "QLinearConcat", *FREE})
"""Operators whose instructions were counted themselves. Anything else borrows a relative's price, and the answer says
so."""


def classify(op: str, *, channels_in: int = 0, channels_out: int = 0, groups: int = 1, kernel: Shape = (),
             stride: int = 1, dilation: int = 1) -> str:
    """The price class of an operator.

    Convolutions: "depthwise" is 3x3 stride 1 (a kernel of its own in MLAS, about 2 instructions per multiply-add);
    "depthwise_other" every other depthwise shape (im2col per channel, 4–10); "stem" has at most 4 input channels.
    """
    if op in INT8_CONVS:
        if groups > 1:
            return "int8_depthwise" if groups == channels_in else "int8_grouped"
        return "int8_pointwise" if math.prod(kernel) == 1 and stride == 1 else "int8_conv"
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


def gathered(cls: str, channels_in: int, kernel: Shape, out: Shape) -> tuple[int, int]:
    """How many elements im2col lays out for a convolution of price class `cls`, and in how many contiguous runs.

    (0, 0) where there is none: a pointwise one is a GEMM on its input, and a depthwise one has a kernel of its own.
    """
    if cls.removeprefix("int8_") in ("pointwise", "depthwise"):
        return 0, 0
    count = out[0] * channels_in * math.prod(kernel) * math.prod(out[2:])
    return count, count // max(out[-1], 1)
