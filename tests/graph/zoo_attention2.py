"""Attention after well-known architectures: queries that are learned, memories that decay, masks and positions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from .zoo_conv import Built, _image


class _FeedForward(nn.Module):
    def __init__(self, c: int, h: int):
        super().__init__()
        self.norm, self.gate, self.up, self.down = nn.LayerNorm(c), nn.Linear(c, h), nn.Linear(c, h), nn.Linear(h, c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class _Cross(nn.Module):
    def __init__(self, c: int, context: int, heads: int):
        super().__init__()
        self.heads, self.q, self.kv, self.out = heads, nn.Linear(c, c, bias=False), nn.Linear(context, 2 * c), \
            nn.Linear(c, c)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        b, n, c = x.shape
        q = self.q(x).view(b, n, self.heads, -1).transpose(1, 2)
        k, v = self.kv(y).view(b, y.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        z = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(z.transpose(1, 2).reshape(b, n, c))


def perceiver() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.latents, self.read, self.self_attention = nn.Parameter(torch.randn(5, 12)), _Cross(12, 6, 3), \
                _Cross(12, 12, 4)
            self.ff, self.queries, self.decode = _FeedForward(12, 20), nn.Parameter(torch.randn(1, 2, 8)), \
                _Cross(8, 12, 2)
            self.head = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = self.latents.unsqueeze(0).repeat(x.shape[0], 1, 1)
            for _ in range(2):  # the same weights twice
                z = self.read(z, x)
                z = self.ff(self.self_attention(z, z))
            return self.head(self.decode(self.queries.expand(x.shape[0], -1, -1), z)).flatten(1)

    return Net(), torch.randn(2, 7, 6)


def detr_by_hand() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.proj = nn.Conv2d(3, 10, 4, 4), nn.Conv2d(10, 16, 1)
            self.transformer = nn.Transformer(16, 4, 1, 1, 24, batch_first=False)
            self.queries, self.row, self.col = nn.Parameter(torch.rand(5, 16)), nn.Parameter(torch.rand(9, 8)), \
                nn.Parameter(torch.rand(9, 8))
            self.cls, self.box = nn.Linear(16, 4), nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            h = self.proj(self.backbone(x).relu())
            r, c = h.shape[-2:]
            pos = torch.cat([self.col[:c].unsqueeze(0).repeat(r, 1, 1), self.row[:r].unsqueeze(1).repeat(1, c, 1)],
                            -1).flatten(0, 1).unsqueeze(1)
            y = self.transformer(pos + 0.1 * h.flatten(2).permute(2, 0, 1),
                                 self.queries.unsqueeze(1).repeat(1, x.shape[0], 1)).transpose(0, 1)
            return {"logits": self.cls(y), "boxes": self.box(y).sigmoid()}

    return Net(), _image(2)


def register_tokens() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.cls, self.reg = nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.randn(1, 1, 16)), \
                nn.Parameter(torch.randn(1, 3, 16))
            self.pos = nn.Parameter(torch.randn(1, 17, 16))
            self.qkv, self.out, self.n1, self.ls = nn.Linear(16, 48), nn.Linear(16, 16), nn.LayerNorm(16), \
                nn.Parameter(1e-1 * torch.ones(16))
            self.ff, self.norm, self.head = _FeedForward(16, 24), nn.RMSNorm(16), nn.Linear(32, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.patch(x).flatten(2).mT
            y = torch.cat([self.cls.expand(y.shape[0], -1, -1), y], 1) + self.pos
            y = torch.cat([y[:, :1], self.reg.expand(y.shape[0], -1, -1), y[:, 1:]], 1)
            b, n, c = y.shape
            q, k, v = self.qkv(self.n1(y)).reshape(b, n, 3, 4, c // 4).permute(2, 0, 3, 1, 4).unbind(0)
            y = y + self.ls * self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))
            y = self.norm(self.ff(y))
            return self.head(torch.cat([y[:, 0], y[:, 4:].mean(1)], -1))

    return Net(), _image(2)


def swin_v2_cosine() -> Built:
    class Attention(nn.Module):
        def __init__(self, c: int, heads: int, w: int, shift: int):
            super().__init__()
            self.heads, self.w, self.shift = heads, w, shift
            self.qkv, self.q_bias, self.v_bias = nn.Linear(c, 3 * c, bias=False), nn.Parameter(torch.zeros(c)), \
                nn.Parameter(torch.zeros(c))
            self.scale = nn.Parameter(torch.log(10 * torch.ones(heads, 1, 1)))
            self.cpb = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, heads, bias=False))
            at = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(w), indexing="ij")).flatten(1)
            relative = at[:, :, None] - at[:, None]
            self.register_buffer("index", (relative[0] + w - 1) * (2 * w - 1) + relative[1] + w - 1)
            grid = torch.arange(-(w - 1), w).float()
            self.register_buffer("table", torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1).view(1, -1, 2))
            self.out, self.norm = nn.Linear(c, c), nn.LayerNorm(c)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, h, w, c = x.shape
            s = self.w
            y = torch.roll(x, (-self.shift, -self.shift), (1, 2)) if self.shift else x
            y = y.view(b, h // s, s, w // s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, s * s, c)
            bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
            qkv = F.linear(y, self.qkv.weight, bias).reshape(y.shape[0], s * s, 3, self.heads, -1)
            q, k, v = torch.einsum("bntha->tbhna", qkv)
            a = torch.einsum("bhia,bhja->bhij", F.normalize(q, dim=-1), F.normalize(k, dim=-1))
            a = a * self.scale.clamp(max=math.log(100.0)).exp()
            r = 16 * torch.sigmoid(self.cpb(self.table).view(-1, self.heads)[self.index.view(-1)])
            a = (a + r.view(s * s, s * s, -1).permute(2, 0, 1).unsqueeze(0)).softmax(-1)
            y = torch.einsum("bhij,bhja->biha", a, v).reshape(y.shape[0], s * s, c)
            y = self.out(y).view(b, h // s, w // s, s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
            return x + self.norm(torch.roll(y, (self.shift, self.shift), (1, 2)) if self.shift else y)

    class Merge(nn.Module):
        def __init__(self, c: int):
            super().__init__()
            self.norm, self.f = nn.LayerNorm(4 * c), nn.Linear(4 * c, 2 * c, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.f(self.norm(torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2],
                                               x[:, 1::2, 1::2]], -1)))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.a, self.b, self.merge = nn.Conv2d(3, 12, 2, 2), Attention(12, 3, 4, 0), \
                Attention(12, 3, 4, 2), Merge(12)
            self.c, self.fc = Attention(24, 4, 4, 0), nn.Linear(24, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.b(self.a(self.patch(x).permute(0, 2, 3, 1).contiguous()))
            return self.fc(self.c(self.merge(y)).mean((1, 2)))

    return Net(), _image(2)


def maxvit_grid() -> Built:
    class Attend(nn.Module):
        def __init__(self, c: int, grid: bool):
            super().__init__()
            self.grid, self.attn, self.norm = grid, nn.MultiheadAttention(c, 4, batch_first=True), nn.LayerNorm(c)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            n, c, h, w = x.shape
            p = 4
            if self.grid:
                y = x.view(n, c, p, h // p, p, w // p).permute(0, 3, 5, 2, 4, 1).reshape(-1, p * p, c)
            else:
                y = x.view(n, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1).reshape(-1, p * p, c)
            z = self.norm(y)
            y = y + self.attn(z, z, z, need_weights=False)[0]
            y = y.view(n, h // p, w // p, p, p, c)
            y = y.permute(0, 5, 3, 1, 4, 2) if self.grid else y.permute(0, 5, 1, 3, 2, 4)
            return y.reshape(n, c, h, w)

    return nn.Sequential(nn.Conv2d(3, 16, 2, 2), nn.BatchNorm2d(16), Attend(16, False), Attend(16, True),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)), _image(2)


def retention() -> Built:
    class Retention(nn.Module):
        def __init__(self, c: int, heads: int, n: int):
            super().__init__()
            self.heads, self.q, self.k, self.v, self.g, self.o = heads, *(nn.Linear(c, c, bias=False)
                                                                          for _ in range(5))
            self.norm = nn.GroupNorm(heads, c)
            gamma = 1 - 2.0 ** (-5 - torch.arange(heads).float())
            i = torch.arange(n).float()
            self.register_buffer("decay", torch.tril(gamma[:, None, None] ** (i[:, None] - i[None]).clamp(min=0)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, n, c = x.shape
            q, k, v = (f(x).view(b, n, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
            y = (q @ k.transpose(-1, -2) * (c // self.heads) ** -0.5 * self.decay) @ v
            y = self.norm(y.transpose(1, 2).reshape(b * n, c)).view(b, n, c)
            return x + self.o(F.silu(self.g(x)) * y)

    return nn.Sequential(nn.Embedding(20, 12), Retention(12, 3, 6), Retention(12, 3, 6), nn.Linear(12, 20)), \
        torch.randint(0, 20, (2, 6))


def decoder_only() -> Built:
    """Rotary positions, one key for all queries, gated layers, a causal mask, the embedding's weights at the end."""

    class Block(nn.Module):
        def __init__(self, c: int, heads: int):
            super().__init__()
            self.h, self.d = heads, c // heads
            self.norm, self.q, self.kv, self.o = nn.RMSNorm(c), nn.Linear(c, c), nn.Linear(c, 2 * self.d), \
                nn.Linear(c, c)
            self.ff = _FeedForward(c, 20)
            self.a, self.b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(()))

        def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
            b, n, _ = x.shape
            y = self.norm(x)
            q = self.q(y).view(b, n, self.h, self.d).transpose(1, 2)
            k, v = self.kv(y).unsqueeze(1).chunk(2, -1)
            q, k = (torch.stack([t[..., ::2] * cos - t[..., 1::2] * sin, t[..., ::2] * sin + t[..., 1::2] * cos],
                                -1).flatten(-2) for t in (q, k))
            z = F.scaled_dot_product_attention(q, k.expand(-1, self.h, -1, -1), v.expand(-1, self.h, -1, -1),
                                               is_causal=True)
            x = self.a * x + self.b * self.o(z.transpose(1, 2).flatten(2))
            return self.ff(x)

    class LM(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.blocks, self.norm = nn.Embedding(24, 16), nn.ModuleList([Block(16, 2), Block(16, 2)]), \
                nn.RMSNorm(16)
            self.register_buffer("freq", 10000 ** (-torch.arange(0, 8, 2).float() / 8), persistent=False)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.e(ids) * 16**0.5
            angle = torch.arange(ids.shape[1]).float()[:, None] * self.freq[None]
            for block in self.blocks:
                x = block(x, angle.cos(), angle.sin())
            return F.linear(self.norm(x), self.e.weight)

    return LM(), torch.randint(0, 24, (2, 6))


def alibi_and_buckets() -> Built:
    class Block(nn.Module):
        def __init__(self, c: int, heads: int):
            super().__init__()
            self.heads, self.qkv, self.o, self.bucket = heads, nn.Linear(c, 3 * c), nn.Linear(c, c), \
                nn.Embedding(8, heads)
            self.register_buffer("slopes", 2.0 ** (-8.0 / heads * torch.arange(1, heads + 1)))

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            b, n, c = x.shape
            at = torch.arange(n)
            distance = (at[None] - at[:, None]).abs()
            bias = self.bucket(distance.clamp(max=7)).permute(2, 0, 1)[None] - self.slopes[:, None, None] * distance
            bias = bias.masked_fill(~mask[:, None, None, :], float("-inf"))
            q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(b, -1, -1, -1))
            return x + self.o(y.transpose(1, 2).reshape(b, n, c))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.a, self.b, self.fc = nn.Embedding(20, 16), Block(16, 4), Block(16, 4), nn.Linear(16, 2)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            y = self.b(self.a(self.e(ids), mask), mask)
            m = mask.unsqueeze(-1).to(y.dtype)
            return self.fc((y * m).sum(1) / m.sum(1).clamp(min=1))

    return Net(), (torch.randint(0, 20, (2, 6)), torch.tensor([[True] * 6, [True] * 4 + [False] * 2]))


def shaw_relative() -> Built:
    """Relative positions as vectors for keys and values, and Transformer-XL's shift."""

    class Block(nn.Module):
        def __init__(self, c: int, heads: int):
            super().__init__()
            self.h, self.d = heads, c // heads
            self.qkv, self.pos, self.o = nn.Linear(c, 3 * c), nn.Linear(c, c, bias=False), nn.Linear(c, c)
            self.u, self.v = nn.Parameter(torch.zeros(heads, self.d)), nn.Parameter(torch.zeros(heads, self.d))
            self.rk = nn.Embedding(11, self.d)

        def forward(self, x: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
            b, n, _ = x.shape
            q, k, v = (t.view(b, n, self.h, self.d) for t in self.qkv(x).chunk(3, -1))
            p = self.pos(r).view(-1, self.h, self.d)
            ac = torch.einsum("bihd,bjhd->bhij", q + self.u, k)
            bd = torch.einsum("bihd,jhd->bhij", q + self.v, p)
            bd = F.pad(bd, (1, 0)).view(b, self.h, -1, n)[:, :, 1:].reshape(b, self.h, n, -1)[..., :n]
            at = torch.arange(n)
            rel = self.rk((at[None] - at[:, None]).clamp(-5, 5) + 5)
            ac = ac + torch.einsum("bihd,ijd->bhij", q, rel)
            w = ((ac + bd) / self.d**0.5).softmax(-1)
            return x + self.o(torch.einsum("bhij,bjhd->bihd", w, v).reshape(b, n, -1))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.i, self.a, self.b, self.fc = nn.Linear(5, 12), Block(12, 3), Block(12, 3), nn.Linear(12, 2)
            self.register_buffer("r", torch.randn(11, 12))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.i(x)
            return self.fc(self.b(self.a(y, self.r), self.r)[:, -1])

    return Net(), torch.randn(2, 6, 5)


def conformer() -> Built:
    class Conv(nn.Module):
        def __init__(self, c: int):
            super().__init__()
            self.norm, self.a, self.dw = nn.LayerNorm(c), nn.Conv1d(c, 2 * c, 1), nn.Conv1d(c, c, 5, padding=2,
                                                                                             groups=c)
            self.bn, self.b = nn.BatchNorm1d(c), nn.Conv1d(c, c, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = F.glu(self.a(self.norm(x).transpose(1, 2)), dim=1)
            return x + self.b(F.silu(self.bn(self.dw(y)))).transpose(1, 2)

    class Block(nn.Module):
        def __init__(self, c: int):
            super().__init__()
            self.f1, self.f2, self.conv, self.norm, self.n = _FeedForward(c, 24), _FeedForward(c, 24), Conv(c), \
                nn.LayerNorm(c), nn.LayerNorm(c)
            self.attn = nn.MultiheadAttention(c, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + 0.5 * self.f1(x)
            y = self.n(x)
            x = self.conv(x + self.attn(y, y, y)[0])
            return self.norm(x + 0.5 * self.f2(x))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sub = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, 2, 1), nn.ReLU())
            self.i, self.blocks, self.fc = nn.Linear(6 * 4, 16), nn.Sequential(Block(16), Block(16)), nn.Linear(16, 9)

        def forward(self, mel: torch.Tensor) -> torch.Tensor:
            y = self.sub(mel.unsqueeze(1))
            b, c, t, f = y.shape
            return self.fc(self.blocks(self.i(y.transpose(1, 2).reshape(b, t, c * f)))).log_softmax(-1)

    return Net(), torch.randn(2, 16, 16)


def tabular_transformer() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(4, 16)), nn.Parameter(torch.randn(4, 16))
            self.cats = nn.ModuleList([nn.Embedding(n, 16) for n in (3, 5, 7)])
            self.cls = nn.Parameter(torch.randn(16))
            layer = nn.TransformerEncoderLayer(16, 4, 24, activation="gelu", batch_first=True, norm_first=True)
            self.body = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(16), enable_nested_tensor=False)
            self.head = nn.Linear(16, 1)

        def forward(self, numbers: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
            n = self.weight[None] * numbers[..., None] + self.bias[None]
            c = torch.stack([e(classes[:, i]) for i, e in enumerate(self.cats)], 1)
            y = torch.cat([self.cls.expand(numbers.shape[0], 1, -1), n, c], 1)
            return self.head(self.body(y)[:, 0]).squeeze(-1)

    return Net(), (torch.randn(2, 4), torch.randint(0, 3, (2, 3)))


def masked_transformer() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.s, self.t, self.pos = nn.Embedding(20, 16), nn.Embedding(20, 16), nn.Parameter(torch.randn(1, 8, 16))
            self.body, self.out = nn.Transformer(16, 2, 2, 2, 20, batch_first=True, norm_first=True), nn.Linear(16, 20)

        def forward(self, src: torch.Tensor, tgt: torch.Tensor) -> torch.Tensor:
            mask = nn.Transformer.generate_square_subsequent_mask(tgt.shape[1])
            pad = src == 0
            y = self.body(self.s(src) + self.pos[:, : src.shape[1]], self.t(tgt) + self.pos[:, : tgt.shape[1]],
                          tgt_mask=mask, src_key_padding_mask=pad, memory_key_padding_mask=pad, tgt_is_causal=True)
            return self.out(y)

    return Net(), (torch.tensor([[3, 4, 5, 0, 0, 0], [3, 4, 5, 6, 7, 0]]), torch.randint(1, 20, (2, 5)))


def slot_attention() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slots, self.k, self.v, self.q = nn.Parameter(torch.randn(3, 12)), nn.Linear(6, 12, bias=False), \
                nn.Linear(6, 12, bias=False), nn.Linear(12, 12, bias=False)
            self.gru, self.norm, self.ff, self.fc = nn.GRUCell(12, 12), nn.LayerNorm(12), _FeedForward(12, 20), \
                nn.Linear(12, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b = x.shape[0]
            k, v, slots = self.k(x), self.v(x), self.slots.expand(b, -1, -1)
            for _ in range(2):
                a = (torch.einsum("bnd,bkd->bnk", k, self.q(self.norm(slots))) * 12**-0.5).softmax(-1) + 1e-6
                u = torch.einsum("bnk,bnd->bkd", a / a.sum(1, keepdim=True), v)
                slots = self.gru(u.reshape(-1, 12), slots.reshape(-1, 12)).view(b, 3, 12)
                slots = self.ff(slots)
            return self.fc(slots)

    return Net(), torch.randn(2, 7, 6)
