"""Convolutional models."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Built = tuple[nn.Module, Any]


def _image(batch: int = 1, channels: int = 3, size: int = 16) -> torch.Tensor:
    return torch.randn(batch, channels, size, size)


def _cbr(i: int, o: int, k: int = 3, s: int = 1, g: int = 1, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(o), act())


class _Head(nn.Module):
    def __init__(self, body: nn.Module, width: int, classes: int = 5):
        super().__init__()
        self.body, self.fc = body, nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(x).mean((2, 3)))


def vgg_flatten() -> Built:
    return nn.Sequential(_cbr(3, 8), nn.MaxPool2d(2), _cbr(8, 12), nn.MaxPool2d(2), nn.Flatten(),
                         nn.Linear(12 * 16, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 5)), _image()


class _DenseLayer(nn.Module):
    def __init__(self, i: int, growth: int):
        super().__init__()
        self.f = nn.Sequential(nn.BatchNorm2d(i), nn.ReLU(), nn.Conv2d(i, 4 * growth, 1), nn.BatchNorm2d(4 * growth),
                               nn.ReLU(), nn.Conv2d(4 * growth, growth, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.f(x)], 1)


def densenet() -> Built:
    return _Head(nn.Sequential(_cbr(3, 8), _DenseLayer(8, 6), _DenseLayer(14, 6), _cbr(20, 10, 1), nn.AvgPool2d(2),
                               _DenseLayer(10, 6)), 16), _image(2)


def inception() -> Built:
    class Block(nn.Module):
        def __init__(self, i: int):
            super().__init__()
            self.a, self.b = _cbr(i, 4, 1), nn.Sequential(_cbr(i, 6, 1), _cbr(6, 8))
            self.c, self.d = nn.Sequential(_cbr(i, 4, 1), _cbr(4, 6, 5)), _cbr(i, 6, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.a(x), self.b(x), self.c(x), self.d(F.max_pool2d(x, 3, 1, 1))], 1)

    return _Head(nn.Sequential(_cbr(3, 8), Block(8), Block(24)), 24), _image()


def shufflenet() -> Built:
    class Unit(nn.Module):
        def __init__(self, c: int, stride: int):
            super().__init__()
            half = c // 2
            i = half if stride == 1 else c
            self.stride = stride
            self.f = nn.Sequential(_cbr(i, half, 1), _cbr(half, half, 3, stride, half, nn.Identity),
                                   _cbr(half, half, 1))
            self.g = nn.Sequential(_cbr(c, c, 3, 2, c, nn.Identity), _cbr(c, half, 1)) if stride == 2 else None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.g is None:
                a, b = x.chunk(2, dim=1)
                out = torch.cat((a, self.f(b)), 1)
            else:
                out = torch.cat((self.g(x), self.f(x)), 1)
            n, c, h, w = out.shape
            return out.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)

    return _Head(nn.Sequential(_cbr(3, 16), Unit(16, 2), Unit(16, 1), Unit(16, 1)), 16), _image(2)


def shufflenet_v1() -> Built:
    class Unit(nn.Module):
        def __init__(self, c: int):
            super().__init__()
            self.a, self.s = _cbr(c, c // 2, 1, g=3), nn.ChannelShuffle(3)
            self.b, self.c = _cbr(c // 2, c // 2, 3, g=c // 2), _cbr(c // 2, c, 1, g=3, act=nn.Identity)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu(x + self.c(self.b(self.s(self.a(x)))))

    return _Head(nn.Sequential(_cbr(3, 24), Unit(24), Unit(24)), 24), _image()


def unet() -> Built:
    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.d1, self.d2, self.mid = _cbr(3, 6), _cbr(6, 12), _cbr(12, 24)
            self.u2, self.c2 = nn.ConvTranspose2d(24, 12, 2, 2), _cbr(24, 12)
            self.u1, self.c1 = nn.ConvTranspose2d(12, 6, 2, 2), _cbr(12, 6)
            self.out = nn.Conv2d(6, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a = self.d1(x)
            b = self.d2(F.max_pool2d(a, 2))
            m = self.mid(F.max_pool2d(b, 2))
            y = self.c2(torch.cat([self.u2(m), b], 1))
            return self.out(self.c1(torch.cat([self.u1(y), a], 1)))

    return UNet(), _image(1, 3, 16)


def unet_bilinear() -> Built:
    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.out = _cbr(3, 6), _cbr(6, 12, 3, 2), _cbr(18, 6), nn.Conv2d(6, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a = self.a(x)
            up = F.interpolate(self.b(a), size=a.shape[-2:], mode="bilinear", align_corners=False)
            dy, dx = a.size(2) - up.size(2), a.size(3) - up.size(3)
            up = F.pad(up, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
            return self.out(self.c(torch.cat([a, up], 1)))

    return UNet(), _image(2)


def fpn_ssd() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stages = nn.ModuleList([_cbr(3, 8, 3, 2), _cbr(8, 12, 3, 2), _cbr(12, 16, 3, 2)])
            self.lateral = nn.ModuleList([nn.Conv2d(c, 10, 1) for c in (8, 12, 16)])
            self.smooth = nn.Conv2d(10, 10, 3, padding=1)
            self.boxes, self.scores = nn.Conv2d(10, 3 * 4, 3, padding=1), nn.Conv2d(10, 3 * 7, 3, padding=1)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            c = []
            for s in self.stages:
                x = s(x)
                c.append(x)
            p = [self.lateral[2](c[2])]
            for i in (1, 0):
                p.append(self.lateral[i](c[i]) + F.interpolate(p[-1], scale_factor=2.0, mode="nearest"))
            p = [self.smooth(y) for y in p]
            n = x.shape[0]
            boxes = torch.cat([self.boxes(y).permute(0, 2, 3, 1).reshape(n, -1, 4) for y in p], 1)
            scores = torch.cat([self.scores(y).permute(0, 2, 3, 1).reshape(n, -1, 7) for y in p], 1)
            return {"boxes": boxes, "scores": scores.softmax(-1)}

    return Net(), _image(1, 3, 32)


def pixel_shuffle() -> Built:
    return nn.Sequential(_cbr(3, 8), nn.PixelUnshuffle(2), _cbr(32, 16), nn.Conv2d(16, 24, 3, padding=1),
                         nn.PixelShuffle(2), nn.PReLU(6), nn.Conv2d(6, 3, 3, padding=1)), _image()


class _SE(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.a, self.b = nn.Linear(c, c // 2), nn.Linear(c // 2, c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, _, _ = x.size()
        y = F.adaptive_avg_pool2d(x, 1).view(n, c)
        return x * torch.sigmoid(self.b(F.relu(self.a(y)))).view(n, c, 1, 1)


def se_block() -> Built:
    return _Head(nn.Sequential(_cbr(3, 12), _SE(12), _cbr(12, 12), _SE(12)), 12), _image()


def cbam() -> Built:
    class CBAM(nn.Module):
        def __init__(self, c: int):
            super().__init__()
            self.mlp = nn.Sequential(nn.Conv2d(c, c // 2, 1), nn.ReLU(), nn.Conv2d(c // 2, c, 1))
            self.spatial = nn.Conv2d(2, 1, 7, padding=3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x * torch.sigmoid(self.mlp(F.adaptive_avg_pool2d(x, 1)) + self.mlp(F.adaptive_max_pool2d(x, 1)))
            s = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
            return x * torch.sigmoid(self.spatial(s))

    return _Head(nn.Sequential(_cbr(3, 8), CBAM(8), _cbr(8, 12), CBAM(12)), 12), _image(2)


def eca() -> Built:
    class ECA(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = F.adaptive_avg_pool2d(x, 1)
            y = self.conv(y.squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
            return x * y.sigmoid().expand_as(x)

    return _Head(nn.Sequential(_cbr(3, 8), _cbr(8, 12), ECA(), _cbr(12, 12)), 12), _image()


def selective_kernel() -> Built:
    class SK(nn.Module):
        def __init__(self, c: int):
            super().__init__()
            self.paths = nn.ModuleList([_cbr(c, c, 3), _cbr(c, c, 5)])
            self.fc, self.select = nn.Linear(c, c // 2), nn.Linear(c // 2, 2 * c)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            u = torch.stack([p(x) for p in self.paths], 1)
            z = self.select(F.relu(self.fc(u.sum(1).mean((-2, -1)))))
            a = z.view(-1, 2, u.shape[2]).softmax(1)
            return (u * a[..., None, None]).sum(1)

    return _Head(nn.Sequential(_cbr(3, 8), SK(8)), 8), _image(2)


def split_attention() -> Built:
    class SplAt(nn.Module):
        def __init__(self, c: int):
            super().__init__()
            self.conv = nn.Conv2d(c, c * 2, 3, padding=1, groups=2)
            self.bn, self.a, self.b = nn.BatchNorm2d(c * 2), nn.Conv2d(c, c // 2, 1), nn.Conv2d(c // 2, c * 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.relu(self.bn(self.conv(x)))
            n, rc = x.shape[:2]
            parts = torch.split(x, rc // 2, dim=1)
            gap = F.adaptive_avg_pool2d(sum(parts), 1)
            att = self.b(F.relu(self.a(gap))).view(n, 1, 2, -1).transpose(1, 2).softmax(1).reshape(n, -1, 1, 1)
            return sum(p * a for p, a in zip(parts, torch.split(att, rc // 2, dim=1), strict=True))

    return _Head(nn.Sequential(_cbr(3, 8), SplAt(8)), 8), _image(2)


class _Residual(nn.Module):
    def __init__(self, f: nn.Module, shortcut: nn.Module | None = None):
        super().__init__()
        self.f, self.shortcut = f, shortcut or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.shortcut(x) + self.f(x))


def resnext() -> Built:
    def block(c: int, g: int) -> nn.Module:
        return _Residual(nn.Sequential(_cbr(c, c, 1), _cbr(c, c, 3, g=g), _cbr(c, c, 1, act=nn.Identity)))

    return _Head(nn.Sequential(_cbr(3, 16), block(16, 4), block(16, 4), block(16, 2)), 16), _image()


def resnet_option_a() -> Built:
    class Shortcut(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))

    f = nn.Sequential(_cbr(8, 16, 3, 2), _cbr(16, 16, act=nn.Identity))
    return _Head(nn.Sequential(_cbr(3, 8), _Residual(f, Shortcut()), _Residual(_cbr(16, 16))), 16), _image()


def mobilenet() -> Built:
    def inverted(i: int, o: int, s: int) -> nn.Module:
        f = nn.Sequential(_cbr(i, 4 * i, 1), _cbr(4 * i, 4 * i, 3, s, 4 * i), _cbr(4 * i, o, 1, act=nn.Identity))
        return _Residual(f) if i == o and s == 1 else f

    return _Head(nn.Sequential(_cbr(3, 8, act=nn.Hardswish), inverted(8, 12, 2), inverted(12, 12, 1)), 12), _image()


def depth_multiplier() -> Built:
    return _Head(nn.Sequential(_cbr(3, 6), nn.Conv2d(6, 18, 3, groups=6), nn.ReLU(), _cbr(18, 6, 1)), 6), _image()


def ghostnet() -> Built:
    class Ghost(nn.Module):
        def __init__(self, i: int, o: int):
            super().__init__()
            self.o = o
            self.primary = _cbr(i, (o + 1) // 2, 1)
            self.cheap = _cbr((o + 1) // 2, (o + 1) // 2, 3, g=(o + 1) // 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a = self.primary(x)
            return torch.cat([a, self.cheap(a)], 1)[:, : self.o]

    return _Head(nn.Sequential(_cbr(3, 8), Ghost(8, 11), Ghost(11, 12)), 12), _image()


def repvgg() -> Built:
    class Rep(nn.Module):
        def __init__(self, c: int):
            super().__init__()
            self.a = nn.Sequential(nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c))
            self.b = nn.Sequential(nn.Conv2d(c, c, 1, bias=False), nn.BatchNorm2d(c))
            self.c = nn.BatchNorm2d(c)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu(self.a(x) + self.b(x) + self.c(x))

    return _Head(nn.Sequential(_cbr(3, 8), Rep(8), Rep(8)), 8), _image()


def res2net() -> Built:
    class Bottle(nn.Module):
        def __init__(self, c: int):
            super().__init__()
            self.a, self.convs, self.z = _cbr(c, 16, 1), nn.ModuleList([_cbr(4, 4) for _ in range(3)]), _cbr(16, c, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            parts = torch.split(self.a(x), 4, 1)
            out, y = [parts[0]], parts[0]
            for conv, part in zip(self.convs, parts[1:], strict=True):
                y = conv(y + part)
                out.append(y)
            return x + self.z(torch.cat(out, 1))

    return _Head(nn.Sequential(_cbr(3, 8), Bottle(8)), 8), _image()


def csp_yolo() -> Built:
    class C2f(nn.Module):
        def __init__(self, c: int):
            super().__init__()
            self.c, self.a, self.m, self.z = c // 2, _cbr(c, c, 1), nn.ModuleList([_cbr(c // 2, c // 2)] * 1), None
            self.out = _cbr(3 * (c // 2), c, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = list(self.a(x).split((self.c, self.c), 1))
            y.extend(m(y[-1]) for m in self.m)
            return self.out(torch.cat(y, 1))

    class SPPF(nn.Module):
        def __init__(self, c: int):
            super().__init__()
            self.a, self.b, self.pool = _cbr(c, c // 2, 1), _cbr(c * 2, c, 1), nn.MaxPool2d(5, 1, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = [self.a(x)]
            y.extend(self.pool(y[-1]) for _ in range(3))
            return self.b(torch.cat(y, 1))

    class Detect(nn.Module):
        def __init__(self, c: int):
            super().__init__()
            self.box, self.cls, self.dfl = nn.Conv2d(c, 4 * 8, 1), nn.Conv2d(c, 6, 1), nn.Conv2d(8, 1, 1, bias=False)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            b, _, h, w = x.shape
            box, cls = torch.cat((self.box(x), self.cls(x)), 1).view(b, 38, h * w).split((32, 6), 1)
            box = self.dfl(box.view(b, 4, 8, h * w).transpose(2, 1).softmax(1)).view(b, 4, h * w)
            lt, rb = box.chunk(2, 1)
            return torch.cat((rb - lt, rb + lt), 1), cls.sigmoid()

    return nn.Sequential(_cbr(3, 8, act=nn.SiLU), C2f(8), _cbr(8, 12, 3, 2), C2f(12), SPPF(12), Detect(12)), _image(2)
