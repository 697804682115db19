"""`NetBuilder`: an ONNX graph written node by node, with sizes drawn at random."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

__all__ = ["MOST_ELEMENTS", "MOST_MACS", "NetBuilder"]

MOST_MACS = 60e6  # per block: the mix of sizes matters more than the largest
MOST_ELEMENTS = 2e6
_OPSET = 20
_VALUES = 65_521  # a prime, so that rows of a matrix differ
_NARROW, _NARROW_SIDE = 80, 32  # channels and pixels of narrow nets


@cache
def _values() -> np.ndarray:
    """Weights of any net, over and over: what they are does not matter to a kernel."""
    return np.random.default_rng(0).standard_normal(_VALUES, dtype=np.float32)


class NetBuilder:
    """An ONNX graph under construction; tensors are names, `shape` tells their sizes."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.shape: dict[str, tuple[int, ...]] = {}
        self.last, self.chained = "", set[str]()  # what the latest block made; those that another block went on from
        self.dynamic = bool(rng.random() < 0.5)  # exporters leave the batch open, and then fewer operators fuse
        self.biased, self.rows = bool(rng.random() < 0.75), bool(rng.random() < 0.25)  # linear layers
        self.pruned = bool(rng.random() < 0.6)  # widths inside blocks differ
        self.narrow = bool(rng.random() < 0.4)  # as much pruned nets are: all of it stays in the cache

    def input(self, *shape: int, whole: int = 0) -> str:
        """A new input of floats, or of integers below `whole`."""
        from onnx import TensorProto, helper

        name = f"in{len(self.inputs)}"
        sides = ["batch" if self.dynamic and shape[0] == 1 else shape[0], *shape[1:]]
        kind = TensorProto.INT64 if whole else TensorProto.FLOAT
        self.inputs.append(helper.make_tensor_value_info(name, kind, sides))
        self.shape[name] = shape
        return name

    def weight(self, *shape: int, scale: float | None = None) -> str:
        std = 1 / math.sqrt(max(1, math.prod(shape[1:]))) if scale is None else scale
        return self.constant(np.resize(_values(), shape) * np.float32(std))

    def constant(self, value: np.ndarray) -> str:
        from onnx import numpy_helper

        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def op(self, kind: str, *inputs: str, shape: tuple[int, ...], **attributes: Any) -> str:
        from onnx import helper

        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"n{len(self.nodes)}", **attributes))
        self.shape[name] = shape
        return name

    def output(self, name: str) -> None:
        from onnx import TensorProto, helper

        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, self.shape[name]))

    def bytes(self) -> bytes:
        from onnx import helper

        graph = helper.make_graph(self.nodes, "calibration", self.inputs, self.outputs, self.weights)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=9)
        return bytes(made.SerializeToString())

    # -- what blocks are made of -----------------------------------------------------------------------------------

    def conv(self, x: str, out: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: str = "",
             bias: bool = True) -> str:
        batch, channels, height, width = self.shape[x]
        pad = kernel // 2
        size = ((height + 2 * pad - kernel) // stride + 1, (width + 2 * pad - kernel) // stride + 1)
        inputs = [x, self.weight(out, channels // groups, kernel, kernel), *([self.weight(out)] if bias else [])]
        y = self.op("Conv", *inputs, shape=(batch, out, *size), kernel_shape=[kernel, kernel],
                    strides=[stride, stride], pads=[pad] * 4, group=groups)
        return self.act(y, act)

    def patches(self, x: str, out: int, side: int) -> str:
        """A patch embedding: a convolution whose windows do not overlap."""
        batch, channels, height, width = self.shape[x]
        return self.op("Conv", x, self.weight(out, channels, side, side), self.weight(out),
                       shape=(batch, out, height // side, width // side), kernel_shape=[side, side],
                       strides=[side, side], pads=[0] * 4)

    def act(self, x: str, kind: str) -> str:
        shape = self.shape[x]
        if kind == "relu6":
            low, high = self.constant(np.array(0, np.float32)), self.constant(np.array(6, np.float32))
            return self.op("Clip", x, low, high, shape=shape)
        if kind == "silu":
            return self.op("Mul", x, self.op("Sigmoid", x, shape=shape), shape=shape)
        if kind == "gelu_tanh":
            return self.op("Gelu", x, shape=shape, approximate="tanh")
        return self.op(kind, x, shape=shape) if kind else x

    def add(self, a: str, b: str) -> str:
        return self.op("Add", a, b, shape=self.shape[a])

    def linear(self, x: str, out: int, act: str = "") -> str:
        """MatMul and Add (or no bias), as exporters write a linear layer on more than two axes; Gemm on two, and now
        and then on rows that were put together for it (GPT-2's way), where no bias fuses with the activation.
        """
        *lead, width = self.shape[x]
        shape = (*lead, out)
        if len(lead) == 2 and self.rows:
            return self.act(self.reshape(self.linear(self.reshape(x, math.prod(lead), width), out), *shape), act)
        if len(lead) == 1:
            y = self.op("Gemm", x, self.weight(out, width), self.weight(out), shape=shape, transB=1)
        else:
            y = self.op("MatMul", x, self.weight(width, out), shape=shape)
            if self.biased:
                y = self.op("Add", y, self.weight(out), shape=shape)
        return self.act(y, act)

    def norm(self, x: str) -> str:
        width = self.shape[x][-1]
        return self.op("LayerNormalization", x, self.weight(width, scale=1.0), self.weight(width, scale=1.0),
                       shape=self.shape[x], axis=-1, epsilon=1e-5)

    def transpose(self, x: str, *order: int) -> str:
        return self.op("Transpose", x, shape=tuple(self.shape[x][i] for i in order), perm=list(order))

    def reshape(self, x: str, *shape: int) -> str:
        """With an open batch and a first side of 1, the batch is read off `x` at run time, as exporters do."""
        if not self.dynamic or shape[0] != 1 or self.shape[x][0] != 1 or self.rng.random() < 0.5:
            return self.op("Reshape", x, self.ints(*shape), shape=shape)
        sides = self.op("Shape", x, shape=(len(self.shape[x]),))
        if self.rng.random() < 0.5:
            batch = self.op("Gather", sides, self.ints(0), shape=(1,), axis=0)
        else:
            batch = self.op("Slice", sides, self.ints(0), self.ints(1), shape=(1,))
            batch = self.op("Unsqueeze", self.op("Squeeze", batch, shape=()), self.ints(0), shape=(1,))
        target = self.op("Concat", batch, self.ints(*shape[1:]), shape=(len(shape),), axis=0)
        return self.op("Reshape", x, target, shape=shape)

    # -- draws ---------------------------------------------------------------------------------------------------------

    def log_uniform(self, low: float, high: float) -> float:
        return float(np.exp(self.rng.uniform(np.log(low), np.log(high))))

    def channels(self, low: int = 8, high: int = 640) -> int:
        """Mostly multiples of 8 or 16, as networks and pruned ones have; now and then any number."""
        high = min(high, max(low, _NARROW)) if self.narrow else high
        step = int(self.rng.choice([1, 4, 8, 16, 16, 16, 32]))
        return max(step, round(self.log_uniform(low, high) / step) * step)

    def pick(self, *values: Any) -> Any:
        return values[int(self.rng.integers(len(values)))]

    def repeats(self) -> range:
        """Blocks of one size follow one another in a net, and then find their input in the cache."""
        return range(self.pick(1, 1, 2, 3, 4))

    def image(self, channels: int, macs_per_pixel: float, low: int = 4, high: int = 112) -> str:
        """A map of `channels`: that of the block before, brought to this width, or a new input; no larger than
        `MOST_MACS` and `MOST_ELEMENTS` allow.
        """
        most = math.sqrt(min(MOST_MACS / macs_per_pixel, MOST_ELEMENTS / channels))
        high = min(high, _NARROW_SIDE) if self.narrow else high
        before = self.shape.get(self.last, ())
        if len(before) == 4 and before[0] == 1 and before[1] <= 1024 and self.rng.random() < 0.8:
            for stride in (1, 2):
                if 2 <= before[2] / stride <= most and 2 <= before[3] / stride <= most:
                    self.chained.add(self.last)
                    return self.conv(self.last, channels, 1, stride)
        side = max(2, min(round(self.log_uniform(low, high)), int(most)))
        return self.input(1, channels, side, side)

    def tokens(self, count: int, width: int) -> str:
        """`(1, count, width)`: what the block before made, brought to this width, or a new input."""
        before = self.shape.get(self.last, ())
        if len(before) == 3 and before[0] == 1 and before[1] <= 1.5 * count and self.rng.random() < 0.8:
            self.chained.add(self.last)
            return self.linear(self.last, width)
        return self.input(1, count, width)
