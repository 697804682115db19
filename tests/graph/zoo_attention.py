"""Attention and token-mixing models, written by hand in the many ways people write them."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Built = tuple[nn.Module, Any]


def _tokens(batch: int = 2, length: int = 6, width: int = 16) -> torch.Tensor:
    return torch.randn(batch, length, width)


class _Block(nn.Module):
    """Pre-norm block around an attention, with an MLP and a head."""

    def __init__(self, attention: nn.Module, width: int = 16, inputs: int = 16):
        super().__init__()
        self.embed, self.n1, self.n2 = nn.Linear(inputs, width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.mlp = attention, nn.Sequential(nn.Linear(width, 24), nn.GELU(), nn.Linear(24, width))
        self.head = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        x = x + self.attention(self.n1(x))
        return self.head((x + self.mlp(self.n2(x))).mean(1))


def mha_module() -> Built:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mha = nn.MultiheadAttention(16, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.mha(x, x, x, need_weights=False)[0]

    return _Block(Attention()), _tokens()


def mha_weights_out() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.mha, self.b = nn.Linear(8, 16), nn.MultiheadAttention(16, 2, dropout=0.1), nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = self.a(x)
            y, w = self.mha(x, x, x, average_attn_weights=True)
            return self.b(x + y), w

    return Net(), torch.randn(6, 2, 8)


def mha_cross_kdim() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.kv = nn.Linear(8, 16), nn.Linear(8, 12)
            self.mha = nn.MultiheadAttention(16, 4, kdim=12, vdim=12, batch_first=True, add_bias_kv=True)
            self.out = nn.Linear(16, 3)

        def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
            m = self.kv(memory)
            return self.out(self.mha(self.q(x), m, m, need_weights=False)[0])

    return Net(), (torch.randn(2, 5, 8), torch.randn(2, 7, 8))


def transformer_encoder() -> Built:
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=True)
    return nn.Sequential(nn.Linear(8, 16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
                         nn.Linear(16, 3)), torch.randn(2, 6, 8)


def transformer_full() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.head = nn.Embedding(20, 16), nn.Linear(16, 20)
            self.t = nn.Transformer(16, 4, 1, 2, 24, batch_first=True)

        def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
            return self.head(self.t(self.e(source), self.e(target), tgt_mask=mask, tgt_is_causal=True))

    return Net(), (torch.randint(0, 20, (2, 6)), torch.randint(0, 20, (2, 5)))


def transformer_padding_mask() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e = nn.Embedding(20, 16, padding_idx=0)
            layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, activation="gelu")
            self.t, self.head = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(16, 3)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            pad = ids == 0
            y = self.t(self.e(ids), src_key_padding_mask=pad).masked_fill(pad.unsqueeze(-1), 0.0)
            return self.head(y.sum(1) / (~pad).sum(1, keepdim=True))

    ids = torch.randint(1, 20, (2, 6))
    ids[:, 4:] = 0
    return Net(), ids


class _Fused(nn.Module):
    """Fused q, k, v; `how` is one of the ways to take them apart."""

    def __init__(self, how: str, width: int = 16, heads: int = 4):
        super().__init__()
        self.how, self.h, self.d = how, heads, width // heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, c = x.shape
        y = self.qkv(x)
        if self.how == "unbind":
            q, k, v = y.reshape(b, n, 3, self.h, self.d).permute(2, 0, 3, 1, 4).unbind(0)
        elif self.how == "index":
            y = y.view(b, n, 3, self.h, self.d).permute(2, 0, 3, 1, 4)
            q, k, v = y[0], y[1], y[2]
        elif self.how == "chunk":
            q, k, v = (t.view(b, n, self.h, self.d).transpose(1, 2) for t in y.chunk(3, -1))
        elif self.how == "per_head":
            q, k, v = y.view(b, n, self.h, 3 * self.d).transpose(1, 2).split(self.d, -1)
        elif self.how == "head_last":
            q, k, v = y.view(b, n, self.d, self.h, 3).permute(4, 0, 3, 1, 2).unbind(0)
        else:
            q, k, v = y[..., :c], y[..., c : 2 * c], y[..., 2 * c :]
            q, k, v = (t.reshape(b, n, self.h, self.d).transpose(1, 2) for t in (q, k, v))
        if self.how == "einsum":
            a = (torch.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(self.d)).softmax(-1)
            out = torch.einsum("bhij,bhjd->bhid", a, v)
        elif self.how == "bmm":
            q, k, v = (t.reshape(b * self.h, n, self.d) for t in (q, k, v))
            out = torch.bmm(torch.bmm(q, k.transpose(1, 2)).mul(self.d**-0.5).softmax(-1), v).view(b, self.h, n, self.d)
        else:
            out = ((q * self.d**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(out.transpose(1, 2).reshape(b, n, c))


def fused_unbind() -> Built:
    return _Block(_Fused("unbind")), _tokens()


def fused_index() -> Built:
    return _Block(_Fused("index")), _tokens(1)


def fused_chunk() -> Built:
    return _Block(_Fused("chunk")), _tokens()


def fused_per_head() -> Built:
    return _Block(_Fused("per_head")), _tokens()


def fused_head_last() -> Built:
    return _Block(_Fused("head_last")), _tokens()


def fused_einsum() -> Built:
    return _Block(_Fused("einsum")), _tokens()


def fused_bmm() -> Built:
    return _Block(_Fused("bmm")), _tokens()


class _Grouped(nn.Module):
    """Grouped- and multi-query attention."""

    def __init__(self, kv: int, how: str):
        super().__init__()
        self.kv, self.how = kv, how
        self.q, self.k, self.v = nn.Linear(16, 16), nn.Linear(16, kv * 4), nn.Linear(16, kv * 4)
        self.o = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, 4, 4).transpose(1, 2)
        k = self.k(x).view(b, n, self.kv, 4).transpose(1, 2)
        v = self.v(x).view(b, n, self.kv, 4).transpose(1, 2)
        r = 4 // self.kv
        if self.how == "interleave":
            k, v = k.repeat_interleave(r, 1), v.repeat_interleave(r, 1)
        elif self.how == "expand":
            k = k[:, :, None].expand(b, self.kv, r, n, 4).reshape(b, 4, n, 4)
            v = v[:, :, None].expand(b, self.kv, r, n, 4).reshape(b, 4, n, 4)
        if self.how == "gqa":
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return self.o(y.transpose(1, 2).reshape(b, n, 16))


def multi_query() -> Built:
    return _Block(_Grouped(1, "broadcast")), _tokens()


def grouped_query_interleave() -> Built:
    return _Block(_Grouped(2, "interleave")), _tokens()


def grouped_query_expand() -> Built:
    return _Block(_Grouped(2, "expand")), _tokens()


def grouped_query_flag() -> Built:
    return _Block(_Grouped(2, "gqa")), _tokens()


class _Positions(nn.Module):
    """Rotary (three ways), ALiBi, and relative position bias."""

    def __init__(self, how: str):
        super().__init__()
        self.how = how
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16, bias=False) for _ in range(4))
        freqs = torch.outer(torch.arange(6.0), 1.0 / (100 ** (torch.arange(0, 4, 2).float() / 4)))
        self.register_buffer("cos", torch.cat([freqs, freqs], -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat([freqs, freqs], -1).sin(), persistent=False)
        self.register_buffer("slopes", 2.0 ** -torch.arange(1.0, 5.0))
        self.table = nn.Embedding(11, 4)
        self.register_buffer("index", (torch.arange(6)[:, None] - torch.arange(6)[None] + 5))
        self.bias = nn.Parameter(torch.randn(11, 4) * 0.1)

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "rotary_complex":
            z = torch.view_as_complex(x.reshape(*x.shape[:-1], 2, 2))
            w = torch.complex(self.cos[:, :2], self.sin[:, :2])
            return torch.view_as_real(z * w).flatten(-2)
        if self.how == "rotary_pairs":
            a, b = x[..., ::2], x[..., 1::2]
            c, s = self.cos[:, :2], self.sin[:, :2]
            return torch.stack([a * c - b * s, a * s + b * c], -1).flatten(-2)
        a, b = x.chunk(2, -1)
        return x * self.cos + torch.cat([-b, a], -1) * self.sin

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, 4, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.how.startswith("rotary"):
            q, k = self.rotate(q), self.rotate(k)
        scores = q @ k.mT / 2.0
        if self.how == "alibi":
            position = torch.arange(n)
            scores = scores + self.slopes.view(1, 4, 1, 1) * (position[None] - position[:, None])
        elif self.how == "relative_embedding":
            scores = scores + self.table(self.index).permute(2, 0, 1).unsqueeze(0)
        elif self.how == "relative_table":
            scores = scores + self.bias[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1).contiguous()
        mask = torch.ones(n, n, dtype=torch.bool).tril()
        scores = scores.masked_fill(~mask, float("-inf"))
        return self.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def rotary_half() -> Built:
    return _Block(_Positions("rotary_half")), _tokens()


def rotary_pairs() -> Built:
    return _Block(_Positions("rotary_pairs")), _tokens()


def rotary_complex() -> Built:
    return _Block(_Positions("rotary_complex")), _tokens()


def alibi() -> Built:
    return _Block(_Positions("alibi")), _tokens()


def relative_embedding() -> Built:
    return _Block(_Positions("relative_embedding")), _tokens()


def relative_table() -> Built:
    return _Block(_Positions("relative_table")), _tokens(1)


def linear_attention() -> Built:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.o = nn.Linear(16, 48), nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, n, c = x.shape
            q, k, v = self.qkv(x).view(b, n, 3, 4, 4).unbind(2)
            q, k = F.elu(q) + 1, F.elu(k) + 1
            kv = torch.einsum("bnhd,bnhe->bhde", k, v)
            z = 1 / (torch.einsum("bnhd,bhd->bnh", q, k.sum(1)) + 1e-6)
            return self.o(torch.einsum("bnhd,bhde,bnh->bnhe", q, kv, z).reshape(b, n, c))

    return _Block(Attention()), _tokens()


def channel_attention_xca() -> Built:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.o, self.t = nn.Linear(16, 48), nn.Linear(16, 16), nn.Parameter(torch.ones(4, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, n, c = x.shape
            q, k, v = self.qkv(x).reshape(b, n, 3, 4, c // 4).permute(2, 0, 3, 4, 1)
            a = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.t).softmax(-1)
            return self.o((a @ v).permute(0, 3, 1, 2).reshape(b, n, c))

    return _Block(Attention()), _tokens()


def qk_norm_talking_heads() -> Built:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.o = nn.Linear(16, 48), nn.Linear(16, 16)
            self.qn, self.kn, self.talk = nn.LayerNorm(4), nn.RMSNorm(4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, n, c = x.shape
            q, k, v = self.qkv(x).reshape(b, n, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
            a = self.qn(q) @ self.kn(k).transpose(-2, -1)
            a = self.talk(a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).softmax(-1)
            return self.o((a @ v).transpose(1, 2).reshape(b, n, c))

    return _Block(Attention()), _tokens()


def mlp_mixer() -> Built:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.n1, self.n2, self.fc = nn.Conv2d(3, 12, 4, 4), nn.LayerNorm(12), nn.LayerNorm(12), None
            self.t = nn.Sequential(nn.Linear(16, 20), nn.GELU(), nn.Linear(20, 16))
            self.c = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12))
            self.head = nn.Linear(12, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.patch(x).flatten(2).transpose(1, 2)
            x = x + self.t(self.n1(x).transpose(1, 2)).transpose(1, 2)
            return self.head((x + self.c(self.n2(x))).mean(1))

    return Mixer(), torch.randn(1, 3, 16, 16)


def gmlp() -> Built:
    class SGU(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(16, 24), nn.LayerNorm(12), nn.Linear(12, 16)
            self.mix = nn.Conv1d(6, 6, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            u, v = F.gelu(self.a(x)).chunk(2, -1)
            return self.b(u * self.mix(self.norm(v)))

    return _Block(SGU()), _tokens()


def vit_by_hand() -> Built:
    class ViT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.cls = nn.Conv2d(3, 16, 8, 8), nn.Parameter(torch.randn(1, 1, 16))
            self.pos, self.block, self.norm = nn.Parameter(torch.randn(1, 5, 16)), _Fused("unbind"), nn.LayerNorm(16)
            self.scale, self.head = nn.Parameter(torch.ones(16) * 0.1), nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.patch(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
            return self.head(self.norm(x + self.scale * self.block(x))[:, 0])

    return ViT(), torch.randn(1, 3, 16, 16)


def window_attention() -> Built:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.attn = nn.Conv2d(3, 16, 1), _Fused("unbind")
            self.merge, self.head = nn.Linear(64, 24), nn.Linear(24, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x).permute(0, 2, 3, 1)
            b, h, w, c = x.shape
            y = torch.roll(x, (-2, -2), (1, 2)).view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5)
            y = self.attn(y.reshape(-1, 16, c)).view(b, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5)
            x = x + torch.roll(y.reshape(b, h, w, c), (2, 2), (1, 2))
            x = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
            return self.head(self.merge(x).mean((1, 2)))

    return Windows(), torch.randn(1, 3, 8, 8)


def coatnet() -> Built:
    class CoAt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.GELU())
            self.q, self.k, self.v, self.o = (nn.Conv2d(16, 16, 1) for _ in range(4))
            self.head = nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            b, c, h, w = x.shape
            q, k, v = (f(x).view(b, 4, 4, h * w) for f in (self.q, self.k, self.v))
            a = (q.transpose(-2, -1) @ k * 0.5).softmax(-1)
            return self.head((x + self.o((v @ a.transpose(-2, -1)).reshape(b, c, h, w))).mean((2, 3)))

    return CoAt(), torch.randn(1, 3, 8, 8)


def mixture_of_experts() -> Built:
    class MoE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(16, 3)
            self.experts = nn.ModuleList([
                nn.Sequential(nn.Linear(16, 20), nn.SiLU(), nn.Linear(20, 16)) for _ in range(3)])
            self.w1, self.w2 = nn.Parameter(torch.randn(3, 16, 12) * 0.1), nn.Parameter(torch.randn(3, 12, 16) * 0.1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            g = self.gate(x).softmax(-1)
            weight, picked = g.topk(2, -1)
            mask = torch.zeros_like(g).scatter(-1, picked, weight)
            y = torch.stack([e(x) for e in self.experts], -2)
            z = torch.einsum("bni,eio->bneo", x, self.w1).relu()
            z = torch.einsum("bneo,eoi->bnei", z, self.w2)
            return ((y + z) * mask.unsqueeze(-1)).sum(-2)

    return _Block(MoE()), _tokens()


def fourier_mixing() -> Built:
    class FNet(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real

    return _Block(FNet()), _tokens()
