"""Multiply-adds, parameters and bytes against values worked out by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.graph.graph import trace
from autoprune.graph.macs import count
from autoprune.graph.plan import Plan
from tests.graph.nets import Qkv


class Call(nn.Module):
    """A function of one parameter-free step."""

    def __init__(self, f: object):
        super().__init__()
        self.f = f

    def forward(self, *x: Tensor) -> Tensor:
        out: Tensor = self.f(*x)  # type: ignore[operator]
        return out


@pytest.mark.parametrize(("layer", "shape", "macs"), [
    (nn.Linear(7, 5), (3, 7), 3 * 7 * 5),
    (nn.Linear(7, 5, bias=False), (3, 4, 7), 3 * 4 * 7 * 5),
    (nn.Conv2d(3, 8, 3, padding=1), (2, 3, 6, 5), 2 * 8 * 6 * 5 * 3 * 9),
    (nn.Conv2d(3, 8, 3, stride=2), (1, 3, 7, 7), 8 * 3 * 3 * 3 * 9),
    (nn.Conv2d(8, 8, 3, padding=1, groups=8), (2, 8, 6, 5), 2 * 8 * 6 * 5 * 9),
    (nn.Conv2d(8, 4, 3, padding=1, groups=2), (2, 8, 6, 5), 2 * 4 * 6 * 5 * 4 * 9),
    (nn.Conv2d(3, 8, 3, padding="same"), (2, 3, 6, 5), 2 * 8 * 6 * 5 * 3 * 9),
    (nn.Conv1d(3, 8, 5), (2, 3, 9), 2 * 8 * 5 * 3 * 5),
    (nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4), 3 * 27 * 2 * 8),
    (nn.ConvTranspose2d(3, 8, 2, stride=2), (2, 3, 4, 4), 2 * 3 * 16 * 8 * 4),
    (nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)), (5, 4), 5 * (4 * 8 + 8 * 2)),
    (nn.LSTM(6, 5, batch_first=True), (2, 3, 6), 2 * 3 * 4 * 5 * (6 + 5)),
    (nn.LSTM(6, 5, num_layers=2, bidirectional=True), (3, 2, 6), 2 * 3 * (2 * 4 * 5 * (6 + 5) + 2 * 4 * 5 * (10 + 5))),
    (nn.GRU(6, 5, bias=False), (3, 2, 6), 2 * 3 * 3 * 5 * (6 + 5)),
    (nn.RNN(6, 5), (3, 2, 6), 2 * 3 * 5 * (6 + 5)),
    (nn.ReLU(), (3, 4), 0),
], ids=lambda v: None if isinstance(v, tuple | int) else str(v)[:40].replace("\n", ""))
def test_layers(layer: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    assert count(layer, torch.randn(shape)).macs == macs


@pytest.mark.parametrize(("f", "shapes", "macs"), [
    (lambda a, b: a @ b, [(3, 4), (4, 5)], 60),
    (lambda a, b: a @ b, [(2, 3, 4), (2, 4, 5)], 120),
    (torch.bmm, [(2, 3, 4), (2, 4, 5)], 120),
    (lambda a, b: torch.einsum("bij,bjk->bik", a, b), [(2, 3, 4), (2, 4, 5)], 120),
    (torch.addmm, [(5,), (3, 4), (4, 5)], 60),
    (F.scaled_dot_product_attention, [(2, 3, 7, 4), (2, 3, 5, 4), (2, 3, 5, 6)], 2 * 3 * 7 * 5 * (4 + 6)),
    (lambda a, b: a + b, [(3, 4), (3, 4)], 0),
], ids=["matmul", "batched", "bmm", "einsum", "addmm", "attention", "add"])
def test_products(f: object, shapes: list[tuple[int, ...]], macs: int) -> None:
    assert count(Call(f), tuple(torch.randn(s) for s in shapes)).macs == macs


def test_attention_block_by_hand() -> None:
    n, t, c = 2, 5, 8
    projections = n * t * c * 3 * c + n * t * c * c
    products = n * 2 * t * t * (4 + 4)
    assert count(Qkv(c), torch.randn(n, t, c)).macs == projections + products


def test_torchs_own_transformer_layer() -> None:
    """In evaluation mode it takes a fused path of its own, which must not go uncounted."""
    n, t, c, hidden = 2, 5, 8, 12
    layer = nn.TransformerEncoderLayer(c, 2, hidden, batch_first=True)
    expected = n * t * (4 * c * c + 2 * c * hidden) + n * 2 * t * t * (4 + 4)
    assert count(layer, torch.randn(n, t, c)).macs == expected


def test_graph_form_counts_like_the_module() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    x = torch.randn(2, 3, 8, 8)
    graph = trace(net, x)
    assert count(graph.dense(), x).macs == count(net, x).macs == 2 * (36 * 8 * 3 * 9 + 16 * 8 * 9 + 8 * 4)
    half = count(graph.cut(Plan.uniform(graph, 0.5)), x)
    assert half.macs == 2 * (36 * 4 * 3 * 9 + 16 * 4 * 9 + 4 * 4)
    assert half.params == 4 * 27 + 4 + 4 + 4 + 4 * 9 + 4 + 4 * 4 + 4


def test_parameters_and_bytes() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)).half()
    counts = count(net.float(), torch.randn(2, 4))
    assert counts.params == 4 * 8 + 8 + 8 + 8
    assert counts.size_bytes == 4 * (56 + 16) + 8  # running statistics, and a counter of 8 bytes


def test_tied_parameters_count_once() -> None:
    a, b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    b.weight = a.weight
    counts = count(nn.Sequential(a, b), torch.randn(2, 4))
    assert (counts.params, counts.size_bytes, counts.macs) == (16, 64, 2 * 32)


def test_keyword_inputs_and_dict_outputs() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(5, 3)

        def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor | None]:
            return {"sum": self.a(left) + self.b(right), "none": None}

    assert count(Pair(), {"right": torch.randn(2, 5), "left": torch.randn(2, 4)}).macs == 2 * 3 * (4 + 5)


def test_counting_leaves_the_model_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)).train()
    net[1].eval()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    count(net, torch.randn(4, 4))
    assert [m.training for m in net] == [True, False, True]
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
