"""YOLOv8, ResNet and ViT as `Node`s: nets whose latency through TensorRT is published.

Architectures from the YOLOv8 documentation, He et al. 2016 and Dosovitskiy et al. 2021; `fit_gpus.py` checks the
multiply-adds of YOLOv8 against the published ones.
"""

from __future__ import annotations

import math

from yolo_nets import Net, yolo11

from autoprune.devices.node import Node

__all__ = ["PUBLISHED_GFLOPS", "nets"]

PUBLISHED_GFLOPS = {"YOLOv8n": 8.7, "YOLOv8s": 28.6, "YOLOv8m": 78.9, "YOLOv8l": 165.2, "YOLOv8x": 257.8}


def _c2f(net: Net, cin: int, cout: int, hw: int, n: int, add: bool) -> int:
    c = cout // 2
    net.conv(cin, 2 * c, hw)
    for _ in range(n):
        net.conv(c, c, hw, 3)
        net.conv(c, c, hw, 3)
        if add:
            net.simple("Add", c, hw, reads=2)
    net.simple("Concat", (2 + n) * c, hw)
    return net.conv((2 + n) * c, cout, hw)


def yolov8(scale: str) -> list[Node]:
    """YOLOv8 detection, 80 classes, 640x640."""
    depth, width, most = {"n": (.33, .25, 1024), "s": (.33, .5, 1024), "m": (.67, .75, 768), "l": (1, 1, 512),
                          "x": (1, 1.25, 512)}[scale]

    def ch(c: int) -> int:
        return math.ceil(min(c, most) * width / 8) * 8

    n, net = [max(round(k * depth), 1) for k in (3, 6)], Net()
    net.conv(3, ch(64), 640, 3, 2)
    net.conv(ch(64), ch(128), 320, 3, 2)
    _c2f(net, ch(128), ch(128), 160, n[0], True)
    net.conv(ch(128), ch(256), 160, 3, 2)
    _c2f(net, ch(256), ch(256), 80, n[1], True)
    net.conv(ch(256), ch(512), 80, 3, 2)
    _c2f(net, ch(512), ch(512), 40, n[1], True)
    net.conv(ch(512), ch(1024), 40, 3, 2)
    _c2f(net, ch(1024), ch(1024), 20, n[0], True)
    net.conv(ch(1024), ch(1024) // 2, 20)
    for _ in range(3):
        net.simple("MaxPool", ch(1024) // 2, 20, kernel=5)
    net.conv(2 * ch(1024), ch(1024), 20)
    net.simple("Resize", ch(1024), 40)
    _c2f(net, ch(1024) + ch(512), ch(512), 40, n[0], False)
    net.simple("Resize", ch(512), 80)
    _c2f(net, ch(512) + ch(256), ch(256), 80, n[0], False)
    net.conv(ch(256), ch(256), 80, 3, 2)
    _c2f(net, ch(256) + ch(512), ch(512), 40, n[0], False)
    net.conv(ch(512), ch(512), 40, 3, 2)
    _c2f(net, ch(512) + ch(1024), ch(1024), 20, n[0], False)
    c2, c3 = max(16, ch(256) // 4, 64), max(ch(256), 80)
    for c, hw in ((ch(256), 80), (ch(512), 40), (ch(1024), 20)):
        for hidden, out in ((c2, 64), (c3, 80)):
            net.conv(c, hidden, hw, 3)
            net.conv(hidden, hidden, hw, 3)
            net.conv(hidden, out, hw, act=False)
        net.simple("Concat", 144, hw)
    return net.nodes


def resnet(depths: tuple[int, ...], side: int) -> list[Node]:
    """ResNet with basic blocks (18 and 34)."""
    net, cin, hw = Net(), 64, side // 4
    net.conv(3, 64, side, 7, 2)
    net.simple("MaxPool", 64, hw, kernel=3)
    for stage, count in enumerate(depths):
        for block in range(count):
            cout, s = 64 << stage, 2 if stage and not block else 1
            net.conv(cin, cout, hw, 3, s)
            if s > 1:
                net.conv(cin, cout, hw, 1, s, act=False)
            hw = math.ceil(hw / s)
            net.conv(cout, cout, hw, 3)
            net.simple("Add", cout, hw, reads=2)
            cin = cout
    net.conv(512, 1000, 1)
    return net.nodes


def vit_base() -> list[Node]:
    """ViT-B/16 at 224 pixels: 197 tokens of 768."""
    net, tokens, width = Net(), 197, 768
    net.conv(3, width, 224, 16, 16, act=False)
    for _ in range(12):
        for k, n in ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)):
            net.nodes.append(Node(f"fc{len(net.nodes)}", "Gemm", "gemm", macs=tokens * k * n, in_elems=tokens * k,
                                  out_elems=tokens * n, weights=k * n, out_shapes=((tokens, n),)))
        net.matmul(12, tokens, 64, tokens)
        net.matmul(12, tokens, tokens, 64)
        for cls, op, size in (("layernorm", "LayerNormalization", tokens * width),) * 2 \
                + (("softmax", "Softmax", 12 * tokens * tokens),):
            net.nodes.append(Node(f"{cls}{len(net.nodes)}", op, cls, in_elems=size, out_elems=size))
    return net.nodes


def nets() -> dict[str, list[Node]]:
    """Every net, by the name that the published rows use."""
    return {**{f"YOLO11{s}": yolo11(s) for s in "nsmlx"}, **{f"YOLOv8{s}": yolov8(s) for s in "nsmlx"},
            **{f"yolov8{s}": yolov8(s) for s in "nsml"}, "ViT": vit_base(),
            "resnet18": resnet((2, 2, 2, 2), 256), "resnet34": resnet((3, 4, 6, 3), 256)}
