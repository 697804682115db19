"""The layers of YOLO11 and YOLOX as `Node`s: nets whose onnxruntime latency on a Raspberry Pi 5 is published.

Facts about the architectures (channel counts, kernels, resolutions) from the YOLO11 documentation and the YOLOX paper
(https://arxiv.org/abs/2107.08430); `fit_profiles.py` checks parameters and MACs against the published ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from autoprune.devices.classes import classify
from autoprune.devices.node import Node

PUBLISHED = {  # parameters in millions, GFLOPs (2 per multiply-add), as the projects state them
    "YOLO11n": (2.6, 6.5), "YOLO11s": (9.4, 21.5), "YOLO11m": (20.1, 68.0), "YOLO11l": (25.3, 86.9),
    "YOLO11x": (56.9, 194.9), "YOLOX-Nano": (0.91, 1.08), "YOLOX-Tiny": (5.06, 6.45), "YOLOX-S": (9.0, 26.8),
    "YOLOX-M": (25.3, 73.8)}


@dataclass
class Net:
    """A growing list of nodes; every method returns the channels of its output."""

    nodes: list[Node] = field(default_factory=list)

    def conv(self, cin: int, cout: int, hw: int, k: int = 1, s: int = 1, g: int = 1, act: bool = True) -> int:
        """`hw` is the input's side; padding keeps it."""
        out = math.ceil(hw / s)
        cls = classify("Conv", channels_in=cin, channels_out=cout, groups=g, kernel=(k, k), stride=s)
        gather = 0 if cls in ("pointwise", "depthwise") else cin * k * k * out * out
        weights = cout * cin // g * k * k
        self.nodes.append(Node(f"conv{len(self.nodes)}", "Conv", cls, macs=weights * out * out, in_elems=cin * hw * hw,
                               out_elems=cout * out * out, weights=weights + cout, in_shapes=((1, cin, hw, hw),),
                               out_shapes=((1, cout, out, out),), kernel=(k, k), stride=s, groups=g, gather=gather,
                               rows=gather // out))
        if act:
            self.simple("QuickGelu", cout, out)
        return cout

    def simple(self, op: str, c: int, hw: int, reads: int = 1, kernel: int = 0) -> int:
        elems = c * hw * hw
        cls = "resize_nearest" if op == "Resize" else classify(op)
        self.nodes.append(Node(f"{op}{len(self.nodes)}", op, cls, in_elems=reads * elems, out_elems=elems,
                               run=elems if cls == "copy" else 0, in_shapes=((1, c, hw, hw),),
                               out_shapes=((1, c, hw, hw),),
                               kernel=(kernel, kernel) if kernel else ()))
        return c

    def matmul(self, batch: int, m: int, k: int, n: int) -> None:
        self.nodes.append(Node(f"mm{len(self.nodes)}", "MatMul", "matmul", macs=batch * m * k * n,
                               in_elems=batch * (m * k + k * n), out_elems=batch * m * n,
                               out_shapes=((1, batch, m, n),)))


def _bottleneck(net: Net, c: int, hidden: int, hw: int, add: bool, k: tuple[int, int]) -> None:
    net.conv(c, hidden, hw, k[0])
    net.conv(hidden, c, hw, k[1])
    if add:
        net.simple("Add", c, hw, reads=2)


def _c3k2(net: Net, cin: int, cout: int, hw: int, n: int, c3k: bool, e: float = 0.5) -> int:
    c = int(cout * e)
    net.conv(cin, 2 * c, hw)
    net.simple("Split", 2 * c, hw)
    for _ in range(n):
        if c3k:
            h = c // 2
            net.conv(c, h, hw)
            net.conv(c, h, hw)
            for _ in range(2):
                _bottleneck(net, h, h, hw, True, (3, 3))
            net.simple("Concat", 2 * h, hw)
            net.conv(2 * h, c, hw)
        else:
            _bottleneck(net, c, c // 2, hw, True, (3, 3))
    net.simple("Concat", (2 + n) * c, hw)
    return net.conv((2 + n) * c, cout, hw)


def _psa(net: Net, c: int, hw: int, n: int) -> None:
    h = c // 2
    net.conv(c, c, hw)
    heads, tokens = max(h // 64, 1), hw * hw
    for _ in range(n):
        net.conv(h, 2 * h, hw, act=False)
        net.matmul(heads, tokens, 32, tokens)
        net.nodes.append(Node(f"softmax{len(net.nodes)}", "Softmax", "softmax", in_elems=heads * tokens**2,
                              out_elems=heads * tokens**2, out_shapes=((1, heads, tokens, tokens),)))
        net.matmul(heads, 64, tokens, tokens)
        net.conv(h, h, hw, 3, g=h, act=False)
        net.conv(h, h, hw, act=False)
        net.conv(h, 2 * h, hw)
        net.conv(2 * h, h, hw, act=False)
        net.simple("Add", h, hw, reads=2)
        net.simple("Add", h, hw, reads=2)
    net.conv(c, c, hw)


def yolo11(scale: str) -> list[Node]:
    """YOLO11 detection, 80 classes, 640x640."""
    depth, width, most = {"n": (.5, .25, 1024), "s": (.5, .5, 1024), "m": (.5, 1, 512), "l": (1, 1, 512),
                          "x": (1, 1.5, 512)}[scale]
    big, n = scale in "mlx", max(round(2 * depth), 1)

    def ch(c: int) -> int:
        return math.ceil(min(c, most) * width / 8) * 8

    net = Net()
    net.conv(3, ch(64), 640, 3, 2)
    net.conv(ch(64), ch(128), 320, 3, 2)
    _c3k2(net, ch(128), ch(256), 160, n, big, .25)
    net.conv(ch(256), ch(256), 160, 3, 2)
    p3 = _c3k2(net, ch(256), ch(512), 80, n, big, .25)
    net.conv(p3, ch(512), 80, 3, 2)
    p4 = _c3k2(net, ch(512), ch(512), 40, n, True)
    net.conv(p4, ch(1024), 40, 3, 2)
    p5 = _c3k2(net, ch(1024), ch(1024), 20, n, True)
    net.conv(p5, p5 // 2, 20)
    for _ in range(3):
        net.simple("MaxPool", p5 // 2, 20, kernel=5)
    net.simple("Concat", 2 * p5, 20)
    net.conv(2 * p5, p5, 20)
    _psa(net, p5, 20, n)
    net.simple("Resize", p5, 40)
    net.simple("Concat", p5 + p4, 40)
    n4 = _c3k2(net, p5 + p4, ch(512), 40, n, big)
    net.simple("Resize", n4, 80)
    net.simple("Concat", n4 + p3, 80)
    o3 = _c3k2(net, n4 + p3, ch(256), 80, n, big)
    net.conv(o3, ch(256), 80, 3, 2)
    net.simple("Concat", o3 + n4, 40)
    o4 = _c3k2(net, o3 + n4, ch(512), 40, n, big)
    net.conv(o4, ch(512), 40, 3, 2)
    net.simple("Concat", o4 + p5, 20)
    o5 = _c3k2(net, o4 + p5, ch(1024), 20, n, True)
    c2, c3 = max(16, o3 // 4, 64), max(o3, 80)
    for c, hw in ((o3, 80), (o4, 40), (o5, 20)):
        net.conv(c, c2, hw, 3)
        net.conv(c2, c2, hw, 3)
        net.conv(c2, 64, hw, act=False)
        net.conv(c, c, hw, 3, g=c)
        net.conv(c, c3, hw)
        net.conv(c3, c3, hw, 3, g=c3)
        net.conv(c3, c3, hw)
        net.conv(c3, 80, hw, act=False)
        net.simple("Concat", 144, hw)
        net.simple("Sigmoid", 80, hw)
        net.simple("Softmax", 64, hw)
    return net.nodes


def yolox(scale: str) -> list[Node]:
    """YOLOX, 80 classes, 640x640 (nano and tiny 416x416); nano's 3x3 convolutions are depthwise separable."""
    depth, width, side = {"Nano": (.33, .25, 416), "Tiny": (.33, .375, 416), "S": (.33, .5, 640),
                          "M": (.67, .75, 640)}[scale]
    light, n, net = scale == "Nano", max(round(3 * depth), 1), Net()

    def ch(c: int) -> int:
        return int(c * width)

    def big(cin: int, cout: int, hw: int, s: int = 1) -> int:
        if not light:
            return net.conv(cin, cout, hw, 3, s)
        net.conv(cin, cin, hw, 3, s, g=cin)
        return net.conv(cin, cout, math.ceil(hw / s))

    def csp(cin: int, cout: int, hw: int, reps: int, add: bool) -> int:
        h = cout // 2
        net.conv(cin, h, hw)
        net.conv(cin, h, hw)
        for _ in range(reps):
            net.conv(h, h, hw)
            big(h, h, hw)
            if add:
                net.simple("Add", h, hw, reads=2)
        net.simple("Concat", 2 * h, hw)
        return net.conv(2 * h, cout, hw)

    s8, s16, s32 = side // 8, side // 16, side // 32
    for _ in range(5):
        net.simple("Slice", 3, side // 2)
    net.conv(12, ch(64), side // 2, 3)
    big(ch(64), ch(128), side // 2, 2)
    csp(ch(128), ch(128), side // 4, n, True)
    big(ch(128), ch(256), side // 4, 2)
    csp(ch(256), ch(256), s8, 3 * n, True)
    big(ch(256), ch(512), s8, 2)
    csp(ch(512), ch(512), s16, 3 * n, True)
    big(ch(512), ch(1024), s16, 2)
    net.conv(ch(1024), ch(512), s32)
    for k in (5, 9, 13):
        net.simple("MaxPool", ch(512), s32, kernel=k)
    net.simple("Concat", ch(2048), s32)
    net.conv(ch(2048), ch(1024), s32)
    csp(ch(1024), ch(1024), s32, n, False)
    net.conv(ch(1024), ch(512), s32)
    net.simple("Resize", ch(512), s16)
    net.simple("Concat", ch(1024), s16)
    csp(ch(1024), ch(512), s16, n, False)
    net.conv(ch(512), ch(256), s16)
    net.simple("Resize", ch(256), s8)
    net.simple("Concat", ch(512), s8)
    csp(ch(512), ch(256), s8, n, False)
    big(ch(256), ch(256), s8, 2)
    net.simple("Concat", ch(512), s16)
    csp(ch(512), ch(512), s16, n, False)
    big(ch(512), ch(512), s16, 2)
    net.simple("Concat", ch(1024), s32)
    csp(ch(1024), ch(1024), s32, n, False)
    for c, hw in ((ch(256), s8), (ch(512), s16), (ch(1024), s32)):
        _yolox_head(net, c, ch(256), hw, big)
    return net.nodes


def _yolox_head(net: Net, cin: int, c: int, hw: int, big: Callable[[int, int, int], int]) -> None:
    net.conv(cin, c, hw)
    for outputs in ((80,), (4, 1)):
        big(c, c, hw)
        big(c, c, hw)
        for out in outputs:
            net.conv(c, out, hw, act=False)
    net.simple("Sigmoid", 81, hw)
    net.simple("Concat", 85, hw)


def nets() -> dict[str, list[Node]]:
    """Every net, by the name that the published rows use."""
    return {**{f"YOLO11{s}": yolo11(s) for s in "nsmlx"},
            **{f"YOLOX-{s}": yolox(s) for s in ("Nano", "Tiny", "S", "M")}}
