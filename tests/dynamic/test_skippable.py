"""Gates around the branches of any model: shut ones drop, open ones change nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import autoprune
from autoprune.dynamic.skippable import gateable, skippable
from autoprune.errors import ConfigError, ModelError
from autoprune.graph.plan import Plan
from tests.dynamic.nets import conv, gated, logits, set_gate, tokens, undecided

Make = Callable[[], tuple[nn.Module, Tensor]]


@pytest.mark.parametrize("make", [conv, tokens])
def test_open_is_dense_and_shut_is_dropped(make: Make) -> None:
    net, x = make()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    graph = autoprune.trace(net, (x[:2],))
    model = skippable(graph)
    assert torch.allclose(logits(model(x)), logits(net(x)), atol=1e-6)
    for name in model.branches:
        set_gate(model, name, opened=False)
        dropped = graph.build(Plan(dropped=(name,)))
        assert torch.allclose(logits(model(x)), logits(dropped(x)), atol=1e-6)
        set_gate(model, name, opened=True)
    assert all(torch.equal(before[n], t) for n, t in net.state_dict().items())


def test_gates_read_channels_and_embeddings() -> None:
    assert [(g.axis, g.hidden.in_features) for g in gated(*conv()).gates] == [(1, 6), (1, 6)]
    assert [(g.axis, g.hidden.in_features) for g in gated(*tokens()).gates] == [(2, 8), (2, 8)]


def test_samples_of_a_batch_decide_for_themselves() -> None:
    net, x = tokens()
    model = undecided(gated(net, x))
    together = logits(model(x))
    opened = model.opened()
    assert len({tuple(row) for row in opened.tolist()}) > 1
    alone = torch.cat([logits(model(x[i : i + 1])) for i in range(len(x))])
    assert torch.allclose(together, alone, atol=1e-6)


def test_the_share_counts_what_runs() -> None:
    model = gated(*conv())
    stem, a, b, head = 25 * 9 * 6, 25 * 36, 25 * 36, 18
    whole = stem + a + b + head
    gates = sum(g.macs for g in model.gates)
    assert model.shares == pytest.approx((a / whole, b / whole))
    shares = model.share(torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    assert shares.tolist() == pytest.approx([1 + gates / whole, 1 + (gates - a) / whole])


def test_branches_can_be_chosen() -> None:
    net, x = conv()
    graph = autoprune.trace(net, (x[:2],))
    last = list(graph.branches)[-1]
    assert skippable(graph, [last]).branches == (last,)
    with pytest.raises(ConfigError, match="did you mean"):
        skippable(graph, [last + "x"])


def test_the_innermost_of_nested_branches_is_gated() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.inner, self.outer = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)
            self.head = nn.Linear(6, 40)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.stem(x))
            y = torch.relu(x)
            x = x + self.outer(y + self.inner(y))
            out: Tensor = self.head(x)
            return out

    graph = autoprune.trace(Nested(), (torch.randn(2, 4),))
    assert len(graph.branches) == 2
    assert list(gateable(graph)) == ["inner"]


def test_a_model_without_branches_is_one_clear_error() -> None:
    with pytest.raises(ModelError, match="no residual branch"):
        skippable(autoprune.trace(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2)), (torch.randn(2, 4),)))


def test_decisions_before_the_first_batch_are_an_error() -> None:
    with pytest.raises(ModelError, match="no batch has run"):
        gated(*conv()).opened()
