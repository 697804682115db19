"""Everything else: tied weights, look-ups, gates, odd shapes, several inputs and outputs, nested graphs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Built = tuple[nn.Module, Any]


def mlp() -> Built:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 12), nn.Tanh(),
                         nn.Linear(12, 3)), torch.randn(2, 8)


def no_batch_axis() -> Built:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(8)


def tied_autoencoder() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.bias = nn.Linear(10, 6), nn.Parameter(torch.zeros(10))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(self.a(x).relu(), self.a.weight.t(), self.bias)

    return Net(), torch.randn(2, 10)


def tied_language_model() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.rnn, self.out = nn.Embedding(20, 12), nn.GRU(12, 12, batch_first=True), nn.Linear(12, 20)
            self.out.weight = self.e.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.out(self.rnn(self.e(ids))[0])

    return Net(), torch.randint(0, 20, (2, 5))


def highway() -> Built:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.h, self.t = nn.Linear(12, 12), nn.Linear(12, 12)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            t = self.t(x).sigmoid()
            return t * self.h(x).relu() + (1 - t) * x

    return nn.Sequential(nn.Linear(6, 12), Layer(), Layer(), nn.Linear(12, 3)), torch.randn(2, 6)


def glu_variants() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 24), nn.Linear(12, 12)
            self.gate, self.up = nn.Linear(12, 16), nn.Linear(12, 16)
            self.down, self.both = nn.Linear(16, 12), nn.Linear(12, 20)
            self.head = nn.Linear(10, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.b(F.glu(self.a(x), -1))
            x = x + self.down(F.silu(self.gate(x)) * self.up(x))
            g, y = self.both(x).tensor_split(2, -1)
            return self.head(F.gelu(g) * y)

    return Net(), torch.randn(2, 6)


def several_inputs_dict_out() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.text = nn.Conv2d(3, 8, 3), nn.EmbeddingBag(20, 8, mode="mean")
            self.table, self.fuse, self.bi = nn.Linear(4, 8), nn.Linear(24, 12), nn.Bilinear(8, 8, 6)
            self.h1, self.h2 = nn.Linear(12, 3), nn.Linear(6, 1)

        def forward(self, image: torch.Tensor, ids: torch.Tensor, table: torch.Tensor) -> dict[str, Any]:
            a, b, c = self.image(image).mean((2, 3)), self.text(ids), self.table(table)
            y = self.fuse(torch.cat([a, b, c], -1)).relu()
            return {"logits": self.h1(y), "extra": [self.h2(self.bi(a, c)), {"norm": y.norm(dim=-1)}]}

    return Net(), {"image": torch.randn(2, 3, 8, 8), "ids": torch.randint(0, 20, (2, 5)), "table": torch.randn(2, 4)}


def where_and_masks() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)
            self.register_buffer("mask", torch.tensor([True, False] * 6))
            self.register_buffer("other", torch.tensor([True, False] * 6))
            self.register_buffer("order", torch.tensor([3, 1, 0, 2, 5, 4, 11, 10, 9, 8, 7, 6]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            y = torch.where(y > 0, y, 0.1 * y).masked_fill(self.mask, 0.5)
            y = self.b(y)
            y = torch.maximum(y, -y).clamp(0.0, 3.0)
            return self.c(y[:, self.order] * torch.where(self.other, 1.0, 2.0))

    return Net(), torch.randn(2, 6)


def gather_last_token() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.a, self.b = nn.Embedding(20, 12), nn.Linear(12, 16), nn.Linear(16, 3)

        def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
            y = self.a(self.e(ids)).relu()
            last = (ids != 0).sum(1) - 1
            p = y[torch.arange(ids.shape[0]), last]
            q = y.gather(1, last.view(-1, 1, 1).expand(-1, 1, y.shape[-1])).squeeze(1)
            r = torch.index_select(y, 1, torch.tensor([0, 2])).mean(1)
            s = torch.take_along_dim(y, last.view(-1, 1, 1), 1)[:, 0]
            return self.b(p + q), self.b(r), self.b(s)

    return Net(), torch.randint(1, 20, (2, 5))


def boolean_index() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 3)
            self.register_buffer("mask", torch.tensor([True, False, True, True]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x).relu()
            return self.b(y[:, self.mask.nonzero().squeeze(1)[:2]].mean(1)) + self.b(y[:, [0, 2]]).sum(1)

    return Net(), torch.randn(2, 4, 6)


def stack_unbind_expand() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.z = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(16, 3)
            self.query = nn.Parameter(torch.randn(1, 3, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            p, q = torch.stack([self.a(x), self.b(x)], 1).unbind(1)
            y = self.c(p * q).unsqueeze(1).repeat(1, 3, 1) + self.query.expand(x.shape[0], -1, -1)
            y = torch.cat([y, y.flip(1)], -1)
            return self.z(y.movedim(1, 0).swapaxes(0, 1).sum(1))

    return Net(), torch.randn(2, 6)


def repeat_channels() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(16, 8), nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.b(self.a(x).repeat(1, 2)).relu()
            return self.c(y.repeat_interleave(2, -1))

    return Net(), torch.randn(2, 6)


def odd_reshapes() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = nn.Linear(6, 24), nn.Linear(8, 12), nn.Linear(36, 10), nn.Linear(10, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x).view(-1, 3, 8)
            y = self.b(y).reshape(x.shape[0], -1)
            y = self.c(y.view(-1, 4, 9).transpose(1, 2).flatten(1)).unsqueeze(-1).unsqueeze(1)
            return self.d(y.squeeze(1).squeeze(-1))

    return Net(), torch.randn(2, 6)


def batch_mixed_reshape() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(40, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, t, _ = x.shape
            y = self.b(self.a(x).reshape(b * t, 8)).relu()
            return self.c(y.view(b, t * 8))

    return Net(), torch.randn(2, 5, 6)


def constants_in_forward() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
            self.register_buffer("mean", torch.randn(8))
            self.scale = torch.rand(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = (self.a(x) - self.mean) * self.scale
            y = y + torch.arange(8) / 8.0 + torch.ones(8) + torch.full((1, 8), 0.5) + torch.zeros_like(y)
            return self.b(y + torch.tensor([0.1] * 8) + y.new_zeros(8))

    return Net(), torch.randn(2, 6)


def size_in_arithmetic() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            y = y / y.shape[-1] ** 0.5 * x.shape[0]
            return self.c(self.b(y) / torch.tensor(float(y.size(-1))))

    return Net(), torch.randn(2, 6)


def no_grad_region() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.teacher, self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 12), nn.Linear(12, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                y = self.teacher(x).relu()
            return self.b(self.a(y).relu())

    return Net(), torch.randn(2, 6)


def autocast_region() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 12), nn.Linear(12, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                z = self.b(y.relu())
            return self.c(z.float())

    return Net(), torch.randn(2, 6)


def condition() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 12), nn.Linear(12, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            y = torch.cond(x.sum() > 0, lambda v: v * 2, lambda v: v - 1, (y,))
            return self.c(self.b(y).relu())

    return Net(), torch.randn(2, 6)


def checkpointed() -> Built:
    from torch.utils.checkpoint import checkpoint

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 12), nn.Linear(12, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(checkpoint(lambda v: self.b(v).relu(), self.a(x), use_reentrant=False))

    return Net(), torch.randn(2, 6)


def half_precision() -> Built:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).to(torch.bfloat16), torch.randn(
        2, 8, dtype=torch.bfloat16)


def graph_convolution() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.score = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(16, 1)
            self.head = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
            h = self.a(x).relu()
            s, d = edges[0], edges[1]
            e = self.score(torch.cat([h[s], h[d]], -1)).sigmoid()
            out = torch.zeros_like(h).index_add(0, d, h[s] * e)
            out = out + torch.zeros_like(h).scatter_add(0, d.unsqueeze(-1).expand(-1, 8), h[s])
            return self.head(self.b(out))

    return Net(), (torch.randn(5, 6), torch.randint(0, 5, (2, 9)))


def pointnet() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.t, self.a, self.b = nn.Linear(3, 9), nn.Conv1d(3, 8, 1), nn.Conv1d(16, 12, 1)
            self.head = nn.Linear(12, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.bmm(self.t(x.mean(1)).view(-1, 3, 3), x.transpose(1, 2))
            y = self.a(x).relu()
            g = y.max(2, keepdim=True)[0].expand(-1, -1, y.shape[2])
            return self.head(self.b(torch.cat([y, g], 1)).relu().max(-1).values)

    return Net(), torch.randn(2, 10, 3)


def deepfm() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.w, self.deep = nn.Embedding(30, 8), nn.Embedding(30, 1), nn.Sequential(
                nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1))

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            v = self.e(ids)
            square = v.sum(1).pow(2) - v.pow(2).sum(1)
            return self.w(ids).sum((1, 2)) + 0.5 * square.sum(1) + self.deep(v.flatten(1)).squeeze(1)

    return Net(), torch.randint(0, 30, (2, 4))


def dlrm_interactions() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bottom, self.e, self.top = nn.Linear(6, 8), nn.Embedding(30, 8), nn.Linear(8 + 6, 1)

        def forward(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
            d = self.bottom(x).relu()
            t = torch.cat([d.unsqueeze(1), self.e(ids)], 1)
            z = torch.bmm(t, t.transpose(1, 2))
            i, j = torch.tril_indices(4, 4, offset=-1)
            return self.top(torch.cat([d, z[:, i, j]], 1))

    return Net(), (torch.randn(2, 6), torch.randint(0, 30, (2, 3)))


def scalar_and_integer_inputs() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor, t: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
            freq = torch.exp(-torch.arange(4) / 4.0)
            emb = torch.cat([(t[:, None] * freq).sin(), (t[:, None] * freq).cos()], -1)
            return self.b(self.a(x) * scale + emb)

    return Net(), {"x": torch.randn(2, 6), "t": torch.rand(2), "scale": 3.0}


def normalised_classifier() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.w = nn.Linear(6, 8), nn.Parameter(torch.randn(3, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = F.normalize(self.a(x), dim=1) @ F.normalize(self.w, dim=1).T
            return y - torch.cdist(self.a(x), self.w)

    return Net(), torch.randn(2, 6)
