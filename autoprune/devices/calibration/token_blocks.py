"""Blocks of nets for tokens, steps and rows: each function adds its nodes to a net and returns their result's name."""

from __future__ import annotations

import math

import numpy as np

from autoprune.devices.calibration.net_builder import MOST_ELEMENTS, MOST_MACS, NetBuilder

__all__ = ["attention", "merging", "perceptron", "recurrent", "short", "tokens", "transformer"]


def attention(net: NetBuilder, x: str, width: int, heads: int, head: int) -> str:
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


def transformer(net: NetBuilder) -> str:
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
    for _ in net.repeats():
        y = net.norm(net.add(attention(net, x, width, heads, head), x))
        x = net.add(net.linear(net.linear(y, ffn, act), width), y)
    return x


def perceptron(net: NetBuilder) -> str:
    x = net.input(net.pick(1, 1, 1, 4, 16, 64), net.channels(16, 2048))
    y = net.linear(x, net.channels(16, 1024), net.pick("Relu", "Gelu", "Tanh"))
    return net.linear(net.linear(y, net.channels(16, 1024), "Relu"), net.pick(10, 100, 1000))


def tokens(net: NetBuilder) -> str:
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


def merging(net: NetBuilder) -> str:
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


def short(net: NetBuilder) -> str:
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


def recurrent(net: NetBuilder) -> str:
    steps, width, hidden = net.pick(8, 16, 32, 64), net.channels(16, 256), net.channels(16, 256)
    kind, gates = net.pick(("LSTM", 4), ("GRU", 3))
    x = net.input(steps, 1, width)
    return net.op(kind, x, net.weight(1, gates * hidden, width), net.weight(1, gates * hidden, hidden),
                  net.weight(1, 2 * gates * hidden), shape=(steps, 1, 1, hidden), hidden_size=hidden)
