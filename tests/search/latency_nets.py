"""Small nets, one for each way in which a size follows from groups' widths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16)
        self.a, self.b = nn.Conv2d(16, 24, 3, padding=1), nn.Conv2d(24, 16, 3, padding=1)
        self.c, self.d = nn.Conv2d(16, 10, 1), nn.Conv2d(10, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.b(F.relu(self.a(x))))
        x = F.relu(x + self.d(F.relu(self.c(x))))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


class Dense(nn.Module):
    """Groups of one small size (6): they can be told apart only by probes that give them different widths."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(8 + 6 * i, 6, 3, padding=1) for i in range(4))
        self.last = nn.Conv2d(32, 12, 1)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for layer in self.layers:
            x = torch.cat([x, F.relu(layer(x))], 1)
        out: Tensor = self.head(F.adaptive_avg_pool2d(F.relu(self.last(x)), 1).flatten(1))
        return out


class Excite(nn.Module):
    """Inverted residual blocks: depthwise, squeeze and excite, hard-swish."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2, padding=1)
        self.wide, self.deep = nn.Conv2d(12, 36, 1), nn.Conv2d(36, 36, 3, padding=1, groups=36)
        self.down, self.up, self.narrow = nn.Conv2d(36, 9, 1), nn.Conv2d(9, 36, 1), nn.Conv2d(36, 12, 1)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.stem(x))
        y = F.hardswish(self.deep(F.hardswish(self.wide(x))))
        y = y * torch.sigmoid(self.up(F.relu(self.down(y.mean((2, 3), keepdim=True)))))
        out: Tensor = self.head((x + self.narrow(y)).mean((2, 3)))
        return out


class Attention(nn.Module):
    """Heads and their dimension are groups: a reshape's sizes are their product."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(32, 32) for _ in range(4))
        self.one, self.two = nn.Linear(32, 56), nn.Linear(56, 32)
        self.norm, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        y = self.norm(x)
        q, k, v = (f(y).reshape(batch, tokens, 4, 8).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = torch.softmax(q @ k.transpose(-1, -2) / 8 ** 0.5, -1) @ v
        x = x + self.out(y.transpose(1, 2).reshape(batch, tokens, 32))
        x = x + self.two(F.gelu(self.one(self.norm2(x))))
        return x.mean(1)


class Flat(nn.Module):
    """A map flattened into features: the linear layer reads channels × pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.conv2 = nn.Conv2d(1, 12, 3), nn.Conv2d(12, 7, 3)
        self.one, self.two = nn.Linear(7 * 16, 40), nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv(x))))
        out: Tensor = self.two(F.relu(self.one(x.flatten(1))))
        return out


class Recurrent(nn.Module):
    """A recurrent layer's multiply-adds are a sum of two products."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rnn, self.head = nn.Linear(6, 12), nn.GRU(12, 10, batch_first=True), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.rnn(F.relu(self.first(x)))[0][:, -1])
        return out


def _bert() -> tuple[nn.Module, Any]:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                        intermediate_size=48, max_position_embeddings=40)
    return BertForSequenceClassification(config), {"input_ids": torch.randint(3, 60, (2, 8))}


def _resnet() -> tuple[nn.Module, Any]:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="bottleneck")
    return ResNetForImageClassification(config), {"pixel_values": torch.randn(1, 3, 32, 32)}


OWN = {"residual": (Residual, (1, 3, 16, 16)), "dense": (Dense, (1, 3, 12, 12)), "excite": (Excite, (1, 3, 16, 16)),
       "attention": (Attention, (1, 10, 32)), "flat": (Flat, (1, 1, 8, 8)), "recurrent": (Recurrent, (1, 5, 6))}
FAMILIES = {"bert": _bert, "resnet": _resnet}


def build(name: str) -> tuple[nn.Module, Any]:
    """A model in evaluation mode and its example inputs; the same for one name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name in FAMILIES:
            model, inputs = FAMILIES[name]()
            return model.eval(), inputs
        kind, shape = OWN[name]
        return kind().eval(), (torch.randn(shape),)
