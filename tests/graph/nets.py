"""Small networks composed of blocks by name, for property tests. A `Spec` is data: hypothesis can draw and shrink it.

Zero-preserving blocks turn units that are zero into units that are zero (in evaluation mode, once biases and norm
shifts of these units are zero too): removing a unit then equals zeroing it. The `…_OTHER` blocks are not like that:
norms over a pruned axis, and multi-query attention, where a head without a query still averages the values that all
heads share.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

IMAGE = ("conv", "conv_bn", "depthwise", "grouped", "transposed", "residual", "cat", "split", "se", "max_pool", "glu",
         "inverted", "scale", "shuffle", "chunk_half", "dilated_same")
IMAGE_OTHER = ("group_norm", "prelu")
TOKENS = ("mlp", "attention", "qkv", "gated", "layer_scale", "position")
TOKENS_OTHER = ("layer_norm", "rms_norm", "pre_norm", "multi_query")
ENDS_IMAGE = ("gap", "flatten", "mean")
ENDS_TOKENS = ("mean", "first", "flatten")


@dataclass(frozen=True)
class Spec:
    kind: str  # "image" or "tokens"
    width: int
    blocks: tuple[str, ...]
    end: str
    seed: int

    @property
    def zero_preserving(self) -> bool:
        return not set(self.blocks) & {*IMAGE_OTHER, *TOKENS_OTHER}


def specs(other: bool = False, max_blocks: int = 3) -> st.SearchStrategy[Spec]:
    """`other` adds the blocks that do not preserve zeros."""
    def of(kind: str, blocks: tuple[str, ...], ends: tuple[str, ...]) -> st.SearchStrategy[Spec]:
        return st.builds(Spec, st.just(kind), st.sampled_from([4, 8]),
                         st.lists(st.sampled_from(blocks), min_size=1, max_size=max_blocks).map(tuple),
                         st.sampled_from(ends), st.integers(0, 99))
    image = of("image", IMAGE + (IMAGE_OTHER if other else ()), ENDS_IMAGE)
    tokens = of("tokens", TOKENS + (TOKENS_OTHER if other else ()), ENDS_TOKENS)
    return image | tokens


class Attention(nn.Module):
    """Separate projections, `heads` heads; `kv_heads` 1 is multi-query attention."""

    def __init__(self, width: int, heads: int = 2, kv_heads: int | None = None):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads or heads, width // heads
        self.q = nn.Linear(width, heads * self.head_dim)
        self.k = nn.Linear(width, self.kv_heads * self.head_dim)
        self.v = nn.Linear(width, self.kv_heads * self.head_dim)
        self.proj = nn.Linear(heads * self.head_dim, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q = self.q(x).view(n, t, self.heads, self.head_dim).transpose(1, 2)
        k = self.k(x).view(n, t, self.kv_heads, self.head_dim).transpose(1, 2)
        v = self.v(x).view(n, t, self.kv_heads, self.head_dim).transpose(1, 2)
        weights = ((q @ k.transpose(-2, -1)) * self.head_dim**-0.5).softmax(-1)
        y: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(n, t, -1))
        return y


class Qkv(nn.Module):
    """One projection for queries, keys and values, and the fused operator."""

    def __init__(self, width: int, heads: int = 2):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c))
        return y


class Block(nn.Module):
    def __init__(self, kind: str, c: int):
        super().__init__()
        self.kind = kind
        make = {
            "conv": lambda: [nn.Conv2d(c, c, 3, padding=1)],
            "conv_bn": lambda: [nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c)],
            "dilated_same": lambda: [nn.Conv2d(c, c, 3, padding="same", dilation=2)],
            "depthwise": lambda: [nn.Conv2d(c, c, 3, padding=1, groups=c), nn.Conv2d(c, c, 1)],
            "grouped": lambda: [nn.Conv2d(c, c, 3, padding=1, groups=2)],
            "transposed": lambda: [nn.ConvTranspose2d(c, c, 3, padding=1)],
            "residual": lambda: [nn.Conv2d(c, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, c, 3, padding=1)],
            "inverted": lambda: [nn.Conv2d(c, 2 * c, 1), nn.Conv2d(2 * c, 2 * c, 3, padding=1, groups=2 * c),
                                 nn.BatchNorm2d(2 * c), nn.Conv2d(2 * c, c, 1)],
            "cat": lambda: [nn.Conv2d(c, 5, 1), nn.Conv2d(c, 3, 3, padding=1), nn.Conv2d(8, c, 1)],
            "split": lambda: [nn.Conv2d(c, 7, 1), nn.Conv2d(3, c, 1), nn.Conv2d(4, c, 1)],
            "chunk_half": lambda: [nn.Conv2d(c, c // 2, 1)],
            "se": lambda: [nn.Conv2d(c, 4, 1), nn.Conv2d(4, c, 1)],
            "max_pool": lambda: [nn.Conv2d(c, c, 1)],
            "glu": lambda: [nn.Conv2d(c, 2 * c, 1)],
            "scale": lambda: [nn.Conv2d(c, c, 1)],
            "shuffle": lambda: [nn.Conv2d(c, c, 1, groups=2), nn.Conv2d(c, c, 1)],
            "group_norm": lambda: [nn.Conv2d(c, c, 1), nn.GroupNorm(2, c)],
            "prelu": lambda: [nn.Conv2d(c, c, 1), nn.PReLU(c)],
            "mlp": lambda: [nn.Linear(c, 6), nn.Linear(6, c)],
            "gated": lambda: [nn.Linear(c, 6, bias=False), nn.Linear(c, 6), nn.Linear(6, c)],
            "attention": lambda: [Attention(c)],
            "multi_query": lambda: [Attention(c, 2, 1)],
            "qkv": lambda: [Qkv(c)],
            "layer_norm": lambda: [nn.LayerNorm(c)],
            "rms_norm": lambda: [nn.RMSNorm(c)],
            "pre_norm": lambda: [nn.LayerNorm(c), Attention(c)],
            "layer_scale": lambda: [nn.Linear(c, c)],
            "position": lambda: [],
        }
        self.parts = nn.ModuleList(make[kind]())
        if kind in ("scale", "layer_scale"):
            self.gamma = nn.Parameter(torch.rand(c) + 0.5)
        if kind == "position":
            self.gamma = nn.Parameter(torch.randn(1, 5, c))

    def forward(self, x: Tensor) -> Tensor:  # a table of small recipes
        m, kind = self.parts, self.kind
        if kind in ("conv", "dilated_same", "grouped", "transposed"):
            return F.relu(m[0](x))
        if kind in ("conv_bn", "depthwise", "group_norm", "prelu"):
            return F.relu(m[1](F.silu(m[0](x)) if kind == "depthwise" else m[0](x)))
        if kind == "residual":
            return x + m[2](F.relu(m[1](m[0](x))))
        if kind == "inverted":
            return x + m[3](F.hardswish(m[2](m[1](F.relu6(m[0](x))))))
        if kind == "cat":
            return F.relu(m[2](torch.cat([F.relu(m[0](x)), F.gelu(m[1](x))], 1)))
        if kind == "split":
            a, b = m[0](x).split([3, 4], 1)
            return F.relu(m[1](a)) + m[2](F.relu(b))
        if kind == "chunk_half":
            a, b = x.chunk(2, 1)
            return torch.cat([a, F.relu(m[0](torch.cat([b, a], 1)))], 1)
        if kind == "se":
            return x * m[1](F.relu(m[0](x.mean((2, 3), keepdim=True)))).sigmoid()
        if kind == "max_pool":
            return F.interpolate(F.max_pool2d(F.relu(m[0](x)), 2), scale_factor=2.0)
        if kind == "glu":
            return F.glu(m[0](x), 1)
        if kind == "scale":
            return x + m[0](x) * self.gamma.view(1, -1, 1, 1)
        if kind == "shuffle":
            return F.relu(m[1](F.channel_shuffle(m[0](x), 2)))
        if kind == "mlp":
            return x + m[1](F.gelu(m[0](x)))
        if kind == "gated":
            return x + m[2](F.silu(m[0](x)) * m[1](x))
        if kind in ("attention", "multi_query", "qkv"):
            return x + m[0](x)
        if kind == "pre_norm":
            return x + m[1](m[0](x))
        if kind == "layer_scale":
            return x + self.gamma * m[0](x)
        if kind == "position":
            return x + self.gamma
        out: Tensor = m[0](x)
        return out


class Net(nn.Module):
    """stem → blocks → end → head. Inputs are `[3, 2, 6, 6]` images or `[3, 5, 7]` tokens; 3 outputs."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.spec = spec
        c = spec.width
        image = spec.kind == "image"
        self.stem: nn.Module = nn.Conv2d(2, c, 1) if image else nn.Linear(7, c)
        self.blocks = nn.Sequential(*(Block(kind, c) for kind in spec.blocks))
        positions = 36 if image else 5
        self.head = nn.Linear(c * positions if spec.end == "flatten" else c, 3)

    def forward(self, x: Tensor) -> Tensor:
        image = self.spec.kind == "image"
        x = self.blocks(self.stem(x))
        if self.spec.end == "flatten":
            x = x.flatten(1)
        elif image:
            x = F.adaptive_avg_pool2d(x, 1).flatten(1) if self.spec.end == "gap" else x.mean((2, 3))
        else:
            x = x[:, 0] if self.spec.end == "first" else x.mean(1)
        out: Tensor = self.head(x)
        return out


def make(spec: Spec, dtype: torch.dtype = torch.float32) -> tuple[Net, Tensor]:
    """The network in evaluation mode with random norm statistics, and an input."""
    torch.manual_seed(spec.seed)
    net = Net(spec)
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean.normal_()  # type: ignore[union-attr]
                m.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
                m.weight.uniform_(0.5, 1.5)
                m.bias.normal_()
    x = torch.randn(3, 2, 6, 6) if spec.kind == "image" else torch.randn(3, 5, 7)
    return net.to(dtype).eval(), x.to(dtype)
