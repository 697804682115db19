"""Models that once broke something, or in which nothing could be pruned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .zoo_conv import Built, _cbr, _Head, _image


def _weight(*sizes: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*sizes) * 0.3)


def segnet() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = _cbr(3, 8), _cbr(8, 12), _cbr(12, 8), nn.Conv2d(8, 4, 3, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y, i = F.max_pool2d(self.a(x), 2, return_indices=True)
            z, j = F.max_pool2d(self.b(y), 2, return_indices=True)
            return self.d(F.max_unpool2d(self.c(F.max_unpool2d(z, j, 2)), i, 2))

    return Net(), _image()


def text_cnn() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.fc = nn.Embedding(50, 16), nn.Linear(18, 3)
            self.c = nn.ModuleList([nn.Conv2d(1, 6, (k, 16)) for k in (2, 3, 4)])

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            y = self.e(ids).unsqueeze(1)
            return self.fc(torch.cat([F.relu(c(y)).squeeze(3).amax(2) for c in self.c], 1))

    return Net(), torch.randint(0, 50, (2, 9))


def group_equivariant() -> Built:
    """Four rotations of one kernel."""

    class Conv(nn.Module):
        def __init__(self, i: int, o: int, first: bool):
            super().__init__()
            self.w, self.bias = _weight(*((o, i, 3, 3) if first else (o, i, 4, 3, 3))), _weight(o)
            self.first = first

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            turned = [torch.rot90(self.w if self.first else self.w.roll(k, 2), k, (-2, -1)) for k in range(4)]
            w = torch.stack(turned, 1).flatten(0, 1)
            return F.conv2d(x, w if self.first else w.flatten(1, 2), self.bias.repeat_interleave(4), padding=1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.fc = Conv(3, 6, True), Conv(6, 5, False), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.b(F.relu(self.a(x))).unflatten(1, (-1, 4)).amax(2).mean((2, 3)))

    return Net(), _image(1, 3, 8)


def long_convolutions() -> Built:
    """Filters made by a small network, applied by Fourier transforms (Hyena), and a diagonal state space (S4D)."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.i, self.out = nn.Embedding(20, 12), nn.Linear(12, 36), nn.Linear(12, 20)
            self.short = nn.Conv1d(36, 36, 3, padding=2, groups=36)
            self.filter = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 12))
            self.re, self.im, self.c = _weight(12, 4), _weight(12, 4), _weight(12, 4, 2)

        @staticmethod
        def convolve(x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
            n = x.shape[-1]
            return torch.fft.irfft(torch.fft.rfft(x, n=2 * n) * torch.fft.rfft(h, n=2 * n), n=2 * n)[..., :n]

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.e(ids)
            n = x.shape[1]
            a, b, v = self.short(self.i(x).transpose(1, 2))[..., :n].split(12, 1)
            t = torch.linspace(0, 1, n)[:, None]
            y = b * self.convolve(v * a, self.filter(torch.cat([t, t.sin(), t.cos()], 1)).t())
            pole = -self.re.exp() + 1j * self.im
            modes = (pole[..., None] * torch.arange(n)).exp()
            kernel = torch.einsum("hn,hnl->hl", torch.view_as_complex(self.c), modes).real
            return self.out((y + self.convolve(y, kernel)).transpose(1, 2))

    return Net(), torch.randint(0, 20, (2, 8))


def mapped_ensemble() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.b, self.v = _weight(3, 12, 5), _weight(3, 12), _weight(3, 2, 12)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.vmap(lambda w, b: F.relu(F.linear(x, w, b)))(self.w, self.b)
            return torch.vmap(F.linear)(y, self.v).mean(0)

    return Net(), torch.randn(2, 5)


def any_arguments() -> Built:
    """A wrapper that hands everything on, and outputs that are no tensors."""

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.scale = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), nn.Linear(5, 9), _weight(4)
            self.d = nn.Linear(9, 4)

        def forward(self, x: dict[str, Any], factor: float) -> dict[str, Any]:
            y = self.b(F.relu(self.a(x["image"]).mean((2, 3))))
            z = self.d(F.relu(self.c(x["pair"][0] + x["pair"][1] * factor)))
            return {"input": x["image"], "twice": [y, y], "none": None, "n": 3, "w": self.scale, "large": z > 0}

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner: Callable[..., Any] = Inner()

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.inner(*args, **kwargs)

    return Wrapper(), ({"image": _image(2), "pair": [torch.randn(2, 5), torch.randn(2, 5)]}, 0.5)


def quantised_weights() -> Built:
    class Binary(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            q = w.abs().mean((1, 2, 3), keepdim=True) * w.sign()
            return F.conv2d(x, w + (q - w).detach(), self.bias, self.stride, self.padding)

    class Scaled(nn.Conv2d):
        def __init__(self, i: int, o: int, k: int):
            super().__init__(i, o, k)
            self.register_buffer("scale", torch.full((o,), 0.02))
            self.register_buffer("zero", torch.zeros(o, dtype=torch.int32))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            w = torch.fake_quantize_per_channel_affine(self.weight, self.scale, self.zero, 0, -128, 127)
            return F.conv2d(torch.fake_quantize_per_tensor_affine(x, 0.05, 0, -128, 127), w, self.bias)

    return _Head(nn.Sequential(_cbr(3, 8), Binary(8, 10, 3, padding=1), nn.BatchNorm2d(10), nn.Hardtanh(),
                               Scaled(10, 8, 3), nn.ReLU(), Scaled(8, 8, 1)), 8), _image(1, 3, 8)


def loss_inside() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d, self.e = nn.Linear(6, 16), nn.Linear(16, 4), nn.Linear(16, 6), \
                nn.Linear(16, 10), nn.Linear(16, 10)

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            h = F.gelu(self.a(x))
            return (F.cross_entropy(self.b(h), labels) + F.mse_loss(self.c(h), x)
                    + F.smooth_l1_loss(self.d(h), self.e(h)))

    return Net(), (torch.randn(3, 6), torch.tensor([0, 1, 3]))


def distances() -> Built:
    """Messages over distances (EGNN), and the deviation over the batch as a channel of its own."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.h, self.e, self.u, self.o = nn.Embedding(9, 8), nn.Linear(17, 10), nn.Linear(18, 8), nn.Linear(9, 2)

        def forward(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            h, n = self.h(z), z.shape[1]
            pairs = [h.unsqueeze(2).expand(-1, -1, n, -1), h.unsqueeze(1).expand(-1, n, -1, -1)]
            m = F.silu(self.e(torch.cat([*pairs, torch.cdist(x, x).unsqueeze(-1)], -1)))
            h = h + self.u(torch.cat([h, m.sum(2)], -1))
            spread = h.std(1).mean(-1, keepdim=True)
            return self.o(torch.cat([h.mean(1), spread], -1))

    return Net(), (torch.randint(0, 9, (2, 5)), torch.randn(2, 5, 3))


def static_cache() -> Built:
    """Keys and values written into a buffer at given positions."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.qkv, self.o = nn.Embedding(20, 16), nn.Linear(16, 48), nn.Linear(16, 20)

        def forward(self, ids: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
            b, n = ids.shape
            q, k, v = self.qkv(self.e(ids)).view(b, n, 3, 2, 8).unbind(2)
            keys, values = torch.zeros(b, 6, 2, 8), torch.zeros(b, 6, 2, 8)
            keys[:, at], values[:, at] = k, v
            y = F.scaled_dot_product_attention(*(z.transpose(1, 2) for z in (q, keys, values)))
            return self.o(y.transpose(1, 2).reshape(b, n, -1))

    return Net(), (torch.randint(0, 20, (2, 3)), torch.tensor([1, 2, 4]))


def transposed_depthwise() -> Built:
    return nn.Sequential(_cbr(3, 8), nn.ConvTranspose2d(8, 8, 2, 2, groups=8), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.ConvTranspose2d(8, 16, 2, 2, groups=8), nn.ReLU(),
                         nn.ConvTranspose2d(16, 6, 3, 1, 1, groups=2, bias=False), nn.ReLU(),
                         nn.Conv2d(6, 2, 1)), _image(1, 3, 8)


def contractions() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.w, self.v, self.o = nn.Linear(3, 8), _weight(8, 10), _weight(10, 6), _weight(2, 6)
            self.k, self.l, self.fc = _weight(3, 2), _weight(2, 3), nn.Linear(12, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = torch.tensordot(F.relu(self.a(x)), self.w, dims=([2], [0]))
            u = torch.einsum("...c,cd->d...", z, self.v).movedim(0, -1)
            y = torch.cat([u.quantile(0.5, dim=1), F.linear(u[:, 0], torch.kron(self.k, self.l))], -1)
            return self.fc(y) + u.mean(1) @ self.o.mT

    return Net(), torch.randn(2, 5, 3)
