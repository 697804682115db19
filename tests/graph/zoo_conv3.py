"""Convolutional models after well-known architectures: fusions of resolutions, attention over maps, restoration."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from .zoo_conv import Built, _cbr, _Head, _image


def hrnet_fusion() -> Built:
    class Fuse(nn.Module):
        def __init__(self, widths: tuple[int, ...]):
            super().__init__()
            self.n = len(widths)
            self.paths = nn.ModuleList()
            for i, o in enumerate(widths):
                row = nn.ModuleList()
                for j, c in enumerate(widths):
                    if j == i:
                        row.append(nn.Identity())
                    elif j > i:
                        row.append(nn.Sequential(nn.Conv2d(c, o, 1, bias=False), nn.BatchNorm2d(o)))
                    else:
                        steps = [_cbr(c, c, 3, 2) for _ in range(i - j - 1)]
                        row.append(nn.Sequential(*steps, nn.Conv2d(c, o, 3, 2, 1, bias=False), nn.BatchNorm2d(o)))
                self.paths.append(row)

        def forward(self, xs: list[torch.Tensor]) -> list[torch.Tensor]:
            out = []
            for i, row in enumerate(self.paths):
                y = xs[i]
                for j in range(self.n):
                    if j != i:
                        z = row[j](xs[j])
                        y = y + (F.interpolate(z, size=xs[i].shape[-2:], mode="bilinear", align_corners=False)
                                 if j > i else z)
                out.append(F.relu(y))
            return out

    class HRNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.down, self.down2 = _cbr(3, 8), _cbr(8, 12, 3, 2), _cbr(12, 16, 3, 2)
            self.f1, self.f2 = Fuse((8, 12, 16)), Fuse((8, 12, 16))
            self.last = nn.Conv2d(36, 5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a = self.stem(x)
            b = self.down(a)
            xs = self.f2(self.f1([a, b, self.down2(b)]))
            up = [F.interpolate(y, size=xs[0].shape[-2:], mode="nearest") for y in xs]
            return self.last(torch.cat(up, 1))

    return HRNet(), _image()


def nafnet() -> Built:
    class LayerNorm2d(nn.Module):
        def __init__(self, c: int):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.ones(c)), nn.Parameter(torch.zeros(c))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mu = x.mean(1, keepdim=True)
            var = (x - mu).pow(2).mean(1, keepdim=True)
            return self.weight.view(1, -1, 1, 1) * ((x - mu) / (var + 1e-6).sqrt()) + self.bias.view(1, -1, 1, 1)

    class Block(nn.Module):
        def __init__(self, c: int):
            super().__init__()
            self.n1, self.n2 = LayerNorm2d(c), LayerNorm2d(c)
            self.c1, self.c2, self.c3 = nn.Conv2d(c, 2 * c, 1), nn.Conv2d(2 * c, 2 * c, 3, 1, 1, groups=2 * c), \
                nn.Conv2d(c, c, 1)
            self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, c, 1))
            self.c4, self.c5 = nn.Conv2d(c, 2 * c, 1), nn.Conv2d(c, c, 1)
            self.beta, self.gamma = nn.Parameter(torch.ones(1, c, 1, 1)), nn.Parameter(torch.ones(1, c, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b = self.c2(self.c1(self.n1(x))).chunk(2, dim=1)
            y = a * b
            y = x + self.c3(y * self.sca(y)) * self.beta
            a, b = self.c4(self.n2(y)).chunk(2, dim=1)
            return y + self.c5(a * b) * self.gamma

    class NAFNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.intro, self.ending = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 3, 3, 1, 1)
            self.enc, self.down, self.mid = Block(8), nn.Conv2d(8, 16, 2, 2), Block(16)
            self.up, self.dec = nn.Sequential(nn.Conv2d(16, 32, 1, bias=False), nn.PixelShuffle(2)), Block(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            e = self.enc(self.intro(x))
            y = self.up(self.mid(self.down(e))) + e
            return self.ending(self.dec(y)) + x

    return NAFNet(), _image()


def restormer() -> Built:
    class MDTA(nn.Module):
        def __init__(self, c: int, heads: int):
            super().__init__()
            self.heads, self.temperature = heads, nn.Parameter(torch.ones(heads, 1, 1))
            self.qkv, self.dw = nn.Conv2d(c, 3 * c, 1), nn.Conv2d(3 * c, 3 * c, 3, 1, 1, groups=3 * c)
            self.out = nn.Conv2d(c, c, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, c, h, w = x.shape
            q, k, v = self.dw(self.qkv(x)).chunk(3, dim=1)
            q, k, v = (z.reshape(b, self.heads, c // self.heads, h * w) for z in (q, k, v))
            q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
            attn = (q @ k.transpose(-2, -1) * self.temperature).softmax(-1)
            return self.out((attn @ v).reshape(b, c, h, w))

    class GDFN(nn.Module):
        def __init__(self, c: int):
            super().__init__()
            h = int(c * 2.66)
            self.i, self.dw, self.o = nn.Conv2d(c, 2 * h, 1), nn.Conv2d(2 * h, 2 * h, 3, 1, 1, groups=2 * h), \
                nn.Conv2d(h, c, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b = self.dw(self.i(x)).chunk(2, dim=1)
            return self.o(F.gelu(a) * b)

    class Restormer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.a, self.f = nn.Conv2d(3, 12, 3, 1, 1), MDTA(12, 3), GDFN(12)
            self.n1, self.n2 = nn.GroupNorm(1, 12), nn.GroupNorm(1, 12)
            self.down = nn.Sequential(nn.Conv2d(12, 6, 3, 1, 1, bias=False), nn.PixelUnshuffle(2))
            self.a2, self.o = MDTA(24, 4), nn.Conv2d(24, 12, 1)
            self.ps, self.last = nn.PixelShuffle(2), nn.Conv2d(15, 3, 3, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.embed(x)
            y = y + self.a(self.n1(y))
            y = y + self.f(self.n2(y))
            z = self.down(y)
            z = self.ps(self.o(z + self.a2(z)))
            return self.last(torch.cat([y, z], 1)) + x

    return Restormer(), _image(1, 3, 8)


def fpn_dict_heads() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.k, self.a = 4, 3
            self.s1, self.s2, self.s3 = _cbr(3, 8, 3, 2), _cbr(8, 12, 3, 2), _cbr(12, 16, 3, 2)
            self.lat = nn.ModuleList([nn.Conv2d(c, 10, 1) for c in (8, 12, 16)])
            self.smooth = nn.ModuleList([nn.Conv2d(10, 10, 3, 1, 1) for _ in range(3)])
            self.tower = nn.Sequential(nn.Conv2d(10, 10, 3, 1, 1), nn.GroupNorm(2, 10), nn.ReLU())
            self.cls, self.box = nn.Conv2d(10, self.a * self.k, 3, 1, 1), nn.Conv2d(10, self.a * 4, 3, 1, 1)
            self.scales = nn.ParameterList([nn.Parameter(torch.tensor(1.0)) for _ in range(3)])
            self.mask = nn.ConvTranspose2d(10, 2, 2, 2)

        def forward(self, x: torch.Tensor) -> dict[str, Any]:
            c = [self.s1(x)]
            c.append(self.s2(c[-1]))
            c.append(self.s3(c[-1]))
            p = [lat(y) for lat, y in zip(self.lat, c, strict=True)]
            for i in (1, 0):
                p[i] = p[i] + F.interpolate(p[i + 1], scale_factor=2, mode="nearest")
            p = [s(y) for s, y in zip(self.smooth, p, strict=True)]
            p.append(F.max_pool2d(p[-1], 1, 2))
            cls, box = [], []
            for i, y in enumerate(p[:3]):
                t = self.tower(y)
                n, _, h, w = t.shape
                z = self.cls(t).view(n, self.a, self.k, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, self.k)
                cls.append(z.sigmoid())
                box.append((self.box(t) * self.scales[i]).exp().permute(0, 2, 3, 1).reshape(n, -1, 4))
            return {"classes": torch.cat(cls, 1), "boxes": torch.cat(box, 1), "mask": self.mask(p[0]),
                    "features": [p[-1].mean((2, 3))]}

    return Net(), _image(2)


def yolo_head_decode() -> Built:
    class Focus(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)

    class SPPF(nn.Module):
        def __init__(self, c: int):
            super().__init__()
            self.a, self.b = _cbr(c, c // 2, 1), _cbr(2 * c, c, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = [self.a(x)]
            for _ in range(3):
                y.append(F.max_pool2d(y[-1], 5, 1, 2))
            return self.b(torch.cat(y, 1))

    class C2f(nn.Module):
        def __init__(self, c: int):
            super().__init__()
            self.a, self.b = nn.Conv2d(c, c, 1), nn.Conv2d(2 * c, c, 1)
            self.m = nn.ModuleList([nn.Sequential(_cbr(c // 2, c // 2), _cbr(c // 2, c // 2)) for _ in range(2)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = list(self.a(x).split((self.a.out_channels // 2, self.a.out_channels // 2), 1))
            for m in self.m:
                y.append(y[-1] + m(y[-1]))
            return self.b(torch.cat(y, 1))

    class Detect(nn.Module):
        def __init__(self, c: tuple[int, ...]):
            super().__init__()
            self.reg, self.nc = 4, 3
            self.box = nn.ModuleList([nn.Sequential(_cbr(x, 8), nn.Conv2d(8, 4 * self.reg, 1)) for x in c])
            self.cls = nn.ModuleList([nn.Sequential(_cbr(x, 8), nn.Conv2d(8, self.nc, 1)) for x in c])
            self.dfl = nn.Conv2d(self.reg, 1, 1, bias=False)
            self.dfl.weight.data[:] = torch.arange(self.reg).float().view(1, -1, 1, 1)

        def forward(self, xs: list[torch.Tensor]) -> torch.Tensor:
            out = [torch.cat([b(x), c(x)], 1).flatten(2) for x, b, c in zip(xs, self.box, self.cls, strict=True)]
            box, cls = torch.cat(out, 2).split((4 * self.reg, self.nc), 1)
            n, _, a = box.shape
            d = self.dfl(box.view(n, 4, self.reg, a).transpose(2, 1).softmax(1)).view(n, 4, a)
            lt, rb = d.chunk(2, 1)
            return torch.cat([(rb - lt) / 2, lt + rb, cls.sigmoid()], 1)

    class Yolo(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(Focus(), _cbr(12, 8))
            self.c1, self.d, self.c2, self.spp = C2f(8), _cbr(8, 16, 3, 2), C2f(16), SPPF(16)
            self.fuse, self.detect = _cbr(24, 8), Detect((8, 16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a = self.c1(self.stem(x))
            b = self.spp(self.c2(self.d(a)))
            a = self.fuse(torch.cat([nn.functional.interpolate(b, scale_factor=2.0), a], 1))
            return self.detect([a, b])

    return Yolo(), _image(1, 3, 32)


def norms_of_all_groups() -> Built:
    class AdaIN(nn.Module):
        def __init__(self, c: int):
            super().__init__()
            self.style = nn.Linear(5, 2 * c)

        def forward(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
            scale, shift = self.style(s)[:, :, None, None].chunk(2, 1)
            return F.instance_norm(x) * (1 + scale) + shift

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = _cbr(3, 12), nn.Conv2d(12, 12, 3, 1, 1), nn.Conv2d(12, 16, 3, 2, 1), \
                nn.Conv2d(16, 8, 1)
            self.g1, self.g2, self.g3 = nn.GroupNorm(12, 12), nn.GroupNorm(4, 16), nn.GroupNorm(1, 8, affine=False)
            self.ada, self.act, self.one = AdaIN(8), nn.PReLU(16), nn.PReLU()
            self.lrn, self.fc = nn.LocalResponseNorm(5), nn.Linear(8, 3)
            self.alpha = nn.Parameter(torch.zeros(()))

        def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            y = y + self.alpha.tanh() * self.one(self.g1(self.b(y)))
            y = self.lrn(self.act(self.g2(self.c(y))))
            return self.fc(self.ada(self.g3(self.d(y)), style).amax((-2, -1)))

    return Net(), (_image(2, 3, 8), torch.randn(2, 5))


def depthwise_3d() -> Built:
    class Block(nn.Module):
        def __init__(self, i: int, o: int, stride: Any = 1):
            super().__init__()
            self.dw = nn.Conv3d(i, i, (3, 1, 1), stride, (1, 0, 0), groups=i, bias=False)
            self.sp = nn.Conv3d(i, o, (1, 3, 3), 1, (0, 1, 1), groups=2)
            self.bn, self.act = nn.BatchNorm3d(o), nn.Hardswish()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(self.bn(self.sp(self.dw(x))))

    return nn.Sequential(nn.Conv3d(2, 8, 1), Block(8, 8), Block(8, 12, (2, 1, 1)), nn.AvgPool3d(2),
                         nn.ConvTranspose3d(12, 6, 2, 2, groups=3), nn.AdaptiveMaxPool3d((1, 2, 2)), nn.Flatten(1),
                         nn.Linear(24, 3)), torch.randn(2, 2, 4, 8, 8)


def deformable() -> Built:
    """Sampling where a convolution says: offsets for each tap, samples, then a 1 × 1 convolution over the taps."""

    class Deform(nn.Module):
        def __init__(self, i: int, o: int):
            super().__init__()
            self.offset, self.mask = nn.Conv2d(i, 8, 3, 1, 1), nn.Conv2d(i, 4, 3, 1, 1)
            self.mix = nn.Conv2d(4 * i, o, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            n, _, h, w = x.shape
            offset = self.offset(x).view(n, 4, 2, h, w).permute(0, 1, 3, 4, 2).tanh()
            ys, xs = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
            base = torch.stack([xs, ys], -1)
            m = self.mask(x).sigmoid()
            taps = [F.grid_sample(x, base + offset[:, k], align_corners=True) * m[:, k : k + 1] for k in range(4)]
            return self.mix(torch.cat(taps, 1))

    return _Head(nn.Sequential(_cbr(3, 8), Deform(8, 6), nn.ReLU(), Deform(6, 8)), 8), _image(2, 3, 8)


def style_modulation() -> Built:
    """Weights scaled for each sample and normalised again (StyleGAN 2), with a grouped convolution over the batch."""

    class Modulated(nn.Module):
        def __init__(self, i: int, o: int):
            super().__init__()
            self.weight, self.affine = nn.Parameter(torch.randn(o, i, 3, 3)), nn.Linear(6, i)
            self.noise, self.bias = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(o))

        def forward(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
            style = self.affine(s)
            demod = ((self.weight[None] * style[:, None, :, None, None]).square().sum((2, 3, 4)) + 1e-8).rsqrt()
            y = F.conv2d(x * style[:, :, None, None], self.weight, padding=1) * demod[:, :, None, None]
            return F.leaky_relu(y + self.noise * y.mean((2, 3), keepdim=True) + self.bias[:, None, None], 0.2)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(0.2), nn.Linear(8, 6))
            self.const = nn.Parameter(torch.randn(1, 8, 4, 4))
            self.a, self.b, self.rgb1, self.rgb2 = Modulated(8, 12), Modulated(12, 6), nn.Conv2d(12, 3, 1), \
                nn.Conv2d(6, 3, 1)

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            w = self.map(z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt())
            y = self.a(self.const.expand(z.shape[0], -1, -1, -1), w)
            rgb = F.interpolate(self.rgb1(y), scale_factor=2, mode="bilinear")
            return rgb + self.rgb2(self.b(F.interpolate(y, scale_factor=2), w))

    return Net(), torch.randn(2, 4)


def shuffles() -> Built:
    """Channel shuffles in every spelling."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = _cbr(3, 12), nn.Conv2d(12, 12, 3, 1, 1, groups=3), \
                nn.Conv2d(12, 12, 1, groups=2), nn.Conv2d(12, 8, 1, groups=4)
            self.shuffle = nn.ChannelShuffle(3)
            self.fc = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = F.relu(self.shuffle(self.b(self.a(x))))
            n, c, h, w = y.shape
            y = y.reshape(n, 2, c // 2, h, w).transpose(1, 2).flatten(1, 2)
            y = self.c(y).reshape(n, c // 4, 4, h * w).permute(0, 2, 1, 3).reshape(n, c, h, w)
            return self.fc(self.d(y).mean((2, 3)))

    return Net(), _image(2, 3, 8)


def stochastic_depth() -> Built:
    class Block(nn.Module):
        def __init__(self, c: int):
            super().__init__()
            self.f, self.scale = nn.Sequential(_cbr(c, c), nn.Conv2d(c, c, 3, 1, 1)), nn.Parameter(torch.ones(c, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.f(x) * self.scale
            if self.training:
                y = y * torch.bernoulli(torch.full((x.shape[0], 1, 1, 1), 0.8)) / 0.8
            return x + y

    return _Head(nn.Sequential(_cbr(3, 8), nn.Dropout2d(0.1), Block(8), Block(8), nn.AlphaDropout(0.1)), 8), _image()


def spectral_linear() -> Built:
    """Discriminator with normalised weights in every spelling."""
    return nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(3, 8, 4, 2, 1)), nn.LeakyReLU(0.2),
                         nn.utils.weight_norm(nn.Conv2d(8, 12, 4, 2, 1)), nn.LeakyReLU(0.2), nn.Flatten(),
                         parametrizations.weight_norm(nn.Linear(12 * 16, 10), dim=None), nn.SELU(),
                         parametrizations.orthogonal(nn.Linear(10, 6)),
                         parametrizations.spectral_norm(nn.Linear(6, 1))), _image(2, 3, 16)
