"""Blocks of nets for images: each function adds its nodes to a net and returns the name of their result."""

from __future__ import annotations

import numpy as np

from autoprune.devices.calibration.net_builder import NetBuilder

__all__ = ["bottleneck", "flattened", "head", "inverted", "merge", "modern", "normed", "plain", "residual",
           "squeeze_excite", "stem"]


def _act(net: NetBuilder) -> str:
    return str(net.pick("Relu", "Relu", "relu6", "relu6", "silu", "HardSwish", "Sigmoid", "Gelu", ""))


def plain(net: NetBuilder) -> str:
    """Convolutions one after another, of any kernel."""
    c, out, k, s = net.channels(), net.channels(), net.pick(1, 1, 3, 3, 3, 5, 7), net.pick(1, 1, 1, 2)
    x = net.image(c, c * out * k * k + out * out * 9)
    y = net.conv(x, out, k, s, act=_act(net))
    return net.conv(y, out, 3, act=_act(net))


def residual(net: NetBuilder) -> str:
    c = net.channels()
    x = net.conv(net.image(c, 3 * 9 * c * c), c, 3, act="Relu")
    for _ in net.repeats():
        y = net.conv(net.conv(x, net.channels(c // 2 + 4, c), 3, act="Relu"), c, 3)
        x = net.act(net.add(y, x), "Relu")
    return x


def bottleneck(net: NetBuilder) -> str:
    c, width, s = net.channels(32, 1024), net.channels(), net.pick(1, 1, 2)
    per_group = net.pick(0, 0, 0, 8, 16, 24, 32)
    groups = max(1, width // per_group) if per_group else 1
    width = width // groups * groups
    x = net.image(c, 2 * c * width + 9 * width * width // groups, 4, 64)
    excite, short = net.pick(True, False), net.conv(x, c, 1, s)
    for _ in net.repeats():
        y = net.conv(net.conv(x, width, act="Relu"), width, 3, s, groups, act="Relu")
        y = net.conv(squeeze_excite(net, y) if excite else y, c)
        x = short = net.act(net.add(y, short), "Relu")
        s = 1
    return x


def squeeze_excite(net: NetBuilder, x: str) -> str:
    batch, channels, *_ = net.shape[x]
    pooled = (batch, channels, 1, 1)
    if net.pick(True, False):
        y = net.op("GlobalAveragePool", x, shape=pooled)
    else:
        y = net.op("ReduceMean", x, net.ints(2, 3), shape=pooled, keepdims=1)
    y = net.conv(net.conv(y, max(4, channels // 16 * 4), act=net.pick("Relu", "silu")), channels,
                 act=net.pick("Sigmoid", "HardSigmoid"))
    return net.op("Mul", x, y, shape=net.shape[x])


def inverted(net: NetBuilder) -> str:
    c, act, k, s = net.channels(8, 320), _act(net), net.pick(3, 3, 3, 5, 7), net.pick(1, 1, 2)
    wide = net.pick(2, 3, 4, 6) * c if net.pick(True, False) else net.channels(16, 1024)
    x = net.image(c, 3 * c * wide + k * k * wide)
    x = net.conv(x, c, act=net.pick("", "Relu"))
    excite = net.pick(True, False)
    for _ in net.repeats():
        y = net.conv(net.conv(x, wide, act=act), wide, k, 1, wide, act=act)
        x = net.add(net.conv(squeeze_excite(net, y) if excite else y, c), x)
    y = net.conv(net.conv(x, wide, act=act), wide, k, s, wide, act=act)
    return net.conv(squeeze_excite(net, y) if excite else y, net.channels(8, 320))


def stem(net: NetBuilder) -> str:
    side, out = net.pick(64, 96, 128, 160, 192, 224), net.channels(8, 96)
    x = net.input(1, net.pick(1, 3, 3, 3, 3, 4, 8, 12), side, side)
    k, s = net.pick((3, 2), (3, 1), (7, 2), (5, 2), (4, 4), (16, 16), (8, 8))
    if k in (4, 8, 16):
        return net.patches(x, net.channels(32, 512), k)
    y = net.conv(x, out, k, s, act=_act(net))
    _, _, height, width = net.shape[y]
    if net.pick(True, False):
        y = net.op(net.pick("MaxPool", "AveragePool"), y, shape=(1, out, (height + 1) // 2, (width + 1) // 2),
                   kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    return net.conv(y, out, 3, act="Relu") if side < 160 else y


def modern(net: NetBuilder) -> str:
    """ConvNeXt's block: depthwise, then channels last, norm and two linear layers."""
    c = net.channels(16, 512)
    x = net.image(c, 8 * c * c + 49 * c, 4, 56)
    wide = net.pick(2, 3, 4) * c
    for _ in net.repeats():
        y = net.norm(net.transpose(net.conv(x, c, 7, groups=c), 0, 2, 3, 1))
        y = net.linear(net.linear(y, wide, "Gelu"), c)
        y = net.op("Mul", y, net.weight(c), shape=net.shape[y])
        x = net.add(net.transpose(y, 0, 3, 1, 2), x)
    return x


def head(net: NetBuilder) -> str:
    c = net.channels(32, 1280)
    x = net.conv(net.image(c, c * 64, 4, 14), 64, act=_act(net))
    y = net.op("GlobalAveragePool", x, shape=(1, 64, 1, 1))
    return net.linear(net.op("Flatten", y, shape=(1, 64)), net.pick(10, 100, 1000))


def merge(net: NetBuilder) -> str:
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


def flattened(net: NetBuilder) -> str:
    """A map seen as tokens: convolution, pixels to rows, linear layer, and back."""
    c, d = net.channels(16, 512), net.channels(16, 512)
    x = net.conv(net.image(c, c * c + c * d, 4, 32), c)
    _, _, height, width = net.shape[x]
    y = net.transpose(net.reshape(x, 1, c, height * width), 0, 2, 1)
    y = net.linear(net.norm(y) if net.pick(True, False) else y, d)
    return net.reshape(net.transpose(y, 0, 2, 1), 1, d, height, width)


def normed(net: NetBuilder) -> str:
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
