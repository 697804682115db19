"""Candidates share compiled code; whatever is done to one of them stays with it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import autoprune
from autoprune import Plan


class Net(torch.nn.Module):
    """A grouped convolution, a split, a flatten and dropout: every kind of literal."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 16, 3, padding=1)
        self.grouped = torch.nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.norm = torch.nn.BatchNorm2d(16)
        self.wide = torch.nn.Conv2d(16, 24, 1)
        self.drop = torch.nn.Dropout(0.5)
        self.head = torch.nn.Linear(12 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.grouped(self.first(x))))
        a, b = self.wide(x).chunk(2, dim=1)
        return self.head(self.drop((a * b.sigmoid()).flatten(1)))


@pytest.fixture
def graph() -> autoprune.Graph:
    torch.manual_seed(0)
    return autoprune.trace(Net().eval(), torch.randn(2, 3, 4, 4))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 3, 4, 4)


@pytest.mark.parametrize("keep", [1.0, 0.7, 0.4])
def test_shared_code_computes_what_the_written_out_graph_computes(graph: autoprune.Graph, x: torch.Tensor,
                                                                  keep: float) -> None:
    small = graph.cut(Plan.uniform(graph, keep))
    shared = small(x)
    assert "_graph" not in vars(small)
    small.recompile()
    assert "self._sizes" not in small.code
    torch.testing.assert_close(small(x), shared, rtol=0, atol=0)


def test_candidates_of_one_graph_do_not_disturb_each_other(graph: autoprune.Graph, x: torch.Tensor) -> None:
    one, two = graph.cut(Plan.uniform(graph, 0.7)), graph.cut(Plan.uniform(graph, 0.3))
    before = two(x)
    for node in one.graph.nodes:
        if node.target is torch.ops.aten.relu.default:
            node.target = torch.ops.aten.neg.default
    one.recompile()
    assert not torch.equal(one(x), graph.cut(Plan.uniform(graph, 0.7))(x))
    assert torch.equal(two(x), before)
    assert "neg" not in two.code


def test_modes_switch_norms_and_dropout_of_one_candidate_only(graph: autoprune.Graph, x: torch.Tensor) -> None:
    one, two = graph.cut(Plan.uniform(graph, 0.7)), graph.cut(Plan.uniform(graph, 0.7))
    expected = two(x)
    one.train()
    torch.manual_seed(1)
    assert not torch.equal(one(x), one(x))
    assert torch.equal(two(x), expected)
    assert not torch.equal(one.tensors()["norm.running_mean"], two.tensors()["norm.running_mean"])


def test_copies_have_their_own_tensors_and_share_the_code(graph: autoprune.Graph, x: torch.Tensor) -> None:
    small = graph.cut(Plan.uniform(graph, 0.5))
    other = copy.deepcopy(small)
    assert torch.equal(other(x), small(x))
    assert "_graph" not in vars(other)
    with torch.no_grad():
        other.tensors()["head.weight"].zero_()
    assert not torch.equal(other(x), small(x))


def test_a_candidate_can_be_pickled(graph: autoprune.Graph, x: torch.Tensor) -> None:
    small = graph.cut(Plan.uniform(graph, 0.5))
    again = pickle.loads(pickle.dumps(small))  # noqa: S301  (our own bytes)
    torch.testing.assert_close(again(x), small(x))
    assert isinstance(again, autoprune.PrunedModule)
    assert again.plan == small.plan
    assert dict(again.named_parameters()).keys() == dict(small.named_parameters()).keys()


def test_a_candidate_moves_to_another_type_and_keeps_its_sizes(graph: autoprune.Graph, x: torch.Tensor) -> None:
    small = graph.cut(Plan.uniform(graph, 0.5))
    expected = small(x)
    torch.testing.assert_close(small.double()(x.double()).float(), expected)


def test_changing_the_model_afterwards_changes_what_is_chosen() -> None:
    """Nothing about weights is remembered between two calls of `resolve`."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2)).eval()
    graph = autoprune.trace(model, torch.randn(2, 4))
    first = graph.resolve(Plan.of(graph, {"0": 3})).cuts["0"].kept
    with torch.no_grad():
        model[0].weight.copy_(model[0].weight.flip(0))
    assert first is not None
    assert graph.resolve(Plan.of(graph, {"0": 3})).cuts["0"].kept == tuple(sorted(5 - i for i in first))
