"""Whole nets of random sizes, built as real ones are: a stem, stages that grow wider as the map gets smaller, a head.

What a node takes depends on what ran before it: whether its input and its weights are still in a cache. Nets of loose
blocks do not have the order of sizes that makes this typical of real nets.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from autoprune.devices.calibration import image_blocks as image
from autoprune.devices.calibration import token_blocks as token
from autoprune.devices.calibration.net_builder import NetBuilder

__all__ = ["encoder", "staged"]

_Block = Callable[[NetBuilder, str], str]
_MOST_CHANNELS = 2048
_MOST_PIXELS_TIMES_CHANNELS = 5e5  # of the map behind the stem


def staged(net: NetBuilder) -> str:
    """Convolutional stages of one kind of block."""
    block, c = _family(net), _aligned(net, net.log_uniform(8, 96))
    x = _stem(net, c)
    grow = net.rng.uniform(1.4, 2.2)
    for stage in range(4):
        if stage:
            c = _aligned(net, c * grow)
            x = net.conv(x, c, net.pick(1, 3, 3), 2)
        for _ in range(net.pick(1, 1, 2, 2, 3, 4)):
            x = block(net, x)
    if net.pick(True, False):
        x = net.conv(x, _aligned(net, c * net.pick(1, 2, 4)), act=net.pick("Relu", "silu", "relu6"))
    _, channels, height, width = net.shape[x]
    kind, pooled = net.pick("GlobalAveragePool", "ReduceMean", "AveragePool"), (1, channels, 1, 1)
    if kind == "ReduceMean":
        y = net.op(kind, x, net.ints(2, 3), shape=pooled, keepdims=1)
    else:
        window = {"kernel_shape": [height, width]} if kind == "AveragePool" else {}
        y = net.op(kind, x, shape=pooled, **window)
    return net.linear(net.op("Flatten", y, shape=(1, channels)), net.pick(10, 100, 1000))


def encoder(net: NetBuilder) -> str:
    """Equal transformer layers, on words or on patches of an image."""
    heads, head = net.pick(2, 3, 4, 6, 8), net.pick(16, 32, 32, 64)
    width = heads * head if net.pick(True, False) else _aligned(net, net.log_uniform(48, 512))
    if net.pick(True, False):
        tokens = net.pick(32, 64, 96, 128)
        words = net.op("Gather", net.weight(net.pick(1000, 5000), width), net.input(1, tokens, whole=100),
                       shape=(1, tokens, width))
        x = net.norm(net.op("Add", words, net.weight(1, tokens, width), shape=(1, tokens, width)))
    else:
        patch, side = net.pick(16, 32), net.pick(96, 128, 160, 224)
        y = net.patches(net.input(1, 3, side, side), width, patch)
        x = net.transpose(net.reshape(y, 1, width, (side // patch) ** 2), 0, 2, 1)
    ffn, act = _aligned(net, width * net.pick(1, 2, 4, 4)), net.pick("Gelu", "Gelu", "gelu_tanh", "Relu")
    first = net.pick(True, False)  # the norm before attention, or after
    for _ in range(net.pick(2, 3, 4, 6, 8)):
        y = net.add(token.attention(net, net.norm(x) if first else x, width, heads, head), x)
        y = y if first else net.norm(y)
        z = net.linear(net.linear(net.norm(y) if first else y, ffn, act), width)
        x = net.add(z, y) if first else net.norm(net.add(z, y))
    return x


def _aligned(net: NetBuilder, width: float) -> int:
    """Widths as nets and pruned ones have them."""
    step: int = net.pick(8, 16, 16, 16)
    return min(_MOST_CHANNELS, max(step, round(width / step) * step))


def _inner(net: NetBuilder, width: float) -> int:
    """The width inside a block, which is what pruning makes smaller."""
    return _aligned(net, width * net.rng.uniform(0.25, 1)) if net.pruned else _aligned(net, width)


def _stem(net: NetBuilder, c: int) -> str:
    kernel, stride, pool = net.pick((3, 2, False), (3, 2, False), (7, 2, True), (4, 4, False))
    side = net.pick(64, 96, 128, 160, 192, 224)
    while (side / (4 if pool else stride)) ** 2 * c > _MOST_PIXELS_TIMES_CHANNELS:
        side //= 2
    x = net.input(1, 3, side, side)
    if kernel == 4:
        return net.patches(x, c, 4)
    y = net.conv(x, c, kernel, stride, act=net.pick("Relu", "silu", "relu6"))
    _, _, height, width = net.shape[y]
    return net.op("MaxPool", y, shape=(1, c, (height + 1) // 2, (width + 1) // 2), kernel_shape=[3, 3],
                  strides=[2, 2], pads=[1] * 4) if pool else y


def _family(net: NetBuilder) -> _Block:
    """One kind of block with its own constants, alike in the whole net."""
    act, kernel = net.pick("Relu", "relu6", "silu", "silu", "HardSwish"), net.pick(3, 3, 5)
    ratio, per_group, excite = net.pick(2, 4, 4, 6), net.pick(0, 0, 8, 16), net.pick(True, False)

    def basic(net: NetBuilder, x: str) -> str:
        c = net.shape[x][1]
        return net.act(net.add(net.conv(net.conv(x, _inner(net, c), 3, act="Relu"), c, 3), x), "Relu")

    def bottleneck(net: NetBuilder, x: str) -> str:
        c = net.shape[x][1]
        width = _inner(net, c / net.pick(1, 2))
        groups = width // per_group if per_group else 1  # widths are multiples of 8
        width = width // groups * groups if groups else width
        y = net.conv(net.conv(x, width, act="Relu"), width, 3, groups=max(1, groups), act="Relu")
        return net.act(net.add(net.conv(image.squeeze_excite(net, y) if excite else y, c), x), "Relu")

    def inverted(net: NetBuilder, x: str) -> str:
        c = net.shape[x][1]
        wide = _inner(net, ratio * c)
        y = net.conv(net.conv(x, wide, act=act), wide, kernel, groups=wide, act=act)
        return net.add(net.conv(image.squeeze_excite(net, y) if excite else y, c), x)

    def modern(net: NetBuilder, x: str) -> str:
        c = net.shape[x][1]
        y = net.norm(net.transpose(net.conv(x, c, 7, groups=c), 0, 2, 3, 1))
        y = net.linear(net.linear(y, _inner(net, 4 * c), "Gelu"), c)
        y = net.op("Mul", y, net.weight(c), shape=net.shape[y])
        return net.add(net.transpose(y, 0, 3, 1, 2), x)

    def pooling(net: NetBuilder, x: str) -> str:
        c, shape = net.shape[x][1], net.shape[x]
        y = net.op("AveragePool", _one_group(net, x), shape=shape, kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1])
        x = net.add(net.op("Sub", y, x, shape=shape), x)
        return net.add(net.conv(net.conv(_one_group(net, x), _inner(net, 4 * c), act="Gelu"), c), x)

    chosen: _Block = net.pick(basic, basic, bottleneck, bottleneck, inverted, inverted, inverted, modern, modern,
                              pooling)
    return chosen


def _one_group(net: NetBuilder, x: str) -> str:
    """GroupNorm of one group, as exporters write it."""
    batch, c, height, width = net.shape[x]
    y = net.reshape(x, batch, 1, c * height * width)
    y = net.op("InstanceNormalization", y, net.constant(np.ones(1, np.float32)), net.constant(np.zeros(1, np.float32)),
               shape=net.shape[y])
    y = net.op("Mul", net.reshape(y, *net.shape[x]), net.weight(c, 1, 1), shape=net.shape[x])
    return net.op("Add", y, net.weight(c, 1, 1), shape=net.shape[x])
