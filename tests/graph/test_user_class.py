"""`prune` gives the user's own class back when that computes the same, and the graph with a reason when not."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import autoprune
from autoprune.errors import NoEffectWarning
from autoprune.graph.eager import PrunedMixin
from autoprune.graph.module import PrunedModule
from autoprune.graph.plan import Plan


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 16, 3, padding=1, groups=4)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.up = nn.ConvTranspose2d(16, 6, 2, stride=2)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = self.up(self.depthwise(torch.relu(self.grouped(x))))
        return self.head(self.drop(x.mean((2, 3))))

    def describe(self) -> str:
        return f"{self.stem.out_channels} channels"


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim = 4, 6
        self.q, self.k, self.v = (nn.Linear(10, 24) for _ in range(3))
        self.out = nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        q, k, v = (m(x).view(b, n, self.num_heads, self.head_dim).transpose(1, 2) for m in (self.q, self.k, self.v))
        scores = (q @ k.transpose(-2, -1) * 6 ** -0.5).softmax(-1)
        return self.out((scores @ v).transpose(1, 2).reshape(b, n, self.num_heads * self.head_dim))


class Baked(nn.Module):
    """A width that no attribute holds: the class cannot run with fewer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 12), nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)).view(-1, 12))


class Projection(nn.Module):
    """A linear layer as GPT-2 writes it: weight `[in, out]`, and the output width as a number."""

    def __init__(self, wide: int, n: int) -> None:
        super().__init__()
        self.nf = n
        self.weight, self.bias = nn.Parameter(torch.randn(wide, n) / wide), nn.Parameter(torch.zeros(n))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], self.nf)


class FusedAttention(nn.Module):
    """The width of the embedding and of all heads together are both 24, and become different numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.head_dim, self.split_size = 6, 24
        self.embed, self.qkv, self.out = Projection(10, 24), Projection(24, 72), Projection(24, 24)
        self.head = nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        parts = self.qkv(x).split(self.split_size, dim=2)
        q, k, v = (p.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2) for p in parts)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.head(x + self.out(y.reshape(*x.shape[:2], -1)))


def pruned(model: nn.Module, x: torch.Tensor, keep: float = 0.5) -> Any:
    torch.manual_seed(0)
    graph = autoprune.trace(model.eval(), (x,))
    return graph.prune(Plan.uniform(graph, keep))


def test_a_cnn_comes_back_as_itself() -> None:
    x = torch.randn(2, 1, 8, 8)
    small = pruned(Cnn(), x)
    assert isinstance(small, Cnn)
    assert small.describe() == "2 channels"  # 4 groups of 2, half of the groups and half of their width
    assert (small.grouped.groups, small.norm.num_features) == (2, 2)
    assert small.depthwise.groups == small.depthwise.in_channels
    assert (small.up.in_channels, small.up.out_channels) == tuple(small.up.weight.shape[:2])
    assert torch.allclose(small(x), small.graph_form()(x), atol=1e-6)


def test_heads_and_head_dim_held_as_numbers_are_found() -> None:
    x = torch.randn(2, 5, 10)
    small = pruned(Attention(), x)
    assert isinstance(small, Attention)
    assert (small.num_heads, small.head_dim) == (2, 3)


def test_one_number_may_become_different_ones_in_different_modules() -> None:
    torch.manual_seed(1)  # with 1 seed of 40 the two forms differ by 1.1e-5, more than is taken for the same
    x = torch.randn(2, 5, 10)
    small = pruned(FusedAttention(), x)
    assert isinstance(small, FusedAttention)
    assert small.qkv.nf == small.qkv.weight.shape[1] == 3 * small.split_size
    assert small.out.nf == small.embed.nf == 12


def test_what_does_not_fit_is_a_graph_with_the_reason() -> None:
    small = pruned(Baked(), torch.randn(2, 4))
    assert isinstance(small, PrunedModule)
    assert small.why_graph is not None
    assert "Baked.forward" in small.why_graph
    assert small(torch.randn(3, 4)).shape == (3, 2)


@pytest.mark.parametrize(("make", "shape"), [(Cnn, (2, 1, 8, 8)), (Baked, (2, 4))])
def test_both_forms_train_copy_save_and_prune_again(make: type[nn.Module], shape: tuple[int, ...],
                                                    tmp_path: Path) -> None:
    x = torch.randn(*shape)
    small = pruned(make(), x)
    small.train()
    before = small(x)
    before.sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in small.parameters())
    small.eval()
    other = copy.deepcopy(small)
    assert torch.equal(other(x), small(x))
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    assert not torch.equal(other(x), small(x))
    small.save(tmp_path)
    assert torch.allclose(autoprune.load(tmp_path)(x), small(x), atol=1e-6)
    graph = autoprune.trace(small, (x,))
    again = graph.prune(Plan.uniform(graph, 0.5))
    assert sum(p.numel() for p in again.parameters()) < sum(p.numel() for p in small.parameters())
    assert type(again).__name__.count("Pruned") == 1


def test_dropout_and_batch_norm_follow_train_and_eval_in_graph_form() -> None:
    x = torch.randn(4, 1, 8, 8)
    small = pruned(Cnn(), x).graph_form()
    assert torch.equal(small(x), small(x))
    small.train()
    assert not torch.equal(small(x), small(x))


def test_the_copy_shares_nothing_with_the_users_model() -> None:
    model, x = Cnn(), torch.randn(2, 1, 8, 8)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    small = pruned(model, x)
    with torch.no_grad():
        for p in small.parameters():
            p.add_(1.0)
    small.train()(x)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert model.stem.out_channels == 8


def test_graphs_move_between_devices_with_their_literals() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.embed, self.head = nn.Linear(6, 4), nn.Embedding(8, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.stem(x) + self.embed(torch.arange(x.shape[1], device=x.device)))

    x = torch.randn(2, 5, 6)
    graph = autoprune.trace(Positions(), (x,))
    small = graph.cut(Plan.uniform(graph, 0.5)).to("meta")
    assert small(x.to("meta")).device.type == "meta"


class Auxiliary(nn.Module):
    """A second head while it trains (GoogLeNet, Inception): evaluation does not know of it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.second = nn.Linear(4, 12), nn.Linear(12, 2), nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.relu(self.a(x))
        return (self.b(x), self.second(x)) if self.training else self.b(x)


def test_a_class_that_could_not_train_any_more_is_not_given_back() -> None:
    model = Auxiliary().eval()
    graph = autoprune.trace(model, torch.randn(2, 4))
    pruned = graph.prune(Plan.uniform(graph, 0.5))
    assert isinstance(pruned, PrunedModule)
    assert "in training mode" in str(pruned.why_graph)
    pruned.train()(torch.randn(2, 4)).sum().backward()


def test_the_trial_in_training_mode_leaves_no_trace() -> None:
    model = Cnn().eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    graph = autoprune.trace(model, torch.randn(2, 1, 8, 8))
    with pytest.warns(NoEffectWarning):
        pruned = graph.prune(Plan.uniform(graph, 1.0))
    assert isinstance(pruned, Cnn)
    assert not any(m.training for m in pruned.modules())
    for name, tensor in pruned.state_dict().items():
        assert torch.equal(tensor, before[name]), name


class Scaled(nn.Module):
    """A branch whose scale is zero when it is young; the number of heads is held by its module."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.heads = 4
        self.first, self.qkv, self.out = nn.Linear(5, 32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.scale, self.last = nn.Parameter(scale * torch.ones(32)), nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.first(x)
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.last(x + self.scale * self.out(mixed.transpose(1, 2).reshape(b, n, -1)))


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0])
def test_what_a_young_branch_hides_is_compared(scale: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 5)
    graph = autoprune.trace(Scaled(scale).eval(), x)
    heads = next(name for name, group in graph.groups.items() if group.size == 4)
    pruned = graph.prune(Plan.of(graph, {heads: 0.5}))
    assert isinstance(pruned, Scaled)
    assert isinstance(pruned, PrunedMixin)
    assert float(pruned.scale.detach().max()) == pytest.approx(scale)
    with torch.no_grad():
        pruned.scale.fill_(1.0)  # as if it were trained
        torch.testing.assert_close(pruned(x), pruned.graph_form()(x))


class Tapped(nn.Module):
    """Keeps what a layer puts out by a hook, which a copy shares with its original."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 12), nn.Linear(12, 12), nn.Linear(12, 3)
        self.kept: dict[str, torch.Tensor] = {}
        self.b.register_forward_hook(lambda module, inputs, out: self.kept.__setitem__("b", out))

    def forward(self, x: torch.Tensor) -> Any:
        x = self.b(self.a(x).relu()).relu()
        return self.c(x + self.kept["b"])


def test_a_class_that_computes_with_old_values_is_not_given_back() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5)
    model = Tapped().eval()
    model(x)
    graph = autoprune.trace(model, x)
    assert isinstance(graph.prune(Plan.uniform(graph, 0.6)), PrunedModule)


def test_outputs_that_are_infinite_or_no_numbers_are_compared() -> None:
    class Masked(Cnn):
        def forward(self, x: torch.Tensor) -> Any:
            out = super().forward(x)
            return out.masked_fill(torch.arange(out.shape[-1]) == 0, -torch.inf), out > 0

    graph = autoprune.trace(Masked().eval(), torch.randn(2, 1, 8, 8))
    assert isinstance(graph.prune(Plan.uniform(graph, 0.5)), Masked)
