"""One gate by hand, and what its gradient reaches."""

from __future__ import annotations

import torch
from torch import nn

from autoprune.dynamic.gate import Gate


def test_a_decision_by_hand() -> None:
    gate = Gate(2, axis=1, hidden=1).eval()
    with torch.no_grad():
        gate.hidden.weight.copy_(torch.tensor([[1.0, -1.0]]))
        gate.hidden.bias.zero_()
        gate.decide.weight.fill_(1.0)
        gate.decide.bias.fill_(-1.0)
    # means (3, 1) and (1, 3) are normalised to (1, -1) and (-1, 1): hidden 2 and 0, decisions 2 - 1 > 0 and 0 - 1 < 0
    x = torch.tensor([[[2.0, 4.0], [0.0, 2.0]], [[1.0, 1.0], [3.0, 3.0]]])
    out = gate(x)
    assert out.shape == (2, 1, 1)
    assert out.flatten().tolist() == [1.0, 0.0]
    assert gate.opened is not None
    assert gate.opened.tolist() == [1.0, 0.0]
    assert gate.macs == 3


def test_decisions_are_whole_and_gradients_are_soft() -> None:
    torch.manual_seed(0)
    gate = Gate(4, axis=1).train()
    nn.init.zeros_(gate.decide.bias)
    x = torch.randn(64, 4, requires_grad=True)
    out = gate(x)
    assert set(out.flatten().tolist()) == {0.0, 1.0}  # noise decides while logits are near 0
    out.sum().backward()
    assert x.grad is None
    assert gate.decide.bias.grad is not None
    assert gate.decide.bias.grad.item() > 0
    gate.noise = 0.0
    assert torch.equal(gate(x).detach(), gate.eval()(x))


def test_a_new_gate_is_open() -> None:
    assert bool((Gate(8, axis=2).eval()(torch.randn(9, 5, 8)) == 1).all())
