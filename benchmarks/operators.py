"""The operators whose instructions are counted one at a time: shapes chosen to span a class, none taken from a net.

`OPERATORS` maps a name to a function that makes the ONNX model. The numbers in a name are the arguments that made it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

__all__ = ["OPERATORS"]

F, INT = TensorProto.FLOAT, TensorProto.INT64
_RNG = np.random.default_rng(0)


def model(op: str, inputs: list[tuple[int, ...]], weights: tuple[Any, ...] = (), outputs: int = 1, domain: str = "",
          kinds: tuple[int, ...] = (), out_kind: int = F, opset: int = 20, **attributes: Any) -> bytes:
    """One node: activations of the given shapes first, then weights (arrays, or None for an input left out)."""
    names = [f"x{i}" for i in range(len(inputs))]
    constants = {f"w{i}": np.asarray(w) for i, w in enumerate(weights) if w is not None}
    ins = [*names, *(f"w{i}" if w is not None else "" for i, w in enumerate(weights))]
    outs = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, ins, outs, domain=domain, name=op, **attributes)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info(n, (kinds + (F,) * 9)[i], s)
                      for i, (n, s) in enumerate(zip(names, inputs, strict=True))],
        [helper.make_tensor_value_info(o, out_kind, None) for o in outs],
        [numpy_helper.from_array(w, n) for n, w in constants.items()])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def floats(*shape: int) -> np.ndarray:
    """Small random weights."""
    return (_RNG.standard_normal(shape) * 0.05).astype(np.float32)


def conv(ci: int, co: int, k: int, s: int, hw: int, g: int = 1, act: str = "", bias: bool = True) -> bytes:
    """A convolution; padding keeps the side, except for patches (stride = kernel)."""
    pad = 0 if s == k else k // 2
    extra: dict[str, Any] = {"domain": "com.microsoft", "activation": act} if act else {}
    if act == "Clip":
        extra["activation_params"] = [0.0, 6.0]
    weights = (floats(co, ci // g, k, k), *([floats(co)] if bias else []))
    return model("FusedConv" if act else "Conv", [(1, ci, hw, hw)], weights,
                 kernel_shape=[k, k], strides=[s, s], pads=[pad] * 4, group=g, **extra)


def gemm(m: int, k: int, n: int) -> bytes:
    """A fully connected layer."""
    return model("Gemm", [(m, k)], (floats(n, k), floats(n)), transB=1)


def matmul(b: int, m: int, k: int, n: int) -> bytes:
    """A batched product of two activations, as in attention."""
    return model("MatMul", [(b, m, k), (b, k, n)])


def recurrent(op: str, gates: int, steps: int, size: int, hidden: int) -> bytes:
    """One direction of an LSTM (4 gates) or GRU (3)."""
    return model(op, [(steps, 1, size)], (floats(1, gates * hidden, size), floats(1, gates * hidden, hidden),
                                          floats(1, 2 * gates * hidden)), hidden_size=hidden)


def transposed(ci: int, co: int, k: int, s: int, hw: int) -> bytes:
    """A transposed convolution."""
    return model("ConvTranspose", [(1, ci, hw, hw)], (floats(ci, co, k, k),), strides=[s, s], kernel_shape=[k, k])


def pool(op: str, c: int, hw: int, k: int, s: int, opset: int = 20) -> bytes:
    """A padded pool."""
    pad = (k // 2) if s == 1 or k % 2 else 0
    return model(op, [(1, c, hw, hw)], kernel_shape=[k, k], strides=[s, s], pads=[pad] * 4, opset=opset)


def chain(op: str, count: int) -> bytes:
    """So many tiny nodes in a row: what a call costs, and what a node costs whatever its size."""
    nodes = [helper.make_node(op, [f"t{i}", *(["w"] if op == "Reshape" else [])], [f"t{i + 1}"], name=f"n{i}")
             for i in range(count)]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("t0", F, (4, 4))],
                              [helper.make_tensor_value_info(f"t{count}", F, None)],
                              [numpy_helper.from_array(np.array([2, 8], np.int64), "w")] if op == "Reshape" else [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def norm(op: str, lines: int, size: int) -> bytes:
    """Normalisation of every line."""
    if op == "SkipLayerNormalization":
        return model(op, [(1, lines, size)] * 2, (floats(size), floats(size)), domain="com.microsoft")
    if op == "SimplifiedLayerNormalization":
        return model(op, [(1, lines, size)], (floats(size),), axis=-1)
    return model(op, [(1, lines, size)], (floats(size), floats(size)), axis=-1)


def resize(mode: str, c: int, hw: int, how: str) -> bytes:
    """Twice the side."""
    return model("Resize", [(1, c, hw, hw)], (None, np.array([1, 1, 2, 2], np.float32)), mode=mode,
                 coordinate_transformation_mode=how, nearest_mode="floor")


def reduce(*shape: int, axes: tuple[int, ...] = (2, 3)) -> bytes:
    """A mean."""
    return model("ReduceMean", [shape], (np.array(axes, np.int64),), keepdims=1)


def split(axis: int, *shape: int) -> bytes:
    """Two equal parts."""
    return model("Split", [shape], outputs=2, axis=axis, num_outputs=2)


def cut(*shape: int) -> bytes:
    """All but the first of the second axis."""
    return model("Slice", [shape], tuple(np.array([v], np.int64) for v in (1, 1 << 40, 1, 1)))


def gather(rows: int, n: int, width: int) -> bytes:
    """Embedding look-up."""
    node = helper.make_node("Gather", ["w", "x"], ["y"], name="Gather")
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", INT, (1, n))],
                              [helper.make_tensor_value_info("y", F, None)],
                              [numpy_helper.from_array(floats(rows, width), "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


OPERATORS: dict[str, Callable[[], bytes]] = {}


def add(make: Callable[..., bytes], *cases: tuple[Any, ...], **fixed: Any) -> None:
    """Register `make` for every case; the name lists the arguments."""
    label = fixed.pop("label", make.__name__)
    for case in cases:
        OPERATORS[" ".join([label, *(str(v).replace(", ", "x").replace(",", "") for v in case)])] = \
            lambda case=case: make(*case, **fixed)


SIDES = ((1, 24, 22, 22), (1, 48, 60, 60))
add(conv,  # in, out, kernel, stride, side
    (64, 64, 3, 1, 14), (16, 32, 3, 1, 20), (40, 40, 3, 1, 28), (64, 128, 3, 1, 14), (128, 96, 3, 1, 10),
    (256, 256, 3, 1, 7),
    (384, 320, 3, 1, 5), (512, 512, 3, 1, 3), (96, 24, 3, 1, 56), (16, 16, 3, 1, 62), (320, 320, 3, 1, 4),
    (16, 32, 3, 2, 40), (48, 96, 3, 2, 28), (128, 256, 3, 2, 14), (256, 192, 3, 2, 9), (32, 48, 3, 2, 56),
    (384, 384, 3, 2, 6), (32, 48, 5, 1, 16), (64, 64, 5, 2, 20), (32, 32, 7, 1, 14), (64, 128, 2, 2, 14),
    (192, 384, 2, 2, 6), (32, 64, 8, 8, 64), (64, 128, 1, 2, 20), (256, 512, 1, 2, 14), (512, 256, 1, 2, 7),
    (24, 48, 1, 2, 44), (3, 32, 3, 2, 112), (3, 16, 3, 1, 48), (3, 64, 7, 2, 96), (1, 8, 5, 1, 28), (3, 24, 3, 2, 64),
    (3, 192, 16, 16, 112), (3, 64, 4, 4, 64), (1, 96, 4, 4, 24))
add(conv,  # … groups
    (64, 64, 3, 1, 28, 16), (96, 96, 3, 1, 14, 6), (128, 128, 3, 2, 28, 16), (256, 256, 3, 1, 7, 32),
    (320, 320, 3, 2, 14, 8), (192, 192, 3, 1, 7, 8), (64, 64, 3, 2, 28, 16), (480, 480, 3, 2, 10, 20),
    (400, 400, 3, 1, 5, 25), (64, 64, 1, 1, 14, 4), (24, 48, 3, 1, 20, 4), label="grouped")
add(conv,
    (16, 96, 1, 1, 56), (24, 144, 1, 1, 28), (96, 24, 1, 1, 28), (144, 40, 1, 1, 14), (240, 80, 1, 1, 14),
    (64, 256, 1, 1, 28), (512, 128, 1, 1, 14), (960, 160, 1, 1, 7), (320, 1280, 1, 1, 7), (1024, 2048, 1, 1, 4),
    (48, 12, 1, 1, 1), (480, 120, 1, 1, 1), (32, 8, 1, 1, 1), (8, 32, 1, 1, 1), (120, 480, 1, 1, 1),
    (1152, 48, 1, 1, 1), (64, 1000, 1, 1, 1), (128, 128, 1, 1, 3), (256, 64, 1, 1, 5), (64, 64, 1, 1, 11),
    (80, 200, 1, 1, 9), (1024, 512, 1, 1, 6), (32, 64, 1, 1, 72), (640, 640, 1, 1, 2), (32, 64, 1, 1, 28),
    label="pointwise")
add(lambda c, hw: conv(c, c, 3, 1, hw, c),
    (32, 112), (64, 56), (96, 28), (144, 14), (384, 7), (672, 6), (512, 5), (768, 4), (512, 3), (48, 20), (200, 10),
    (16, 90), (300, 12), label="depthwise")
add(lambda c, k, s, hw: conv(c, c, k, s, hw, c),
    (32, 3, 2, 112), (96, 3, 2, 56), (144, 3, 2, 28), (240, 3, 2, 14), (672, 3, 2, 7), (480, 3, 2, 10), (320, 3, 2, 20),
    (72, 5, 1, 28), (120, 5, 1, 14), (480, 5, 1, 10), (960, 5, 1, 7), (300, 5, 1, 5), (96, 5, 2, 28), (40, 5, 2, 56),
    (672, 5, 2, 14), (96, 7, 1, 14), (192, 7, 1, 7), (48, 7, 1, 40), (256, 7, 1, 10), (384, 7, 1, 5), (24, 3, 2, 72),
    label="depthwise_other")
add(conv, *((32, 64, 1, 1, 28, 1, a) for a in ("Relu", "Sigmoid", "Tanh", "Clip")),
    (64, 64, 3, 1, 14, 1, "Relu"), label="fused")
add(conv, (64, 64, 3, 1, 28), (256, 256, 3, 1, 7), (48, 96, 3, 2, 28), (32, 48, 5, 1, 16), (3, 32, 3, 2, 96),
    (64, 64, 3, 1, 28, 8), (24, 144, 1, 1, 28), (96, 24, 1, 1, 28), (64, 256, 1, 1, 20), (512, 128, 1, 1, 14),
    (320, 640, 1, 1, 7), (480, 120, 1, 1, 1), (96, 96, 3, 1, 28, 96), (384, 384, 3, 1, 7, 384),
    (144, 144, 3, 2, 28, 144),
    (480, 480, 5, 1, 10, 480), (192, 192, 7, 1, 7, 192), label="nobias", bias=False)
add(gemm, (1, 512, 1000), (1, 1280, 1000), (1, 128, 10), (1, 64, 64), (4, 256, 256), (10, 96, 384), (50, 128, 512),
    (128, 256, 256), (197, 192, 576), (300, 64, 64), (49, 384, 96), (7, 64, 100), (2, 320, 320), (600, 24, 24))
add(matmul, (4, 50, 32, 50), (4, 50, 50, 32), (12, 128, 64, 128), (2, 200, 16, 200), (8, 16, 16, 16),
    (1, 300, 48, 300), (64, 20, 12, 20), (3, 128, 128, 40), (16, 49, 24, 49), (16, 49, 49, 24), (1, 1000, 64, 16))
add(recurrent, ("LSTM", 4, 20, 64, 64), ("LSTM", 4, 30, 128, 256), ("LSTM", 4, 12, 300, 128), ("LSTM", 4, 60, 32, 32),
    ("GRU", 3, 20, 64, 64), ("GRU", 3, 30, 128, 256), ("GRU", 3, 12, 300, 128), ("GRU", 3, 60, 32, 32))
add(transposed, (64, 32, 2, 2, 14), (32, 32, 4, 2, 14), (128, 64, 2, 2, 8), (48, 24, 3, 1, 20), (96, 96, 3, 2, 7))
for unary in ["Relu", "Neg", "Sigmoid", "Tanh", "Erf", "Exp", "Log", "Sqrt", "Reciprocal", "HardSigmoid", "LeakyRelu",
              "Elu", "Softplus", "Clip", "Abs", "Floor"]:
    add(lambda op, s: model(op, [s]), *((unary, s) for s in SIDES), label="unary")
for fused in ("Gelu", "FastGelu"):
    add(lambda op, s: model(op, [s], domain="com.microsoft"), *((fused, s) for s in SIDES), label="unary")
add(lambda s: model("QuickGelu", [s], domain="com.microsoft", alpha=1.0), *((s,) for s in SIDES), label="silu")
add(lambda s: model("IsNaN", [s], out_kind=TensorProto.BOOL), *((s,) for s in SIDES), label="isnan")
add(lambda s: model("Pow", [s], (np.float32(2),)), *((s,) for s in SIDES), label="pow")
add(lambda s: model("Cast", [s], to=F, kinds=(INT,)), *((s,) for s in SIDES), label="cast")
for binary in ("Add", "Sub", "Mul", "Div", "Max"):
    add(lambda op, a, b: model(op, [a, b]), *((binary, s, s) for s in SIDES), label="binary")
add(lambda op, a, b: model(op, [a, b]),
    ("Mul", (1, 64, 28, 28), (1, 64, 1, 1)), ("Mul", (1, 256, 7, 7), (1, 256, 1, 1)),
    ("Add", (1, 800, 3, 3), (800, 1, 1)),
    ("Mul", (1, 900, 44), (44,)), ("Add", (1, 196, 192), (192,)), ("Mul", (1, 50, 768), (768,)),
    ("Add", (8, 4, 50, 50), (1, 4, 50, 50)), ("Mul", (1, 24, 60, 60), (1,)), ("Mul", (1, 40, 20, 20), (1, 1, 20, 20)),
    ("Div", (1, 100, 100), (1, 100, 1)), label="broadcast")
add(lambda s: model("Where", [s, s], (np.float32(0),), kinds=(TensorProto.BOOL,)), ((1, 4, 50, 50),),
    ((1, 12, 90, 90),),
    label="where")
add(lambda *s: model("Softmax", [s], axis=-1), (4, 196, 196), (4, 50, 50), (1, 1000), (64, 128), (3000, 8), (600, 20),
    label="softmax")
for kind in ("LayerNormalization", "SkipLayerNormalization", "SimplifiedLayerNormalization"):
    add(norm, (kind, 196, 192), (kind, 784, 40), (kind, 50, 768), (kind, 1000, 24))
add(lambda c, hw: model("InstanceNormalization", [(1, c, hw, hw)], (floats(c), floats(c)), epsilon=1e-5),
    (64, 28), (256, 7), (1, 64), label="instancenorm")
add(lambda c, hw: model("BatchNormalization", [(1, c, hw, hw)], (*(floats(c) for _ in range(3)), floats(c) ** 2 + 1)),
    (64, 28), (256, 7), (24, 60), label="batchnorm")
for kind in ("MaxPool", "AveragePool"):
    add(pool, (kind, 64, 28, 2, 2), (kind, 32, 56, 3, 2), (kind, 48, 14, 3, 1), (kind, 128, 7, 5, 1),
    (kind, 16, 60, 2, 2),
        (kind, 96, 20, 3, 2))
add(pool, *(("AveragePool", *shape, 18) for shape in ((64, 28, 2, 2), (32, 56, 3, 2), (48, 14, 3, 1), (128, 7, 5, 1))))
add(chain, ("Abs", 1), ("Abs", 11), ("Abs", 41))
add(lambda c, hw: model("GlobalAveragePool", [(1, c, hw, hw)]), (64, 28), (512, 7), (1000, 4), (24, 60),
    label="globalpool")
add(reduce, (1, 64, 28, 28), (1, 512, 7, 7), (1, 1000, 4, 4), (1, 24, 60, 60))
add(lambda *s: reduce(*s, axes=(1,)), (1, 196, 192), (1, 50, 768), label="reduce_middle")
add(lambda *s: reduce(*s, axes=(2,)), (1, 196, 192), (1, 1000, 24), label="reduce_last")
add(lambda axis, n, *s: model("Concat", [s] * n, axis=axis),
    (1, 2, 1, 32, 28, 28), (1, 4, 1, 64, 14, 14), (-1, 2, 1, 196, 96), (-1, 4, 1, 400, 24), (1, 2, 1, 16, 60, 60),
    (2, 2, 1, 32, 10, 96), label="concat")
add(split, (1, 1, 64, 28, 28), (-1, 1, 196, 192), (-1, 1, 400, 48), (1, 1, 128, 10, 10))
add(cut, (1, 64, 28, 28), (1, 200, 192), (1, 30, 400))
add(gather, (1000, 64, 192), (500, 400, 32))
add(lambda *s: model("Pad", [s], (np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),)), (1, 32, 28, 28), (1, 16, 60, 60),
    (1, 256, 7, 7), label="pad")
add(lambda perm, *s: model("Transpose", [s], perm=list(perm)),
    ((0, 2, 1), 1, 300, 64), ((0, 2, 3, 1), 1, 48, 30, 30), ((0, 3, 1, 2), 1, 14, 14, 200),
    ((0, 2, 3, 1), 1, 100, 6, 28),
    ((0, 2, 1, 3), 1, 100, 6, 28), ((0, 2, 1, 3), 1, 6, 100, 28), ((0, 2, 1, 3), 8, 36, 4, 16),
    ((0, 2, 1, 3), 1, 197, 3, 64),
    ((0, 1, 3, 2, 4, 5), 1, 6, 5, 6, 5, 60), ((0, 3, 2, 1), 1, 50, 30, 8), ((0, 3, 2, 1), 1, 8, 30, 50),
    ((2, 0, 3, 1, 4), 1, 50, 3, 4, 24), ((0, 2, 1), 16, 20, 30), ((0, 2, 1, 3), 300, 6, 2, 2),
    ((0, 2, 1, 3), 100, 2, 12, 2), ((0, 2, 1, 3), 4, 64, 8, 2),
    ((0, 2, 1, 3), 1, 400, 1, 32),
    label="transpose")
add(resize, ("nearest", 32, 14, "asymmetric"), ("nearest", 64, 28, "asymmetric"), ("linear", 32, 14, "half_pixel"),
    ("linear", 48, 30, "half_pixel"), ("linear", 32, 14, "align_corners"))
