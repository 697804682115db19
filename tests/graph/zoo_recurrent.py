"""Recurrent models."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

Built = tuple[nn.Module, Any]


class _Recurrent(nn.Module):
    def __init__(self, kind: str, layers: int = 1, both: bool = False, first: bool = True, given: bool = False,
                 proj: int = 0, bias: bool = True):
        super().__init__()
        extra = {"proj_size": proj} if proj else {}
        self.e = nn.Linear(5, 8)
        self.rnn = getattr(nn, kind)(8, 12, layers, batch_first=first, bidirectional=both, bias=bias, **extra)
        self.head = nn.Linear((proj or 12) * (2 if both else 1), 3)
        self.first, self.given, self.kind, self.n = first, given, kind, layers * (2 if both else 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.e(x)
        state = None
        if self.given:
            h = torch.zeros(self.n, x.shape[0 if self.first else 1], 12)
            state = (h, h) if self.kind == "LSTM" else h
        y, s = self.rnn(x, state)
        last = s[0] if isinstance(s, tuple) else s
        return self.head(y), last.mean((0, 2))


def lstm() -> Built:
    return _Recurrent("LSTM"), torch.randn(2, 7, 5)


def lstm_deep_bidirectional() -> Built:
    return _Recurrent("LSTM", 2, True), torch.randn(2, 7, 5)


def lstm_sequence_first() -> Built:
    return _Recurrent("LSTM", first=False, given=True), torch.randn(7, 2, 5)


def lstm_projection() -> Built:
    return _Recurrent("LSTM", proj=6), torch.randn(2, 7, 5)


def lstm_no_bias() -> Built:
    return _Recurrent("LSTM", 2, bias=False), torch.randn(1, 7, 5)


def gru() -> Built:
    return _Recurrent("GRU", 2), torch.randn(1, 7, 5)


def gru_bidirectional_state() -> Built:
    return _Recurrent("GRU", 1, True, given=True), torch.randn(2, 7, 5)


def rnn_tanh() -> Built:
    return _Recurrent("RNN", 2, True), torch.randn(2, 7, 5)


def lstm_state_inputs() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.rnn, self.b = nn.Linear(5, 8), nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 3)

        def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> Any:
            y, (h, c) = self.rnn(self.a(x), (h, c))
            return self.b(y), h, c

    return Net(), (torch.randn(2, 4, 5), torch.zeros(1, 2, 12), torch.zeros(1, 2, 12))


def cells() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.LSTMCell(5, 8), nn.GRUCell(8, 6), nn.RNNCell(6, 4)
            self.head = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = c = torch.zeros(x.shape[0], 8)
            g, r, out = torch.zeros(x.shape[0], 6), None, []
            for i in range(x.shape[1]):
                h, c = self.a(x[:, i], (h, c))
                g = self.b(h, g)
                r = self.c(g, r)
                out.append(r)
            return self.head(torch.stack(out, 1))

    return Net(), torch.randn(2, 4, 5)


def conv_lstm() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x, self.h = nn.Conv2d(2, 24, 3, padding=1), nn.Conv2d(6, 24, 3, padding=1, bias=False)
            self.out = nn.Conv2d(6, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, t, _, height, width = x.shape
            h = torch.zeros(b, 6, height, width)
            c = torch.zeros_like(h)
            for k in range(t):
                i, f, o, g = (self.x(x[:, k]) + self.h(h)).chunk(4, 1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
            return self.out(h)

    return Net(), torch.randn(2, 3, 2, 6, 6)


def crnn() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cnn = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU())
            self.rnn, self.head = nn.LSTM(16, 10, bidirectional=True), nn.Linear(20, 7)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.cnn(x)
            b, c, h, w = y.shape
            y, _ = self.rnn(y.reshape(b, c * h, w).permute(2, 0, 1))
            return self.head(y).log_softmax(-1)

    return Net(), torch.randn(2, 1, 8, 16)


def minimal_ssm() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inp, self.x, self.dt, self.out = nn.Linear(5, 16), nn.Linear(8, 9), nn.Linear(1, 8), nn.Linear(8, 3)
            self.conv = nn.Conv1d(8, 8, 3, padding=2, groups=8)
            self.a, self.d = nn.Parameter(torch.rand(8, 4)), nn.Parameter(torch.ones(8))

        def forward(self, u: torch.Tensor) -> torch.Tensor:
            x, gate = self.inp(u).chunk(2, -1)
            x = self.conv(x.mT)[..., : u.shape[1]].mT.sigmoid()
            dt, b, c = self.x(x).split([1, 4, 4], -1)
            dt = nn.functional.softplus(self.dt(dt))
            da = torch.exp(-dt.unsqueeze(-1) * self.a)
            db = dt.unsqueeze(-1) * b.unsqueeze(2) * x.unsqueeze(-1)
            h, out = torch.zeros(u.shape[0], 8, 4), []
            for i in range(u.shape[1]):
                h = da[:, i] * h + db[:, i]
                out.append((h * c[:, i].unsqueeze(1)).sum(-1))
            return self.out((torch.stack(out, 1) + self.d * x) * gate.sigmoid())

    return Net(), torch.randn(2, 4, 5)
