"""Residual branches as units: found, named, dropped in torch and in ONNX."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

import autoprune
from autoprune.errors import ConfigError
from autoprune.graph.onnx import check_onnx
from autoprune.graph.onnx_template import OnnxTemplate
from autoprune.graph.plan import Plan


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.relu_(self.up(self.norm(x))))


class Net(nn.Module):
    """Two residual blocks, one added in place, and a sum of two projections that is no residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.other = nn.Linear(6, 8), nn.Linear(6, 8)
        self.first, self.second = Block(8), Block(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x) + self.other(x)
        x = x + self.first(x)
        y = self.second(x)
        y += x
        return self.head(y)


@pytest.fixture
def traced() -> tuple[Net, autoprune.Graph, torch.Tensor]:
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(3, 6)
    return net, autoprune.trace(net, (x[:1],)), x


def test_only_sums_with_their_own_input_are_branches(traced: tuple[Net, autoprune.Graph, torch.Tensor]) -> None:
    _, graph, _ = traced
    assert list(graph.branches) == ["first", "second"]
    block = sum(p.numel() for p in Block(8).parameters())
    assert [b.params for b in graph.branches.values()] == [block, block]


@pytest.mark.parametrize("dropped", [("first",), ("second",), ("first", "second")])
def test_dropping_a_branch_is_computing_without_it(
        traced: tuple[Net, autoprune.Graph, torch.Tensor], dropped: tuple[str, ...], tmp_path: Path) -> None:
    net, graph, x = traced
    expected = net.stem(x) + net.other(x)
    for name in ("first", "second"):
        if name not in dropped:
            expected = expected + getattr(net, name)(expected)
    expected = net.head(expected)
    small = graph.prune(Plan(dropped=dropped))
    assert torch.allclose(small(x), expected, atol=1e-6)
    assert not any(name.startswith(dropped) for name, _ in small.named_parameters())
    assert "branch" in small.why_graph
    small.save(tmp_path)
    again = autoprune.load(tmp_path)
    assert again.plan.dropped == dropped
    assert torch.equal(again(x), small(x))


def test_widths_and_depth_together_in_onnx(traced: tuple[Net, autoprune.Graph, torch.Tensor]) -> None:
    import onnx

    _, graph, _ = traced
    plan = dataclasses.replace(Plan.uniform(graph, 0.5), dropped=("first",))
    small = graph.cut(plan)
    sliced = OnnxTemplate(graph).slice(small.plan, small.tensors())
    check_onnx(sliced, small, graph.example_inputs)
    names = {i.name for i in onnx.load_from_string(sliced).graph.initializer}
    assert not any(n.startswith("first") for n in names)
    assert any(n.startswith("second") for n in names)


def test_an_unknown_branch_is_an_error_with_the_nearest_name(
        traced: tuple[Net, autoprune.Graph, torch.Tensor]) -> None:
    _, graph, _ = traced
    with pytest.raises(ConfigError, match="did you mean 'first'"):
        graph.prune(Plan(dropped=("firsst",)))


def test_a_branch_round_the_whole_net_is_the_net() -> None:
    class Denoiser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(x)
            return x + self.b(self.a(x))

    assert autoprune.trace(Denoiser(), (torch.randn(2, 6),)).branches == {}


def test_the_digest_tells_depth_apart() -> None:
    assert Plan().digest != Plan(dropped=("first",)).digest
    assert Plan.from_json(Plan(dropped=("first",)).to_json()) == Plan(dropped=("first",))
