"""Hidden states as targets: which, what they cost the student, and that training on them brings it nearer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.graph.graph import Graph, trace
from autoprune.graph.plan import Plan
from autoprune.recover.features import Features, unchanged
from autoprune.recover.finetune import Extras, FineTune, finetune
from tests.graph.nets import Spec, make
from tests.recover.conftest import ToyTask, data, net


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.up = nn.ModuleList([nn.Linear(6, 8) for _ in range(6)])
        self.down = nn.ModuleList([nn.Linear(8, 6) for _ in range(6)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(F.relu(up(x)))
        out: Tensor = self.head(x)
        return out


@pytest.fixture(scope="module")
def residual() -> Graph:
    return trace(Residual().eval(), data(1)[0].inputs)


def test_sums_behind_a_cut_whose_width_stays(residual: Graph) -> None:
    inner = {n: 0.5 for n in residual.groups if n.startswith("up")}
    nodes = unchanged(residual, residual.resolve(Plan.of(residual, inner)))
    assert len(nodes) == 4
    assert all(n.startswith("add") for n in nodes)
    assert nodes[-1] == "add_5"
    only_last = residual.resolve(Plan.of(residual, {"up.5": 0.5}))
    assert unchanged(residual, only_last) == ("add_5",)


def test_nothing_is_compared_where_every_width_changes(residual: Graph) -> None:
    assert unchanged(residual, residual.resolve(Plan.uniform(residual, 0.5))) == ()
    assert unchanged(residual, residual.resolve(Plan({}, residual.fingerprint))) == ()


def test_outputs_of_layers_where_there_are_no_sums() -> None:
    plain = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    graph = trace(plain, data(1)[0].inputs)
    assert unchanged(graph, graph.resolve(Plan.of(graph, {"0": 0.5}))) == ("linear_1",)


def test_the_loss_by_hand() -> None:
    """The hidden state of the dense net is h; without its second unit the layer behind gives ½h: the error is ¼."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[1].weight.fill_(1.0)
    x = torch.tensor([[1.0], [3.0]])
    graph = trace(model.eval(), x)
    student = graph.cut(Plan.of(graph, {"0": 1}))
    features = Features(student, graph.dense(), unchanged(graph, student.plan))
    features.teacher(x), features.student(x)
    assert float(features.loss().detach()) == pytest.approx(0.25)
    features.teacher(x), features.student(x)  # a second pass forgets the first
    assert float(features.loss().detach()) == pytest.approx(0.25)


def test_training_on_them_brings_them_nearer(task: ToyTask, residual: Graph) -> None:
    plan = Plan.of(residual, {n: 0.5 for n in residual.groups if n.startswith("up")})
    student, examples = residual.cut(plan), data(4)
    features = Features(student, residual.dense(), unchanged(residual, student.plan))

    def loss() -> float:
        with torch.no_grad():
            features.teacher(examples[0].inputs), features.student(examples[0].inputs)
            return float(features.loss())

    before = loss()
    settings = FineTune(steps=40, lr=1e-2, distill=0.0, distill_features=100.0, precision="fp32")
    finetune(student, task, examples, settings, extras=Extras(features=features))
    assert loss() < 0.3 * before
    assert not student.training


def test_a_weight_of_zero_changes_nothing(task: ToyTask) -> None:
    graph = trace(net(), data(1)[0].inputs)
    one, two = (graph.cut(Plan.uniform(graph, 0.5)) for _ in range(2))
    settings = FineTune(steps=3, precision="fp32")
    finetune(one, task, data(), settings)
    finetune(two, task, data(), settings, extras=Extras(features=Features(two, graph.dense(), ())))
    assert all(torch.equal(t, two.tensors()[n]) for n, t in one.tensors().items())


@pytest.mark.parametrize("blocks", [("mlp", "attention", "pre_norm"), ("qkv", "gated")])
def test_transformers_keep_their_stream(blocks: tuple[str, ...]) -> None:
    model, x = make(Spec("tokens", 8, blocks, "mean", 0))
    graph = trace(model, x)
    inner = {n: 0.5 for n, g in graph.groups.items() if g.kind in ("heads", "features") and n != "stem"}
    student = graph.cut(Plan.of(graph, inner))
    nodes = unchanged(graph, student.plan)
    assert len(nodes) == len(blocks)
    features = Features(student, graph.dense(), nodes)
    features.teacher(x), features.student(x)
    assert float(features.loss().detach()) > 0
