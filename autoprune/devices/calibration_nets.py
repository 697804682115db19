"""Small nets of the blocks that real ones are made of, to learn a device's kernels from: `calibration_nets(seed)`.

Blocks rather than lone operators, so that an operator is timed as it runs in a net: fused with what follows it, its
input still in the cache from what came before. Sizes are drawn log-uniformly over what networks use (8 to 1024
channels, 4 to 112 pixels, 8 to 400 tokens). Written in ONNX directly, up to several hundred nodes each, most
of a few milliseconds on a desktop core.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

__all__ = ["calibration_nets", "many_small_nodes", "probe"]

_OPSET = 20
_MOST_MACS = 60e6  # per block: the mix of sizes matters more than the largest
_MOST_ELEMENTS = 2e6


class _Net:
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
        return self.constant(self.rng.standard_normal(shape, dtype=np.float32) * np.float32(std))

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
        """MatMul and Add, as exporters write a linear layer on more than two axes; Gemm on two."""
        *lead, width = self.shape[x]
        shape = (*lead, out)
        if len(lead) == 1:
            y = self.op("Gemm", x, self.weight(out, width), self.weight(out), shape=shape, transB=1)
        else:
            y = self.op("MatMul", x, self.weight(width, out), shape=shape)
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
        step = int(self.rng.choice([1, 4, 8, 16, 16, 16, 32]))
        return max(step, round(self.log_uniform(low, high) / step) * step)

    def pick(self, *values: Any) -> Any:
        return values[int(self.rng.integers(len(values)))]

    def image(self, channels: int, macs_per_pixel: float, low: int = 4, high: int = 112) -> str:
        """A map of `channels`: that of the block before, brought to this width, or a new input; no larger than
        `_MOST_MACS` and `_MOST_ELEMENTS` allow.
        """
        most = math.sqrt(min(_MOST_MACS / macs_per_pixel, _MOST_ELEMENTS / channels))
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


def _act(net: _Net) -> str:
    return str(net.pick("Relu", "Relu", "relu6", "silu", "HardSwish", "Sigmoid", "Gelu", ""))


def _plain(net: _Net) -> str:
    """Convolutions one after another, of any kernel."""
    c, out, k, s = net.channels(), net.channels(), net.pick(1, 1, 3, 3, 3, 5, 7), net.pick(1, 1, 1, 2)
    x = net.image(c, c * out * k * k + out * out * 9)
    y = net.conv(x, out, k, s, act=_act(net))
    return net.conv(y, out, 3, act=_act(net))


def _repeats(net: _Net) -> range:
    """Blocks of one size follow one another in a net, and then find their input in the cache."""
    return range(net.pick(1, 1, 2, 3, 4))


def _residual(net: _Net) -> str:
    c = net.channels()
    x = net.conv(net.image(c, 3 * 9 * c * c), c, 3, act="Relu")
    for _ in _repeats(net):
        y = net.conv(net.conv(x, net.channels(c // 2 + 4, c), 3, act="Relu"), c, 3)
        x = net.act(net.add(y, x), "Relu")
    return x


def _bottleneck(net: _Net) -> str:
    c, width, s = net.channels(32, 1024), net.channels(), net.pick(1, 1, 2)
    per_group = net.pick(0, 0, 0, 8, 16, 24, 32)
    groups = max(1, width // per_group) if per_group else 1
    width = width // groups * groups
    x = net.image(c, 2 * c * width + 9 * width * width // groups, 4, 64)
    excite, short = net.pick(True, False), net.conv(x, c, 1, s)
    for _ in _repeats(net):
        y = net.conv(net.conv(x, width, act="Relu"), width, 3, s, groups, act="Relu")
        y = net.conv(_squeeze_excite(net, y) if excite else y, c)
        x = short = net.act(net.add(y, short), "Relu")
        s = 1
    return x


def _squeeze_excite(net: _Net, x: str) -> str:
    batch, channels, *_ = net.shape[x]
    pooled = (batch, channels, 1, 1)
    if net.pick(True, False):
        y = net.op("GlobalAveragePool", x, shape=pooled)
    else:
        y = net.op("ReduceMean", x, net.ints(2, 3), shape=pooled, keepdims=1)
    y = net.conv(net.conv(y, max(4, channels // 16 * 4), act=net.pick("Relu", "silu")), channels,
                 act=net.pick("Sigmoid", "HardSigmoid"))
    return net.op("Mul", x, y, shape=net.shape[x])


def _inverted(net: _Net) -> str:
    c, act, k, s = net.channels(8, 320), _act(net), net.pick(3, 3, 3, 5, 7), net.pick(1, 1, 2)
    wide = net.pick(2, 3, 4, 6) * c if net.pick(True, False) else net.channels(16, 1024)
    x = net.image(c, 3 * c * wide + k * k * wide)
    x = net.conv(x, c, act=net.pick("", "Relu"))
    excite = net.pick(True, False)
    for _ in _repeats(net):
        y = net.conv(net.conv(x, wide, act=act), wide, k, 1, wide, act=act)
        x = net.add(net.conv(_squeeze_excite(net, y) if excite else y, c), x)
    y = net.conv(net.conv(x, wide, act=act), wide, k, s, wide, act=act)
    return net.conv(_squeeze_excite(net, y) if excite else y, net.channels(8, 320))


def _stem(net: _Net) -> str:
    side, out = net.pick(64, 96, 128, 160, 192, 224), net.channels(8, 96)
    x = net.input(1, net.pick(1, 3, 3, 3, 3, 4, 8, 12), side, side)
    k, s = net.pick((3, 2), (3, 1), (7, 2), (5, 2), (4, 4), (16, 16), (8, 8))
    if k in (4, 8, 16):  # a patch embedding
        channels = net.shape[x][1]
        out = net.channels(32, 512)
        return net.op("Conv", x, net.weight(out, channels, k, k), net.weight(out),
                      shape=(1, out, side // k, side // k), kernel_shape=[k, k], strides=[s, s], pads=[0] * 4)
    y = net.conv(x, out, k, s, act=_act(net))
    _, _, height, width = net.shape[y]
    if net.pick(True, False):
        y = net.op(net.pick("MaxPool", "AveragePool"), y, shape=(1, out, (height + 1) // 2, (width + 1) // 2),
                   kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    return net.conv(y, out, 3, act="Relu") if side < 160 else y


def _modern(net: _Net) -> str:
    """ConvNeXt's block: depthwise, then channels last, norm and two linear layers."""
    c = net.channels(16, 512)
    x = net.image(c, 8 * c * c + 49 * c, 4, 56)
    wide = net.pick(2, 3, 4) * c
    for _ in _repeats(net):
        y = net.norm(net.transpose(net.conv(x, c, 7, groups=c), 0, 2, 3, 1))
        y = net.linear(net.linear(y, wide, "Gelu"), c)
        y = net.op("Mul", y, net.weight(c), shape=net.shape[y])
        x = net.add(net.transpose(y, 0, 3, 1, 2), x)
    return x


def _attention(net: _Net, x: str, width: int, heads: int, head: int) -> str:
    """Multi-head attention as exporters write it: three products, heads moved to the front, softmax."""
    batch, tokens, _ = net.shape[x]
    q, k, v = (net.transpose(net.reshape(net.linear(x, heads * head), batch, tokens, heads, head), 0, 2, 1, 3)
               for _ in range(3))
    k = net.transpose(k, 0, 1, 3, 2)
    scale = net.constant(np.array(head ** -0.25, np.float32))
    q, k = (net.op("Mul", t, scale, shape=net.shape[t]) for t in (q, k))
    scores = net.op("MatMul", q, k, shape=(batch, heads, tokens, tokens))
    scores = _mask(net, scores)
    scores = net.op("Softmax", scores, shape=net.shape[scores], axis=-1)
    if net.pick(True, False, False):  # rows without a single allowed token
        empty = net.op("IsNaN", scores, shape=net.shape[scores])
        scores = net.op("Where", empty, net.constant(np.array(0, np.float32)), scores, shape=net.shape[scores])
    y = net.op("MatMul", scores, v, shape=(batch, heads, tokens, head))
    return net.linear(net.reshape(net.transpose(y, 0, 2, 1, 3), batch, tokens, heads * head), width)


def _mask(net: _Net, scores: str) -> str:
    """Attention scores with what masks and position biases do to them."""
    shape = net.shape[scores]
    batch, heads, tokens, _ = shape
    kind = net.pick("", "add", "add", "window", "constant", "computed")
    if kind == "add":
        return net.op("Add", scores, net.weight(1, net.pick(1, heads), tokens, tokens), shape=shape)
    if kind == "window" and batch % 4 == 0:  # a bias per window: five axes for one addition
        parts = net.reshape(scores, batch // 4, 4, heads, tokens, tokens)
        parts = net.op("Add", parts, net.weight(1, 4, 1, tokens, tokens), shape=net.shape[parts])
        return net.reshape(parts, *shape)
    if kind == "constant":
        allowed = net.constant(net.rng.random((1, 1, tokens, tokens)) < 0.7)
        return net.op("Where", allowed, scores, net.constant(np.array(-1e9, np.float32)), shape=shape)
    if kind == "computed":
        row, whole = net.input(1, 1, 1, tokens), (1, 1, tokens, tokens)
        wide = net.op("Expand", row, net.ints(*whole), shape=whole)
        causal = net.constant(np.tril(np.ones((1, 1, tokens, tokens), bool)))
        seen = net.op("And", net.op("LessOrEqual", wide, net.weight(1, 1, tokens, 1), shape=whole), causal,
                      shape=whole)
        low, high = net.constant(np.array(-1e9, np.float32)), net.constant(np.array(0, np.float32))
        return net.op("Add", scores, net.op("Where", seen, high, low, shape=whole), shape=shape)
    return scores


def _transformer(net: _Net) -> str:
    head = net.pick(8, 16, 24, 32, 32, 48, 64)
    heads = net.pick(1, 2, 3, 4, 6, 8)
    width = net.channels(32, 512)
    batch = net.pick(1, 1, 1, 4, 16, 64)  # windows are batches
    tokens = round(net.log_uniform(8, 256)) if batch == 1 else net.pick(16, 49, 64)
    ffn = net.channels(32, 1536)
    per_token = 4 * width * heads * head + 2 * width * ffn + 2 * tokens * heads * head
    tokens = max(4, min(tokens, int(_MOST_MACS / per_token / batch)))
    if batch == 1 and net.pick(True, False):
        words = net.op("Gather", net.weight(net.pick(100, 1000, 5000), width), net.input(1, tokens, whole=100),
                       shape=(1, tokens, width))
        x = net.norm(net.op("Add", words, net.weight(1, tokens, width), shape=(1, tokens, width)))
    else:
        x = net.norm(net.tokens(tokens, width) if batch == 1 else net.input(batch, tokens, width))
    act = net.pick("Gelu", "Gelu", "gelu_tanh", "gelu_tanh", "Relu", "silu")
    for _ in _repeats(net):
        y = net.norm(net.add(_attention(net, x, width, heads, head), x))
        x = net.add(net.linear(net.linear(y, ffn, act), width), y)
    return x


def _perceptron(net: _Net) -> str:
    x = net.input(net.pick(1, 1, 1, 4, 16, 64), net.channels(16, 2048))
    y = net.linear(x, net.channels(16, 1024), net.pick("Relu", "Gelu", "Tanh"))
    return net.linear(net.linear(y, net.channels(16, 1024), "Relu"), net.pick(10, 100, 1000))


def _head(net: _Net) -> str:
    c = net.channels(32, 1280)
    x = net.conv(net.image(c, c * 64, 4, 14), 64, act=_act(net))
    y = net.op("GlobalAveragePool", x, shape=(1, 64, 1, 1))
    return net.linear(net.op("Flatten", y, shape=(1, 64)), net.pick(10, 100, 1000))


def _merge(net: _Net) -> str:
    """Branches put together, upsampled, pooled: what segmentation nets and dense nets add."""
    c, d = net.channels(8, 256), net.channels(8, 256)
    x = net.image(c, 9 * c * (c + d) * 5, 4, 40)
    _, _, height, width = net.shape[x]
    a, b = net.conv(x, c, 3, act="Relu"), net.conv(x, d, 1, act="Relu")
    if net.pick(True, False):
        return net.conv(net.op("Concat", a, b, a, b, shape=(1, 2 * (c + d), height, width), axis=1), c, act="Relu")
    y = net.op("Concat", a, b, shape=(1, c + d, height, width), axis=1)
    if net.pick(True, True, False):
        scale = net.pick(2, 2, 4, 8) if height <= 12 else 2
        size = (1, c + d, scale * height, scale * width)
        y = net.op("Resize", y, "", "", net.ints(*size), shape=size, mode=net.pick("nearest", "linear", "linear"))
    else:
        y = net.op(net.pick("AveragePool", "MaxPool"), y, shape=(1, c + d, height, width), kernel_shape=[3, 3],
                   pads=[1, 1, 1, 1], strides=[1, 1])
    return net.conv(y, c, 1, act="Relu")


def _tokens(net: _Net) -> str:
    """Moving tokens about: slices, concatenations, rolls, transposes, elementwise arithmetic."""
    batch, side, width = net.pick(1, 4, 16), net.pick(7, 14, 28, 56), net.channels(16, 384)
    side = min(side, max(2, int(math.sqrt(_MOST_ELEMENTS / batch / width / 2))))
    x = net.norm(net.input(batch, side, side, width))
    if side % 2 == 0 and net.pick(True, False):
        x = _patches(net, x)
    half = max(1, side // 2)
    low = net.op("Slice", x, net.ints(half), net.ints(side), net.ints(1), shape=(batch, side - half, side, width))
    high = net.op("Slice", x, net.ints(0), net.ints(half), net.ints(1), shape=(batch, half, side, width))
    y = net.op("Concat", low, high, shape=net.shape[x], axis=1)
    y = net.act(net.op(net.pick("Mul", "Add", "Sub"), y, net.weight(width), shape=net.shape[x]),
                net.pick("Relu", "Sigmoid", "Tanh", "Erf", "Exp", "Gelu", "gelu_tanh", "silu"))
    y = net.op("Pow", net.add(y, x), net.constant(np.array(2, np.float32)), shape=net.shape[x])
    y = net.op("Expand", net.transpose(net.op("Sqrt", y, shape=net.shape[x]), 0, 3, 1, 2),
               net.ints(batch, width, side, side), shape=(batch, width, side, side))
    y = net.op("ReduceMean", y, net.ints(1), shape=(batch, 1, side, side), keepdims=1)
    return net.op("Mul", y, net.transpose(x, 0, 3, 1, 2), shape=(batch, width, side, side))


def _patches(net: _Net, x: str) -> str:
    """Windows cut out of a map and put back: reshapes with transposes of short axes."""
    batch, side, _, width = net.shape[x]
    half = side // 2
    y = net.reshape(x, batch, half, 2, half, 2 * width)
    y = net.reshape(net.transpose(y, 0, 1, 3, 2, 4), batch * half * half, 2, 2, width)
    y = net.transpose(net.act(y, "Relu"), 0, 3, 1, 2) if net.pick(True, False) else net.act(y, "Sigmoid")
    return net.reshape(y, batch, side, side, width)


def _merging(net: _Net) -> str:
    """Swin's patch merging: every other pixel, four times, side by side, and a linear layer."""
    batch, side, width = net.pick(1, 1, 4), net.pick(8, 14, 28, 56), net.channels(8, 256)
    side = min(side, 2 * max(1, int(math.sqrt(_MOST_ELEMENTS / batch / width / 4))))
    side = min(side, 2 * max(1, int(math.sqrt(_MOST_MACS / (2 * width * width * batch)))))
    x, half = net.norm(net.input(batch, side, side, width)), side // 2
    parts = []
    for row, column in ((0, 0), (1, 0), (0, 1), (1, 1)):
        y = net.op("Slice", x, net.ints(row), net.ints(side), net.ints(1), net.ints(2),
                   shape=(batch, half, side, width))
        parts.append(net.op("Slice", y, net.ints(column), net.ints(side), net.ints(2), net.ints(2),
                            shape=(batch, half, half, width)))
    y = net.op("Concat", *parts, shape=(batch, half, half, 4 * width), axis=-1)
    return net.linear(net.norm(net.reshape(y, batch, half * half, 4 * width)), 2 * width)


def _flattened(net: _Net) -> str:
    """A map seen as tokens: convolution, pixels to rows, linear layer, and back."""
    c, d = net.channels(16, 512), net.channels(16, 512)
    x = net.conv(net.image(c, c * c + c * d, 4, 32), c)
    _, _, height, width = net.shape[x]
    y = net.transpose(net.reshape(x, 1, c, height * width), 0, 2, 1)
    y = net.linear(net.norm(y) if net.pick(True, False) else y, d)
    return net.reshape(net.transpose(y, 0, 2, 1), 1, d, height, width)


def _short(net: _Net) -> str:
    """Transposes that move a short axis, and means over tokens."""
    tokens, short, width = net.pick(16, 49, 64, 100, 196), net.pick(2, 3, 4, 6), net.channels(16, 256)
    x = net.norm(net.input(1, tokens, short, width))
    y = net.transpose(x, *net.pick((0, 2, 1, 3), (0, 3, 1, 2), (0, 3, 2, 1), (0, 2, 3, 1)))
    y = net.transpose(net.act(y, net.pick("Relu", "Sigmoid")), *net.pick((0, 3, 2, 1), (0, 2, 1, 3), (0, 3, 1, 2)))
    shape = net.shape[y]
    axis = net.pick(1, 2, 3)
    mean = net.op("ReduceMean", y, net.ints(axis), keepdims=1,
                  shape=tuple(1 if i == axis else d for i, d in enumerate(shape)))
    parts = [net.op("Slice", y, net.ints(i), net.ints(shape[1]), net.ints(1), net.ints(2),
                    shape=(1, (shape[1] - i + 1) // 2, *shape[2:])) for i in (0, 1)]
    joined = net.op("Concat", *parts, *parts, shape=(1, 2 * shape[1], *shape[2:]), axis=1)
    return net.op("Div", net.op("Sub", y, mean, shape=shape), net.op("ReduceMax", joined, shape=(), keepdims=0),
                  shape=shape)


def _normed(net: _Net) -> str:
    """Norms that do not fold into a convolution."""
    c = 8 * max(1, net.channels(8, 256) // 8)
    x = net.conv(net.image(c, c * c * 9, 6, 56), c, 3)
    _, _, height, width = net.shape[x]
    if net.pick(True, False):
        y = net.op("InstanceNormalization", x, net.weight(c, scale=1.0), net.weight(c, scale=1.0),
                   shape=net.shape[x])
    else:
        y = net.op("BatchNormalization", net.act(x, "Sigmoid"), *(net.constant(np.ones(c, np.float32))
                                                                  for _ in range(4)), shape=net.shape[x])
    y = net.act(y, net.pick("Relu", "silu", "LeakyRelu"))
    return net.op("Pad", y, net.ints(0, 0, 1, 1, 0, 0, 1, 1), shape=(1, c, height + 2, width + 2))


def _recurrent(net: _Net) -> str:
    steps, width, hidden = net.pick(8, 16, 32, 64), net.channels(16, 256), net.channels(16, 256)
    kind, gates = net.pick(("LSTM", 4), ("GRU", 3))
    x = net.input(steps, 1, width)
    return net.op(kind, x, net.weight(1, gates * hidden, width), net.weight(1, gates * hidden, hidden),
                  net.weight(1, 2 * gates * hidden), shape=(steps, 1, 1, hidden), hidden_size=hidden)


_BLOCKS: tuple[tuple[Callable[[_Net], str], int], ...] = (
    (_plain, 4), (_residual, 2), (_bottleneck, 4), (_inverted, 5), (_stem, 3), (_modern, 2), (_transformer, 5),
    (_perceptron, 1), (_head, 1), (_merge, 2), (_tokens, 2), (_short, 2), (_merging, 1),
    (_flattened, 2), (_normed, 1), (_recurrent, 1))


def probe() -> bytes:
    """ONNX bytes of two convolutions of 64 channels at 28×28: what tells whether a machine's speed has changed."""
    net = _Net(np.random.default_rng(0))
    net.dynamic = False
    x = net.input(1, 64, 28, 28)
    net.output(net.conv(net.conv(x, 64, 3), 64, 3))
    return net.bytes()


def many_small_nodes(count: int = 300) -> bytes:
    """ONNX bytes of `count` nodes that do next to nothing: what the profiler takes per node."""
    net = _Net(np.random.default_rng(0))
    x, bias = net.input(1, 2, 4, 4), net.weight(2, 4, 4)
    for index in range(count):
        kind = index % 3
        if kind == 0:
            x = net.op("Transpose", x, shape=(1, 2, 4, 4), perm=[0, 1, 3, 2])
        else:
            x = net.op("Mul", x, bias, shape=(1, 2, 4, 4)) if kind == 1 else net.act(x, "Sigmoid")
    net.output(x)
    return net.bytes()


def calibration_nets(seed: int = 0) -> Iterator[bytes]:
    """ONNX bytes of one random net after another, each of 1 to 10 blocks; the same ones for one seed.

    Their number differs because a node is faster in a small net, whose weights stay in the cache from run to run.
    """
    rng = np.random.default_rng(seed)
    weights = np.array([w for _, w in _BLOCKS], float)
    while True:
        net, made = _Net(rng), []
        for index in rng.choice(len(_BLOCKS), net.pick(1, 1, 1, 2, 3, 4, 6, 8, 10), p=weights / weights.sum()):
            net.last = _BLOCKS[int(index)][0](net)
            made.append(net.last)
        for name in made:
            if name not in net.chained:
                net.output(name)
        yield net.bytes()
