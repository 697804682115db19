"""Sequences, tables, graphs and fields after well-known architectures."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from .zoo_conv import Built


def wavenet() -> Built:
    class Layer(nn.Module):
        def __init__(self, c: int, skip: int, d: int):
            super().__init__()
            self.d = d
            self.conv, self.res, self.skip = parametrizations.weight_norm(nn.Conv1d(c, 2 * c, 2, dilation=d)), \
                nn.Conv1d(c, c, 1), nn.Conv1d(c, skip, 1)
            self.cond = nn.Linear(3, 2 * c)

        def forward(self, x: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = self.conv(F.pad(x, (self.d, 0))) + self.cond(g).unsqueeze(-1)
            c = x.shape[1]
            y = y[:, :c].tanh() * y[:, c:].sigmoid()
            return x + self.res(y), self.skip(y)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.i, self.layers = nn.Conv1d(1, 8, 1), nn.ModuleList([Layer(8, 6, d) for d in (1, 2, 4)])
            self.o1, self.o2 = nn.Conv1d(6, 10, 1), nn.Conv1d(10, 4, 1)

        def forward(self, x: torch.Tensor, speaker: torch.Tensor) -> torch.Tensor:
            y, total = self.i(x), 0
            for layer in self.layers:
                y, s = layer(y, speaker)
                total = total + s
            return self.o2(F.relu(self.o1(F.relu(total))))

    return Net(), (torch.randn(2, 1, 12), torch.randn(2, 3))


def tacotron_encoder() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e = nn.Embedding(20, 12)
            self.convs = nn.ModuleList([nn.Sequential(nn.Conv1d(12, 12, 5, padding=2), nn.BatchNorm1d(12))
                                        for _ in range(2)])
            self.lstm, self.pre, self.cell = nn.LSTM(12, 6, batch_first=True, bidirectional=True), nn.Linear(4, 8), \
                nn.LSTMCell(8 + 12, 10)
            self.query, self.memory, self.v = nn.Linear(10, 7, bias=False), nn.Linear(12, 7, bias=False), \
                nn.Linear(7, 1, bias=False)
            self.location = nn.Conv1d(2, 5, 3, padding=1, bias=False)
            self.where, self.out, self.stop = nn.Linear(5, 7, bias=False), nn.Linear(22, 4), nn.Linear(22, 1)

        def forward(self, ids: torch.Tensor, mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = self.e(ids).transpose(1, 2)
            for conv in self.convs:
                y = F.dropout(F.relu(conv(y)), 0.5, self.training)
            memory = self.lstm(y.transpose(1, 2))[0]
            keys = self.memory(memory)
            b, n = ids.shape
            h, c = mel.new_zeros(b, 10), mel.new_zeros(b, 10)
            a, total, context = mel.new_zeros(b, n), mel.new_zeros(b, n), mel.new_zeros(b, 12)
            frames, stops = [], []
            for t in range(mel.shape[1]):
                h, c = self.cell(torch.cat([F.relu(self.pre(mel[:, t])), context], -1), (h, c))
                where = self.where(self.location(torch.stack([a, total], 1)).transpose(1, 2))
                e = self.v(torch.tanh(self.query(h).unsqueeze(1) + keys + where)).squeeze(-1)
                a = e.softmax(-1)
                total = total + a
                context = torch.bmm(a.unsqueeze(1), memory).squeeze(1)
                hc = torch.cat([h, context], -1)
                frames.append(self.out(hc))
                stops.append(self.stop(hc))
            return torch.stack(frames, 1), torch.cat(stops, 1)

    return Net(), (torch.randint(0, 20, (2, 6)), torch.randn(2, 3, 4))


def seq2seq_attention() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.enc, self.bridge = nn.Embedding(20, 10), nn.GRU(10, 8, batch_first=True, bidirectional=True), \
                nn.Linear(16, 12)
            self.dec, self.attn, self.mix, self.out = nn.GRU(10, 12, batch_first=True), nn.Linear(12, 16, bias=False), \
                nn.Linear(28, 12), nn.Linear(12, 20)

        def forward(self, src: torch.Tensor, tgt: torch.Tensor) -> torch.Tensor:
            memory, h = self.enc(self.e(src))
            h = self.bridge(torch.cat([h[0], h[1]], -1)).tanh().unsqueeze(0)
            y, _ = self.dec(self.e(tgt), h)
            scores = torch.matmul(self.attn(y), memory.transpose(1, 2))
            context = scores.softmax(-1) @ memory
            return self.out(torch.tanh(self.mix(torch.cat((y, context), 2))))

    return Net(), (torch.randint(0, 20, (2, 6)), torch.randint(0, 20, (2, 4)))


def dense_experts() -> Built:
    class MoE(nn.Module):
        def __init__(self, c: int, h: int, n: int):
            super().__init__()
            self.router, self.w1, self.w2 = nn.Linear(c, n), nn.Parameter(torch.randn(n, c, h) * 0.2), \
                nn.Parameter(torch.randn(n, h, c) * 0.2)
            self.b1 = nn.Parameter(torch.zeros(n, 1, h))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weights, chosen = self.router(x).softmax(-1).topk(2, -1)
            gate = torch.zeros_like(self.router(x)).scatter(-1, chosen, weights)
            h = F.gelu(torch.einsum("bc,nch->nbh", x, self.w1) + self.b1)
            return x + torch.einsum("nbh,nhc,bn->bc", h, self.w2, gate)

    class Loop(nn.Module):
        def __init__(self, c: int):
            super().__init__()
            self.router = nn.Linear(c, 3)
            self.experts = nn.ModuleList([nn.Sequential(nn.Linear(c, 14), nn.ReLU(), nn.Linear(14, c))
                                          for _ in range(3)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            p = self.router(x).softmax(-1)
            y = torch.stack([e(x) for e in self.experts], 1)
            return (p.unsqueeze(-1) * y).sum(1)

    return nn.Sequential(nn.Linear(6, 12), MoE(12, 10, 4), Loop(12), nn.Linear(12, 3)), torch.randn(2, 6)


def pointnet_plus() -> Built:
    class TNet(nn.Module):
        def __init__(self, k: int):
            super().__init__()
            self.k, self.f, self.g = k, nn.Sequential(nn.Conv1d(k, 10, 1), nn.BatchNorm1d(10), nn.ReLU()), \
                nn.Sequential(nn.Linear(10, 12), nn.ReLU(), nn.Linear(12, k * k))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            m = self.g(self.f(x).max(2, keepdim=True)[0].view(-1, 10)).view(-1, self.k, self.k)
            return m + torch.eye(self.k)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.t3, self.t8, self.a, self.b = TNet(3), TNet(8), nn.Conv1d(3, 8, 1), nn.Conv1d(8, 12, 1)
            self.edge, self.fc = nn.Conv2d(24, 10, 1), nn.Conv1d(22, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.bmm(x.transpose(2, 1), self.t3(x)).transpose(2, 1)
            y = F.relu(self.a(x))
            y = torch.bmm(y.transpose(2, 1), self.t8(y)).transpose(2, 1)
            y = F.relu(self.b(y))
            n, _, p = y.shape
            d = torch.cdist(x.transpose(1, 2), x.transpose(1, 2))
            near = d.topk(3, dim=-1, largest=False)[1]
            f = y.transpose(1, 2)
            g = f[torch.arange(n)[:, None, None], near]
            f = f.unsqueeze(2).expand(-1, -1, 3, -1)
            e = self.edge(torch.cat([g - f, f], -1).permute(0, 3, 1, 2)).amax(-1)
            whole = y.amax(2, keepdim=True).expand(-1, -1, p)
            return self.fc(torch.cat([e, whole], 1))

    return Net(), torch.randn(2, 3, 9)


def graph_attention() -> Built:
    class GAT(nn.Module):
        def __init__(self, i: int, o: int, heads: int):
            super().__init__()
            self.h, self.w = heads, nn.Linear(i, heads * o, bias=False)
            self.a, self.b = nn.Parameter(torch.randn(1, 1, heads, o)), nn.Parameter(torch.randn(1, 1, heads, o))

        def forward(self, x: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
            n, p, _ = x.shape
            z = self.w(x).view(n, p, self.h, -1)
            e = F.leaky_relu((z * self.a).sum(-1).unsqueeze(2) + (z * self.b).sum(-1).unsqueeze(1), 0.2)
            e = e.masked_fill(adjacency.unsqueeze(-1) == 0, -1e9).softmax(2)
            return F.elu(torch.einsum("bijh,bjhd->bihd", e, z).flatten(2))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.gcn, self.fc = GAT(5, 4, 3), GAT(12, 6, 2), nn.Linear(12, 10), nn.Linear(10, 2)

        def forward(self, x: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
            y = self.b(self.a(x, adjacency), adjacency)
            degree = adjacency.sum(-1).clamp(min=1).pow(-0.5)
            y = F.relu(degree.unsqueeze(-1) * (adjacency * degree.unsqueeze(-2)) @ self.gcn(y))
            return self.fc(y.mean(1))

    return Net(), (torch.randn(2, 6, 5), (torch.rand(2, 6, 6) > 0.4).float() + torch.eye(6))


def variational() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.Flatten())
            self.mu, self.logvar, self.i = nn.Linear(32, 5), nn.Linear(32, 5), nn.Linear(5, 32)
            self.d = nn.Sequential(nn.ConvTranspose2d(8, 6, 2, 2), nn.ReLU(), nn.ConvTranspose2d(6, 1, 2, 2))
            self.codes = nn.Embedding(7, 5)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            h = self.e(x)
            mu, logvar = self.mu(h), self.logvar(h)
            z = mu + torch.randn_like(mu) * (0.5 * logvar).exp() if self.training else mu
            d = (z[:, None] - self.codes.weight[None]).square().sum(-1)
            q = self.codes(d.argmin(1))
            z = z + (q - z).detach()
            y = self.d(self.i(z).view(-1, 8, 2, 2)).sigmoid()
            return y, -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(1), (q - z).pow(2).mean(1)

    return Net(), torch.randn(2, 1, 8, 8)


def recommender() -> Built:
    class Cross(nn.Module):
        def __init__(self, n: int):
            super().__init__()
            self.u, self.v, self.b = nn.Linear(n, 4, bias=False), nn.Linear(4, n, bias=False), \
                nn.Parameter(torch.zeros(n))

        def forward(self, x0: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return x0 * (self.v(self.u(x)) + self.b) + x

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bags = nn.ModuleList([nn.EmbeddingBag(n, 6, mode=m) for n, m in ((9, "sum"), (7, "mean"), (5, "max"))])
            self.bottom, self.cross, self.cross2 = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 6)), \
                Cross(24), Cross(24)
            self.top = nn.Sequential(nn.Linear(24 + 6, 12), nn.ReLU(), nn.Linear(12, 1))
            self.register_buffer("pairs", torch.triu_indices(4, 4, 1))

        def forward(self, dense: torch.Tensor, sparse: torch.Tensor) -> torch.Tensor:
            x = [self.bottom(dense), *[bag(sparse[:, i]) for i, bag in enumerate(self.bags)]]
            t = torch.stack(x, 1)
            dots = torch.bmm(t, t.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
            y = torch.cat(x, 1)
            y = self.cross2(y, self.cross(y, y))
            return torch.sigmoid(self.top(torch.cat([y, dots], 1)))

    return Net(), (torch.randn(2, 4), torch.randint(0, 5, (2, 3, 2)))


def n_beats() -> Built:
    class Block(nn.Module):
        def __init__(self, trend: bool):
            super().__init__()
            self.f = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
            self.trend = trend
            self.theta_b, self.theta_f = nn.Linear(16, 3 if trend else 12), nn.Linear(16, 3 if trend else 4)
            self.register_buffer("b", torch.linspace(0, 1, 12)[None] ** torch.arange(3)[:, None])
            self.register_buffer("g", torch.linspace(0, 1, 4)[None] ** torch.arange(3)[:, None])

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            h = self.f(x)
            b, f = self.theta_b(h), self.theta_f(h)
            return (b @ self.b, f @ self.g) if self.trend else (b, f)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Block(True), Block(False), Block(False)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.squeeze(-1)
            mean = x.mean(-1, keepdim=True)
            scale = x.std(-1, keepdim=True) + 1e-5
            y, total = (x - mean) / scale, torch.zeros(x.shape[0], 4)
            for block in self.blocks:
                b, f = block(y)
                y, total = y - b, total + f
            return total * scale + mean

    return Net(), torch.randn(2, 12, 1)


def selective_scan() -> Built:
    class Mamba(nn.Module):
        def __init__(self, c: int, n: int):
            super().__init__()
            e = 2 * c
            self.e, self.n, self.r = e, n, 3
            self.i, self.conv = nn.Linear(c, 2 * e, bias=False), nn.Conv1d(e, e, 3, padding=2, groups=e)
            self.x, self.dt = nn.Linear(e, self.r + 2 * n, bias=False), nn.Linear(self.r, e)
            self.o = nn.Linear(e, c, bias=False)
            self.a_log, self.d = nn.Parameter(torch.log(torch.arange(1, n + 1).float().repeat(e, 1))), \
                nn.Parameter(torch.ones(e))
            self.norm = nn.RMSNorm(c)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, t, _ = x.shape
            u, z = self.i(self.norm(x)).chunk(2, -1)
            u = F.silu(self.conv(u.transpose(1, 2))[..., :t].transpose(1, 2))
            dt, bb, cc = self.x(u).split([self.r, self.n, self.n], -1)
            dt = F.softplus(self.dt(dt))
            decay = torch.exp(dt.unsqueeze(-1) * -torch.exp(self.a_log))
            into = dt.unsqueeze(-1) * bb.unsqueeze(2) * u.unsqueeze(-1)
            h, ys = torch.zeros(b, self.e, self.n), []
            for i in range(t):
                h = decay[:, i] * h + into[:, i]
                ys.append((h @ cc[:, i].unsqueeze(-1)).squeeze(-1))
            y = torch.stack(ys, 1) + self.d * u
            return x + self.o(y * F.silu(z))

    return nn.Sequential(nn.Embedding(20, 8), Mamba(8, 4), Mamba(8, 4), nn.Linear(8, 20)), torch.randint(0, 20, (2, 5))


def siren_and_hypernetwork() -> Built:
    class Sine(nn.Module):
        def __init__(self, i: int, o: int):
            super().__init__()
            self.f, self.w0 = nn.Linear(i, o), nn.Parameter(torch.tensor(3.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sin(self.w0 * self.f(x))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hyper, self.w, self.b = nn.Sequential(nn.Linear(3, 10), nn.ReLU()), nn.Linear(10, 12 * 8), \
                nn.Linear(10, 8)
            self.register_buffer("freq", torch.randn(2, 6))
            self.a, self.c, self.out = Sine(12, 12), Sine(8, 10), nn.Linear(10, 3)

        def forward(self, xy: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
            p = xy @ self.freq
            y = self.a(torch.cat([p.sin(), p.cos()], -1))
            h = self.hyper(z)
            y = torch.baddbmm(self.b(h).unsqueeze(1), y, self.w(h).view(-1, 12, 8)).relu()
            return self.out(self.c(y))

    return Net(), (torch.rand(2, 5, 2), torch.randn(2, 3))


def capsules() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.primary = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 3 * 4, 3, 2)
            self.w = nn.Parameter(torch.randn(1, 3 * 4, 4, 5, 4) * 0.3)

        @staticmethod
        def squash(x: torch.Tensor) -> torch.Tensor:
            n = (x * x).sum(-1, keepdim=True)
            return n / (1 + n) * x / (n + 1e-8).sqrt()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            u = self.primary(F.relu(self.conv(x)))
            n = u.shape[0]
            u = self.squash(u.view(n, 3, 4, -1).permute(0, 1, 3, 2).reshape(n, -1, 4))
            votes = (self.w @ u[:, :, None, :, None].expand(-1, -1, 4, -1, -1)).squeeze(-1)
            logits = torch.zeros(n, votes.shape[1], 4)
            for i in range(2):
                v = self.squash((logits.softmax(2).unsqueeze(-1) * votes).sum(1))
                if i == 0:
                    logits = logits + (votes * v.unsqueeze(1)).sum(-1)
            return v.norm(dim=-1)

    return Net(), torch.randn(2, 1, 8, 8)


def fourier_operator() -> Built:
    class Spectral(nn.Module):
        def __init__(self, i: int, o: int, modes: int):
            super().__init__()
            self.m = modes
            self.re, self.im = (nn.Parameter(torch.randn(i, o, modes) * 0.2) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            f = torch.fft.rfft(x)[..., : self.m]
            y = torch.einsum("bim,iom->bom", f, torch.complex(self.re, self.im))
            return torch.fft.irfft(F.pad(y, (0, x.shape[-1] // 2 + 1 - self.m)), n=x.shape[-1])

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.i, self.s1, self.w1, self.s2, self.w2 = nn.Conv1d(2, 8, 1), Spectral(8, 8, 4), nn.Conv1d(8, 8, 1), \
                Spectral(8, 6, 4), nn.Conv1d(8, 6, 1)
            self.o = nn.Sequential(nn.Conv1d(6, 12, 1), nn.GELU(), nn.Conv1d(12, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.i(x)
            y = F.gelu(self.s1(y) + self.w1(y))
            return self.o(self.s2(y) + self.w2(y))

    return Net(), torch.randn(2, 2, 16)


def several_tasks() -> Built:
    """Heads in nested containers, a bilinear layer, an uncertainty for each loss, an unused layer, a layer that is
    used twice, and a mask that is an input."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.share, self.unused, self.twice = nn.Linear(6, 12), nn.Linear(5, 5), nn.Linear(12, 12)
            self.gates = nn.ModuleDict({k: nn.Linear(6, 3) for k in ("a", "b")})
            self.experts = nn.ModuleList([nn.Linear(12, 10) for _ in range(3)])
            self.heads = nn.ModuleDict({k: nn.Linear(10, n) for k, n in (("a", 2), ("b", 4))})
            self.pair, self.log_var = nn.Bilinear(10, 10, 3), nn.Parameter(torch.zeros(2))

        def forward(self, x: torch.Tensor, keep: torch.Tensor | None = None) -> dict[str, Any]:
            y = self.twice(F.relu(self.twice(F.relu(self.share(x)))))
            e = torch.stack([f(y) for f in self.experts], 1)
            m = {k: torch.bmm(g(x).softmax(-1).unsqueeze(1), e).squeeze(1) for k, g in self.gates.items()}
            out: dict[str, Any] = {k: self.heads[k](m[k]) for k in m}
            out["pair"] = self.pair(m["a"], m["b"])
            out["loss"] = (torch.exp(-self.log_var) * torch.stack([out["a"].mean(1), out["b"].mean(1)], 1)).sum(1)
            return out

    return Net(), torch.randn(2, 6)
