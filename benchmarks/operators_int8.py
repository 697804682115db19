"""Quantised operators to count one at a time, as onnxruntime's static and dynamic quantisation leave them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto
from operators import floats, model

__all__ = ["INT8_OPERATORS"]

U8 = TensorProto.UINT8
_SCALE, _ZERO, _SIGNED = np.float32(0.02), np.uint8(128), np.int8(0)
_RNG = np.random.default_rng(1)


def signed(*shape: int) -> np.ndarray:
    """int8 weights."""
    return _RNG.integers(-127, 127, shape, dtype=np.int8)


def qconv(ci: int, co: int, k: int, s: int, hw: int, g: int = 1) -> bytes:
    """uint8 activations, int8 weights, int32 bias."""
    pad = 0 if s == k else k // 2
    scales = np.full(co, 0.01, np.float32)
    return model("QLinearConv", [(1, ci, hw, hw)], (_SCALE, _ZERO, signed(co, ci // g, k, k), scales,
                 np.zeros(co, np.int8), _SCALE, _ZERO, np.zeros(co, np.int32)), kinds=(U8,), out_kind=U8, group=g,
                 kernel_shape=[k, k], strides=[s, s], pads=[pad] * 4)


def qgemm(m: int, k: int, n: int) -> bytes:
    """A quantised fully connected layer."""
    return model("QGemm", [(m, k)], (_SCALE, _ZERO, signed(n, k), _SCALE, _SIGNED, np.zeros(n, np.int32), _SCALE,
                                     _ZERO),
                 kinds=(U8,), out_kind=U8, domain="com.microsoft", transB=1)


def qmatmul(m: int, k: int, n: int) -> bytes:
    """A quantised product with constant weights."""
    return model("QLinearMatMul", [(m, k)], (_SCALE, _ZERO, signed(k, n), _SCALE, _SIGNED, _SCALE, _ZERO), kinds=(U8,),
                 out_kind=U8)


def dynamic(m: int, k: int, n: int) -> bytes:
    """float activations, int8 weights: what dynamic quantisation of a linear layer becomes."""
    return model("DynamicQuantizeMatMul", [(m, k)], (signed(k, n), _SCALE, _SIGNED, floats(n)), domain="com.microsoft")


def qbinary(op: str, *shape: int) -> bytes:
    """A quantised sum or product of two activations."""
    names = ["x0", "w0", "w1", "x1", "w0", "w1", "w0", "w1"]
    built = model(op, [shape, shape], (_SCALE, _ZERO), kinds=(U8, U8), out_kind=U8, domain="com.microsoft")
    return _renamed(built, names)


def _renamed(built: bytes, names: list[str]) -> bytes:
    import onnx

    proto = onnx.load_model_from_string(built)
    del proto.graph.node[0].input[:]
    proto.graph.node[0].input.extend(names)
    data: bytes = proto.SerializeToString()
    return data


def qunary(op: str, *shape: int, **attributes: Any) -> bytes:
    """A quantised pool or activation."""
    return model(op, [shape], (_SCALE, _ZERO, _SCALE, _ZERO), kinds=(U8,), out_kind=U8, domain="com.microsoft",
                 **attributes)


def qconcat(*shape: int) -> bytes:
    """Two quantised inputs side by side."""
    built = model("QLinearConcat", [shape, shape], (_SCALE, _ZERO), kinds=(U8, U8), out_kind=U8, domain="com.microsoft",
                  axis=1)
    return _renamed(built, ["w0", "w1", "x0", "w0", "w1", "x1", "w0", "w1"])


INT8_OPERATORS: dict[str, Callable[[], bytes]] = {}


def add(make: Callable[..., bytes], *cases: tuple[Any, ...], **fixed: Any) -> None:
    """Register `make` for every case; the name lists the arguments."""
    label = fixed.pop("label", make.__name__)
    for case in cases:
        INT8_OPERATORS[" ".join([label, *map(str, case)])] = lambda case=case: make(*case, **fixed)


add(qconv, (16, 32, 3, 1, 20), (64, 128, 3, 1, 14), (256, 256, 3, 1, 7), (384, 320, 3, 1, 4), (96, 24, 3, 1, 40),
    (48, 96, 3, 2, 28), (128, 256, 3, 2, 14), (32, 48, 5, 1, 16), (3, 32, 3, 2, 96), (3, 64, 7, 2, 64),
    (64, 128, 1, 2, 20), (64, 128, 2, 2, 14))
add(qconv, (16, 96, 1, 1, 40), (96, 24, 1, 1, 28), (144, 40, 1, 1, 14), (512, 128, 1, 1, 14), (320, 1280, 1, 1, 5),
    (480, 120, 1, 1, 1), (64, 256, 1, 1, 20), label="qpointwise")
add(lambda c, k, s, hw: qconv(c, c, k, s, hw, c), (32, 3, 1, 80), (144, 3, 1, 28), (480, 3, 1, 10), (672, 3, 1, 5),
    (96, 3, 2, 56), (240, 3, 2, 14), (72, 5, 1, 28), (480, 5, 1, 10), (96, 5, 2, 28), (96, 7, 1, 14),
    label="qdepthwise")
add(qconv, (64, 64, 3, 1, 28, 8), (192, 192, 3, 1, 10, 8), (128, 128, 3, 2, 14, 16), label="qgrouped")
add(qgemm, (1, 512, 1000), (10, 96, 384), (64, 192, 576), (197, 96, 96))
add(qmatmul, (1, 512, 1000), (10, 96, 384), (64, 192, 576), (197, 96, 96))
add(dynamic, (1, 512, 1000), (10, 96, 384), (64, 192, 576), (197, 96, 96))
add(lambda *s: model("QuantizeLinear", [s], (_SCALE, _ZERO), out_kind=U8), (1, 24, 22, 22), (1, 48, 60, 60),
    label="quantize")
add(lambda *s: model("DequantizeLinear", [s], (_SCALE, _ZERO), kinds=(U8,)), (1, 24, 22, 22), (1, 48, 60, 60),
    label="dequantize")
add(lambda *s: model("Concat", [s, s], kinds=(U8, U8), out_kind=U8, axis=1), (1, 32, 28, 28), label="concat8")
for op in ("QLinearAdd", "QLinearMul"):
    add(qbinary, (op, 1, 24, 22, 22), (op, 1, 48, 60, 60))
for op in ("QLinearSigmoid", "QLinearLeakyRelu"):
    add(qunary, (op, 1, 24, 22, 22), (op, 1, 48, 60, 60))
add(qunary, ("QLinearGlobalAveragePool", 1, 64, 28, 28), ("QLinearGlobalAveragePool", 1, 512, 7, 7))
add(qconcat, (1, 32, 28, 28), (1, 64, 10, 10))
add(lambda c, hw, k, s: model("MaxPool", [(1, c, hw, hw)], kinds=(U8,), out_kind=U8, kernel_shape=[k, k],
                              strides=[s, s]),
    (64, 28, 2, 2), (32, 56, 3, 2), label="maxpool8")
