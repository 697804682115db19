"""Winners by hand, and what is gated."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autoprune
from autoprune.dynamic.channels import Boost, boosted
from autoprune.errors import ConfigError, ModelError
from tests.dynamic.nets import logits, tokens


def test_winners_by_hand() -> None:
    boost = Boost(inputs=2, source=1, units=3, axis=1, keep=1)
    with torch.no_grad():
        boost.saliency.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
        boost.saliency.bias.copy_(torch.tensor([0.0, 0.0, 1.5]))
    x = torch.tensor([[[1.0, -3.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, 1.0]]])  # mean|x|: (2, 1) and (0, 1)
    y = torch.ones(2, 3, 2)
    assert boost(x, y)[:, :, 0].tolist() == [[2.0, 0.0, 0.0], [0.0, 0.0, 1.5]]


def test_inner_channels_are_gated_and_coupled_ones_are_not() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(),
                        nn.Linear(64, 3)).eval()
    x = torch.randn(5, 1, 8, 8)
    model = boosted(autoprune.trace(net, (x[:2],)), 0.5)
    assert model.keeps == {"0": 4}
    whole, gates = 36 * 72 + 16 * 288 + 192, 8
    assert model.share == pytest.approx(((36 * 72 + 16 * 288) / 2 + 192 + gates) / whole)
    seen: list[torch.Tensor] = []
    model.get_submodule("boost.0").register_forward_hook(lambda module, inputs, out: seen.append(out))
    model(x)
    assert bool(((seen[0] != 0).any((2, 3)).sum(1) <= 4).all())


def test_all_units_at_saliency_one_change_nothing() -> None:
    net, ids = tokens()
    model = boosted(autoprune.trace(net, (ids[:2],)), 0.99)
    assert model.keeps["up"] == 16
    for parameter in model.get_submodule("boost").parameters():
        nn.init.constant_(parameter, float(parameter.dim() == 1))
    assert torch.allclose(logits(model(ids)), logits(net(ids)), atol=1e-6)


def test_errors() -> None:
    graph = autoprune.trace(nn.Sequential(nn.Linear(4, 3)), (torch.randn(2, 4),))
    with pytest.raises(ConfigError, match="kept fraction"):
        boosted(graph, 1.0)
    with pytest.raises(ModelError, match="no layer"):
        boosted(graph, 0.5)
