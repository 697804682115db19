"""Tiny networks with residual branches, and gates set by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import autoprune
from autoprune.dynamic.skippable import Skippable, skippable


class Conv(nn.Module):
    """Sums that are written into: one by `+=`, both by a ReLU behind them, the first skip by a ReLU before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.a(torch.relu(x)))
        y += x
        y = torch.relu_(y)
        y = torch.relu_(self.b(y) + y)
        out: Tensor = self.head(y.mean((2, 3)))
        return out


class Tokens(nn.Module):
    """A transformer layer over embedded tokens, with attention and MLP as branches; the output is a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.q, self.k, self.v, self.proj = (nn.Linear(8, 8) for _ in range(4))
        self.up, self.down, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        x = self.embed(ids)
        y = self.norm1(x)
        weights = (self.q(y) @ self.k(y).transpose(1, 2)).softmax(-1)
        x = x + self.proj(weights @ self.v(y))
        x = x + self.down(torch.relu(self.up(self.norm2(x))))
        return {"logits": self.head(x.mean(1))}


def conv() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Conv().eval(), torch.randn(8, 1, 7, 7)


def tokens() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Tokens().eval(), torch.randint(0, 11, (8, 5))


def gated(net: nn.Module, x: Tensor) -> Skippable:
    return skippable(autoprune.trace(net, (x[:2],)))


def undecided(model: Skippable) -> Skippable:
    """Gates that open for some inputs and shut for others."""
    torch.manual_seed(3)
    for gate in model.gates:
        nn.init.normal_(gate.decide.weight)
        nn.init.normal_(gate.hidden.weight)
        nn.init.zeros_(gate.decide.bias)
    return model


def set_gate(model: Skippable, branch: str, *, opened: bool) -> None:
    gate = model.gates[model.branches.index(branch)]
    nn.init.zeros_(gate.decide.weight)
    nn.init.constant_(gate.decide.bias, 1.0 if opened else -1.0)


def logits(outputs: Any) -> Tensor:
    found: Tensor = outputs["logits"] if isinstance(outputs, dict) else outputs
    return found
