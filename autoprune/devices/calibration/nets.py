"""Small nets of the blocks that real ones are made of, to learn a device's kernels from: `calibration_nets(seed)`.

Blocks rather than lone operators, so that an operator is timed as it runs in a net: fused with what follows it, its
input still in the cache from what came before. Sizes are drawn log-uniformly over what networks use (8 to 1024
channels, 4 to 112 pixels, 8 to 400 tokens). Written in ONNX directly, up to several hundred nodes each, most
of a few milliseconds on a desktop core.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from autoprune.devices.calibration.net_builder import MOST_ELEMENTS, MOST_MACS, NetBuilder

__all__ = ["calibration_nets", "many_small_nodes", "probe"]


def _act(net: NetBuilder) -> str:
    return str(net.pick("Relu", "Relu", "relu6", "relu6", "silu", "HardSwish", "Sigmoid", "Gelu", ""))


def _plain(net: NetBuilder) -> str:
    """Convolutions one after another, of any kernel."""
    c, out, k, s = net.channels(), net.channels(), net.pick(1, 1, 3, 3, 3, 5, 7), net.pick(1, 1, 1, 2)
    x = net.image(c, c * out * k * k + out * out * 9)
    y = net.conv(x, out, k, s, act=_act(net))
    return net.conv(y, out, 3, act=_act(net))


def _repeats(net: NetBuilder) -> range:
    """Blocks of one size follow one another in a net, and then find their input in the cache."""
    return range(net.pick(1, 1, 2, 3, 4))


def _residual(net: NetBuilder) -> str:
    c = net.channels()
    x = net.conv(net.image(c, 3 * 9 * c * c), c, 3, act="Relu")
    for _ in _repeats(net):
        y = net.conv(net.conv(x, net.channels(c // 2 + 4, c), 3, act="Relu"), c, 3)
        x = net.act(net.add(y, x), "Relu")
    return x


def _bottleneck(net: NetBuilder) -> str:
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


def _squeeze_excite(net: NetBuilder, x: str) -> str:
    batch, channels, *_ = net.shape[x]
    pooled = (batch, channels, 1, 1)
    if net.pick(True, False):
        y = net.op("GlobalAveragePool", x, shape=pooled)
    else:
        y = net.op("ReduceMean", x, net.ints(2, 3), shape=pooled, keepdims=1)
    y = net.conv(net.conv(y, max(4, channels // 16 * 4), act=net.pick("Relu", "silu")), channels,
                 act=net.pick("Sigmoid", "HardSigmoid"))
    return net.op("Mul", x, y, shape=net.shape[x])


def _inverted(net: NetBuilder) -> str:
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


def _stem(net: NetBuilder) -> str:
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


def _modern(net: NetBuilder) -> str:
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


def _attention(net: NetBuilder, x: str, width: int, heads: int, head: int) -> str:
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


def _mask(net: NetBuilder, scores: str) -> str:
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


def _transformer(net: NetBuilder) -> str:
    head = net.pick(8, 16, 24, 32, 32, 48, 64)
    heads = net.pick(1, 2, 3, 4, 6, 8)
    width = net.channels(32, 512)
    batch = net.pick(1, 1, 1, 4, 16, 64)  # windows are batches
    tokens = round(net.log_uniform(8, 256)) if batch == 1 else net.pick(16, 49, 64)
    ffn = net.channels(32, 1536)
    per_token = 4 * width * heads * head + 2 * width * ffn + 2 * tokens * heads * head
    tokens = max(4, min(tokens, int(MOST_MACS / per_token / batch)))
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


def _perceptron(net: NetBuilder) -> str:
    x = net.input(net.pick(1, 1, 1, 4, 16, 64), net.channels(16, 2048))
    y = net.linear(x, net.channels(16, 1024), net.pick("Relu", "Gelu", "Tanh"))
    return net.linear(net.linear(y, net.channels(16, 1024), "Relu"), net.pick(10, 100, 1000))


def _head(net: NetBuilder) -> str:
    c = net.channels(32, 1280)
    x = net.conv(net.image(c, c * 64, 4, 14), 64, act=_act(net))
    y = net.op("GlobalAveragePool", x, shape=(1, 64, 1, 1))
    return net.linear(net.op("Flatten", y, shape=(1, 64)), net.pick(10, 100, 1000))


def _merge(net: NetBuilder) -> str:
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


def _tokens(net: NetBuilder) -> str:
    """Moving tokens about: slices, concatenations, rolls, transposes, elementwise arithmetic."""
    batch, side, width = net.pick(1, 4, 16), net.pick(7, 14, 28, 56), net.channels(16, 384)
    side = min(side, max(2, int(math.sqrt(MOST_ELEMENTS / batch / width / 2))))
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


def _patches(net: NetBuilder, x: str) -> str:
    """Windows cut out of a map and put back: reshapes with transposes of short axes."""
    batch, side, _, width = net.shape[x]
    half = side // 2
    y = net.reshape(x, batch, half, 2, half, 2 * width)
    y = net.reshape(net.transpose(y, 0, 1, 3, 2, 4), batch * half * half, 2, 2, width)
    y = net.transpose(net.act(y, "Relu"), 0, 3, 1, 2) if net.pick(True, False) else net.act(y, "Sigmoid")
    return net.reshape(y, batch, side, side, width)


def _merging(net: NetBuilder) -> str:
    """Swin's patch merging: every other pixel, four times, side by side, and a linear layer."""
    batch, side, width = net.pick(1, 1, 4), net.pick(8, 14, 28, 56), net.channels(8, 256)
    side = min(side, 2 * max(1, int(math.sqrt(MOST_ELEMENTS / batch / width / 4))))
    side = min(side, 2 * max(1, int(math.sqrt(MOST_MACS / (2 * width * width * batch)))))
    x, half = net.norm(net.input(batch, side, side, width)), side // 2
    parts = []
    for row, column in ((0, 0), (1, 0), (0, 1), (1, 1)):
        y = net.op("Slice", x, net.ints(row), net.ints(side), net.ints(1), net.ints(2),
                   shape=(batch, half, side, width))
        parts.append(net.op("Slice", y, net.ints(column), net.ints(side), net.ints(2), net.ints(2),
                            shape=(batch, half, half, width)))
    y = net.op("Concat", *parts, shape=(batch, half, half, 4 * width), axis=-1)
    return net.linear(net.norm(net.reshape(y, batch, half * half, 4 * width)), 2 * width)


def _flattened(net: NetBuilder) -> str:
    """A map seen as tokens: convolution, pixels to rows, linear layer, and back."""
    c, d = net.channels(16, 512), net.channels(16, 512)
    x = net.conv(net.image(c, c * c + c * d, 4, 32), c)
    _, _, height, width = net.shape[x]
    y = net.transpose(net.reshape(x, 1, c, height * width), 0, 2, 1)
    y = net.linear(net.norm(y) if net.pick(True, False) else y, d)
    return net.reshape(net.transpose(y, 0, 2, 1), 1, d, height, width)


def _short(net: NetBuilder) -> str:
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


def _normed(net: NetBuilder) -> str:
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


def _recurrent(net: NetBuilder) -> str:
    steps, width, hidden = net.pick(8, 16, 32, 64), net.channels(16, 256), net.channels(16, 256)
    kind, gates = net.pick(("LSTM", 4), ("GRU", 3))
    x = net.input(steps, 1, width)
    return net.op(kind, x, net.weight(1, gates * hidden, width), net.weight(1, gates * hidden, hidden),
                  net.weight(1, 2 * gates * hidden), shape=(steps, 1, 1, hidden), hidden_size=hidden)


_BLOCKS: tuple[tuple[Callable[[NetBuilder], str], int], ...] = (
    (_plain, 4), (_residual, 2), (_bottleneck, 4), (_inverted, 5), (_stem, 3), (_modern, 2), (_transformer, 5),
    (_perceptron, 1), (_head, 1), (_merge, 2), (_tokens, 2), (_short, 2), (_merging, 1),
    (_flattened, 2), (_normed, 1), (_recurrent, 1))


def probe() -> bytes:
    """ONNX bytes of two convolutions of 64 channels at 28×28: what tells whether a machine's speed has changed."""
    net = NetBuilder(np.random.default_rng(0))
    net.dynamic = False
    x = net.input(1, 64, 28, 28)
    net.output(net.conv(net.conv(x, 64, 3), 64, 3))
    return net.bytes()


def many_small_nodes(count: int = 300) -> bytes:
    """ONNX bytes of `count` nodes that do next to nothing: what the profiler takes per node."""
    net = NetBuilder(np.random.default_rng(0))
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
    """ONNX bytes of one random net after another, each of 1 to 12 blocks; the same ones for one seed.

    Their number differs because a node is faster in a small net, whose weights stay in the cache from run to run.
    """
    rng = np.random.default_rng(seed)
    weights = np.array([w for _, w in _BLOCKS], float)
    while True:
        net, made = NetBuilder(rng), []
        count = net.pick(2, 4, 8, 12) if net.narrow else net.pick(1, 1, 2, 3, 4, 6, 8, 10)
        for index in rng.choice(len(_BLOCKS), count, p=weights / weights.sum()):
            net.last = _BLOCKS[int(index)][0](net)
            made.append(net.last)
        for name in made:
            if name not in net.chained:
                net.output(name)
        yield net.bytes()
