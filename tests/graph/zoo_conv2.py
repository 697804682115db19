"""More convolutional models: other norms, other ranks, parametrisations, shared modules."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from .zoo_conv import Built, _cbr, _Head, _image


def norms() -> Built:
    return _Head(nn.Sequential(nn.Conv2d(3, 12, 3), nn.GroupNorm(3, 12), nn.ReLU(), nn.Conv2d(12, 8, 3),
                               nn.InstanceNorm2d(8, affine=True), nn.ReLU(), nn.Conv2d(8, 10, 3), nn.GroupNorm(1, 10),
                               nn.LocalResponseNorm(2), nn.Conv2d(10, 8, 3), nn.InstanceNorm2d(8)), 8), _image()


def layer_norm_over_maps() -> Built:
    return _Head(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.LayerNorm([8, 16, 16]), nn.ReLU(),
                               nn.Conv2d(8, 6, 3)), 6), _image()


def convnext_channels_last() -> Built:
    class Block(nn.Module):
        def __init__(self, c: int):
            super().__init__()
            self.dw, self.norm = nn.Conv2d(c, c, 7, padding=3, groups=c), nn.LayerNorm(c)
            self.a, self.b, self.gamma = nn.Linear(c, 4 * c), nn.Linear(4 * c, c), nn.Parameter(torch.ones(c) * 0.1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.norm(self.dw(x).permute(0, 2, 3, 1))
            return x + (self.gamma * self.b(F.gelu(self.a(y)))).permute(0, 3, 1, 2)

    return _Head(nn.Sequential(nn.Conv2d(3, 8, 4, 4), Block(8), Block(8)), 8), _image()


def global_response_norm() -> Built:
    class GRN(nn.Module):
        def __init__(self, c: int):
            super().__init__()
            self.g, self.b = nn.Parameter(torch.ones(1, c, 1, 1)), nn.Parameter(torch.zeros(1, c, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            n = torch.norm(x, p=2, dim=(2, 3), keepdim=True)
            return self.g * (x * (n / (n.mean(dim=1, keepdim=True) + 1e-6))) + self.b + x

    return _Head(nn.Sequential(_cbr(3, 8), GRN(8), _cbr(8, 8)), 8), _image()


def weight_standardisation() -> Built:
    class WSConv(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            w = self.weight
            mean, std = w.mean((1, 2, 3), keepdim=True), w.std((1, 2, 3), keepdim=True) + 1e-5
            return F.conv2d(x, (w - mean) / std, self.bias, self.stride, self.padding, self.dilation, self.groups)

    class BNConv(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            w = F.batch_norm(self.weight.reshape(1, self.out_channels, -1), None, None, training=True).reshape_as(
                self.weight)
            return F.conv2d(x, w, self.bias, self.stride, self.padding)

    return _Head(nn.Sequential(WSConv(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), WSConv(8, 8, 3, groups=2), nn.ReLU(),
                               BNConv(8, 6, 3)), 6), _image()


def parametrised_norms() -> Built:
    return _Head(nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 8, 3)), nn.ReLU(),
                               parametrizations.spectral_norm(nn.Conv2d(8, 8, 3)), nn.ReLU(),
                               parametrizations.weight_norm(nn.Conv2d(8, 6, 1))), 6), _image()


def conv3d() -> Built:
    return nn.Sequential(nn.Conv3d(2, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU(), nn.MaxPool3d(2),
                         nn.Conv3d(6, 8, 3, padding=1, groups=2), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
                         nn.Linear(8, 3)), torch.randn(1, 2, 4, 8, 8)


def conv1d_tcn() -> Built:
    class Block(nn.Module):
        def __init__(self, i: int, o: int, d: int):
            super().__init__()
            self.pad, self.conv = 2 * d, nn.Conv1d(i, o, 3, padding=2 * d, dilation=d)
            self.down = nn.Conv1d(i, o, 1) if i != o else None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = F.relu(self.conv(x)[:, :, : -self.pad])
            return F.relu(y + (x if self.down is None else self.down(x)))

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x[:, :, -1])

    return nn.Sequential(Block(2, 6, 1), Block(6, 6, 2), Block(6, 8, 4), Last()), torch.randn(2, 2, 20)


def autoencoder() -> Built:
    return nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.ELU(), nn.Conv2d(6, 8, 3, 2, 1), nn.Flatten(), nn.Linear(128, 10),
                         nn.Linear(10, 128), nn.Unflatten(1, (8, 4, 4)), nn.ConvTranspose2d(8, 6, 4, 2, 1, groups=2),
                         nn.LeakyReLU(0.1), nn.ConvTranspose2d(6, 1, 4, 2, 1), nn.Sigmoid()), _image(2, 1, 16)


def vae() -> Built:
    class VAE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.d1, self.d2 = nn.Linear(20, 16), nn.Linear(4, 16), nn.Linear(16, 20)
            self.stats = nn.Linear(16, 8)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            mu, logvar = self.stats(F.relu(self.e(x))).chunk(2, -1)
            return self.d2(F.relu(self.d1(mu))), mu * 1.0, logvar.exp()

    return VAE(), torch.randn(2, 20)


def siamese() -> Built:
    class Siamese(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = nn.Sequential(_cbr(1, 6), _cbr(6, 8, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                                   nn.Linear(8, 12))
            self.head = nn.Linear(12, 1)

        def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            a, b = self.f(left), self.f(right)
            return self.head((a - b).abs()), F.cosine_similarity(a, b)

    return Siamese(), {"left": _image(1, 1, 8), "right": _image(1, 1, 8)}


def maxout() -> Built:
    class Maxout(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(8, 5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            n, c, h, w = y.shape
            y = y.view(n, c // 2, 2, h, w).max(2)[0]
            return self.b(y).amax((2, 3))

    return Maxout(), _image()


def bilinear_pooling() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.fc = _cbr(3, 6), _cbr(3, 4), nn.Linear(24, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b = self.a(x).flatten(2), self.b(x).flatten(2)
            y = torch.bmm(a, b.transpose(1, 2)).flatten(1)
            return self.fc(F.normalize(torch.sign(y) * torch.sqrt(y.abs() + 1e-6)))

    return Net(), _image(2)


def im2col_involution() -> Built:
    class Involution(nn.Module):
        def __init__(self, c: int):
            super().__init__()
            self.c, self.g = c, 2
            self.reduce, self.span = nn.Conv2d(c, 4, 1), nn.Conv2d(4, 9 * 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            n, c, h, w = x.shape
            kernel = self.span(self.reduce(x)).view(n, self.g, 9, h, w).unsqueeze(2)
            patches = F.unfold(x, 3, padding=1).view(n, self.g, c // self.g, 9, h, w)
            return (kernel * patches).sum(3).view(n, c, h, w)

    return _Head(nn.Sequential(_cbr(3, 8), Involution(8), _cbr(8, 8)), 8), _image(1, 3, 8)


def fold_unfold() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.mix, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(24, 24), nn.Conv2d(6, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            p = F.unfold(self.a(x), 2, stride=2).transpose(1, 2)
            return self.b(F.fold(F.relu(self.mix(p)).transpose(1, 2), (8, 8), 2, stride=2))

    return Net(), _image(1, 3, 8)


def dynamic_convolution() -> Built:
    class CondConv(nn.Module):
        def __init__(self, i: int, o: int):
            super().__init__()
            self.w, self.route, self.o, self.i = nn.Parameter(torch.randn(3, o, i, 3, 3) * 0.1), nn.Linear(i, 3), o, i

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            n, _, h, w = x.shape
            r = self.route(x.mean((2, 3))).softmax(-1)
            weight = torch.einsum("nk,koihw->noihw", r, self.w).reshape(n * self.o, self.i, 3, 3)
            return F.conv2d(x.reshape(1, n * self.i, h, w), weight, padding=1, groups=n).view(n, self.o, h, w)

    return _Head(nn.Sequential(_cbr(3, 8), CondConv(8, 6)), 6), _image(2, 3, 8)


def stochastic_pooling_pyramid() -> Built:
    class SPP(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([F.adaptive_max_pool2d(x, s).flatten(1) for s in (1, 2, 4)], 1)

    return nn.Sequential(_cbr(3, 8), SPP(), nn.Linear(8 * 21, 10), nn.ReLU(), nn.Linear(10, 3)), _image()


def spatial_transformer() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loc, self.theta = _cbr(1, 6, 3, 2), nn.Linear(6, 6)
            self.conv = _cbr(1, 6)
            self.fc = nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            theta = self.theta(self.loc(x).mean((2, 3))).view(-1, 2, 3)
            y = F.grid_sample(self.conv(x), F.affine_grid(theta, list(x.shape), align_corners=False),
                              align_corners=False)
            return self.fc(y.mean((2, 3)))

    return Net(), _image(2, 1, 8)


def coordconv() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.fc = _cbr(5, 8), _cbr(8, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            n, _, h, w = x.shape
            ys = torch.linspace(-1, 1, h).view(1, 1, h, 1).expand(n, 1, h, w)
            xs = torch.linspace(-1, 1, w).view(1, 1, 1, w).expand(n, 1, h, w)
            return self.fc(self.b(self.a(torch.cat([x, ys, xs], 1))).amax((2, 3)))

    return Net(), _image(2)


def temporal_shift() -> Built:
    class TSM(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.fc = _cbr(3, 8), _cbr(8, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            n, t = x.shape[:2]
            y = self.a(x.flatten(0, 1))
            y = y.view(n, t, *y.shape[1:])
            out = torch.zeros_like(y)
            out[:, :-1, :2] = y[:, 1:, :2]
            out[:, 1:, 2:4] = y[:, :-1, 2:4]
            out[:, :, 4:] = y[:, :, 4:]
            return self.fc(self.b(out.flatten(0, 1)).mean((2, 3)).view(n, t, -1).mean(1))

    return TSM(), torch.randn(2, 4, 3, 8, 8)


def in_place() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x).relu_()
            z = self.b(y)
            z += y
            z.mul_(0.5).clamp_(min=0.0)
            z[:, :, 0] = 0.0
            return self.fc(F.dropout(z, 0.1, self.training, inplace=False).mean((2, 3)))

    return Net(), _image()


def one_channel() -> Built:
    return nn.Sequential(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1), nn.ReLU(), nn.Conv2d(1, 4, 3), nn.ReLU(),
                         nn.Conv2d(4, 1, 1), nn.Flatten(), nn.Linear(144, 2)), _image(1, 1, 16)
