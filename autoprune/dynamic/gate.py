"""`Gate`: a few weights that look at a sample and decide whether a residual branch runs for it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["Gate"]

_GAIN = 30.0  # fine-tuning has one learning rate; without a gain, gates hardly move while trained weights do
_OPEN = 2.0  # the first logit: training starts from the net as it is


class Gate(nn.Module):
    """Mean over all positions, two small linear layers, one decision (Veit & Belongie 2018, arXiv:1711.11503).

    x: [N, …] with `channels` positions on `axis` → [N, 1, …] of x's rank and type: 1 where the branch runs, 0 where it
    does not. In training, logistic noise times `noise` makes a random choice of it (the difference of two Gumbel
    variables; Jang et al. 2017, arXiv:1611.01144), and the gradient is that of the sigmoid (straight-through). No
    gradient reaches x: gates look at the net and do not shape it.

    opened: the decisions of the last call, [N], with a gradient in training. Costs `macs` multiply-adds for a sample
    and a pass over x.
    """

    opened: torch.Tensor | None

    def __init__(self, channels: int, axis: int, hidden: int = 16):
        super().__init__()
        self.axis = axis
        self.noise = 1.0
        self.hidden = nn.Linear(channels, hidden)
        self.decide = nn.Linear(hidden, 1)
        nn.init.constant_(self.decide.bias, _OPEN / _GAIN)
        nn.init.normal_(self.decide.weight, std=0.1 / _GAIN)
        self.opened = None

    @property
    def macs(self) -> int:
        """Multiply-adds for one sample."""
        return self.hidden.weight.numel() + self.decide.weight.numel()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        others = [i for i in range(1, x.dim()) if i != self.axis]
        pooled = x.detach().mean(others) if others else x.detach()
        raw = self.decide(F.relu(self.hidden(F.layer_norm(pooled, pooled.shape[1:]))))
        if self.training:
            logit = _GAIN * raw.float()
            u = torch.rand_like(logit).clamp(1e-6, 1 - 1e-6)
            soft = torch.sigmoid(logit + self.noise * torch.logit(u))
            opened = (soft > 0.5).float() + (soft - soft.detach())
        else:
            opened = (raw > 0).float()
        self.opened = opened.squeeze(1)
        return opened.to(x.dtype).reshape([-1] + [1] * (x.dim() - 1))
