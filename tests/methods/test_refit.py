"""Refitting readers: by hand, exactly where units are copies or sums of others, and never for the worse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autoprune.errors import ConfigError
from autoprune.graph.graph import Graph, trace
from autoprune.graph.plan import Cut, Plan
from autoprune.methods.collect import collect
from autoprune.methods.refit import damped, refit
from autoprune.methods.statistics import GRAM, Gram, Statistics
from tests.graph.nets import Attention, Spec, make, specs


def gathered(graph: Graph, x: Tensor) -> Statistics:
    return collect(graph, [(x, None)], needs={GRAM})


def keeping(graph: Graph, group: str, *gone: int) -> Plan:
    kept = tuple(i for i in range(graph.groups[group].size) if i not in gone)
    return Plan({group: Cut(len(kept), "l1", kept)}, graph.fingerprint)


def test_grouped_convolutions_stay_as_they_are() -> None:
    """Each output sums over the units of one group only, transposed or not."""
    for grouped in (nn.Conv2d(16, 16, 3, padding=1, groups=4), nn.ConvTranspose2d(16, 16, 3, padding=1, groups=4)):
        graph = trace(nn.Sequential(nn.Conv2d(3, 16, 1), grouped, nn.Conv2d(16, 4, 1)).eval(), torch.randn(2, 3, 6, 6))
        assert set(graph.readers) == {"0.weight", "2.weight"}
        assert {r.weight for r in graph.reads} == {"0.weight", "1.weight", "2.weight"}


def test_by_hand() -> None:
    """x₂ = ½·x₀ on average over the data; 3·x₂ is taken over by x₀: 1 + 3/2."""
    graph = trace(nn.Sequential(nn.Linear(1, 3), nn.Linear(3, 1, bias=False)).eval(), torch.zeros(2, 1))
    with torch.no_grad():
        graph.captured.tensors["1.weight"].copy_(torch.tensor([[1.0, 2.0, 3.0]]))
    second = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 5.0]], dtype=torch.float64)
    statistics = Statistics(gram={"1.weight": Gram(second, torch.zeros(3, dtype=torch.float64), 8)})
    new = refit(graph, keeping(graph, "0", 2), statistics, damping=0.0)
    assert list(new) == ["1.weight"]
    torch.testing.assert_close(new["1.weight"][:, :2], torch.tensor([[2.5, 2.0]]))


def test_the_mean_goes_into_the_bias_by_hand() -> None:
    """The unit that goes is constantly 4 and read with weight 3: 12 goes into the bias, nothing into the weights."""
    graph = trace(nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1)).eval(), torch.zeros(2, 1))
    with torch.no_grad():
        graph.captured.tensors["1.weight"].copy_(torch.tensor([[1.0, 3.0]]))
        graph.captured.tensors["1.bias"].fill_(0.5)
    mean = torch.tensor([1.0, 4.0], dtype=torch.float64)
    statistics = Statistics(gram={"1.weight": Gram(torch.outer(mean, mean) + torch.diag(torch.tensor([1.0, 0.0])), mean,
                                                   8)})
    new = refit(graph, keeping(graph, "0", 1), statistics, damping=0.0)
    assert float(new["1.bias"]) == pytest.approx(12.5)
    assert float(new["1.weight"][0, 0]) == pytest.approx(1.0)


def linear() -> tuple[nn.Module, Tensor, str]:
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4))
    with torch.no_grad():  # unit 6 is three times unit 1, unit 7 is unit 2 once more
        for unit, source, factor in ((6, 1, 3.0), (7, 2, 1.0)):
            net[0].weight[unit], net[0].bias[unit] = factor * net[0].weight[source], factor * net[0].bias[source]
    return net, torch.randn(64, 5), "0"


def sums() -> tuple[nn.Module, Tensor, str]:
    """Without an activation function, units are sums of others and a constant."""
    net = nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 4))
    with torch.no_grad():
        net[0].weight[6] = net[0].weight[1] - 2 * net[0].weight[0]
        net[0].weight[7] = net[0].weight[3]
    return net, torch.randn(64, 5), "0"


def convolution() -> tuple[nn.Module, Tensor, str]:
    net = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    with torch.no_grad():
        net[1].running_mean.normal_()
        for unit, source in ((6, 1), (7, 2)):
            net[0].weight[unit] = net[0].weight[source]
            net[1].running_mean[unit] = net[1].running_mean[source]
    return net, torch.randn(16, 2, 6, 6), "0"


def residual() -> tuple[nn.Module, Tensor, str]:
    """The stream has several readers; its last two channels copy the first two, whatever is added."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(2, 6, 1), nn.Linear(6, 3)
            self.a, self.b = nn.Conv2d(6, 5, 3, padding=1, bias=False), nn.Conv2d(5, 6, 1)
            with torch.no_grad():
                for m in (self.stem, self.b):
                    m.weight[4:], m.bias[4:] = m.weight[:2].clone(), m.bias[:2].clone()

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            x = torch.relu(x + self.b(torch.relu(self.a(x))))
            out: Tensor = self.head(x.mean((2, 3)))
            return out
    return Net(), torch.randn(32, 2, 6, 6), "stem"


def heads() -> tuple[nn.Module, Tensor, str]:
    """The last head computes what the first does."""
    net = nn.Sequential(nn.Linear(5, 8), Attention(8, 4), nn.Linear(8, 3))
    with torch.no_grad():
        for m in (net[1].q, net[1].k, net[1].v):
            m.weight[6:], m.bias[6:] = m.weight[:2].clone(), m.bias[:2].clone()
    return net, torch.randn(16, 7, 5), "1.q:part"


def recurrent() -> tuple[nn.Module, Tensor, str]:
    """What goes in is a copy; the recurrent operator's own input weight is refitted."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.cell, self.head = nn.Linear(5, 6), nn.LSTM(6, 4, batch_first=True), nn.Linear(4, 3)
            with torch.no_grad():
                self.stem.weight[5], self.stem.bias[5] = 2 * self.stem.weight[0], 2 * self.stem.bias[0] + 1

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.cell(self.stem(x))[0])
            return out
    return Net(), torch.randn(16, 7, 5), "stem"


@pytest.mark.parametrize(("build", "gone"), [(linear, (6, 7)), (linear, (1, 2)), (sums, (6, 7)), (sums, (1, 7)),
                                             (convolution, (6, 7)), (convolution, (1, 7)), (residual, (4, 5)),
                                             (residual, (0, 5)), (heads, (3,)), (heads, (0,)), (recurrent, (5,)),
                                             (recurrent, (0,))])
def test_units_that_others_can_express_go_without_loss(build: Callable[[], tuple[nn.Module, Tensor, str]],
                                                       gone: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net, x, group = build()
    graph = trace(net.eval(), x[:2])
    plan, statistics = keeping(graph, group, *gone), gathered(graph, x)
    wanted = net(x)
    refitted = graph.with_tensors(refit(graph, plan, statistics, damping=1e-10)).build(plan)
    torch.testing.assert_close(refitted(x), wanted, atol=1e-4, rtol=1e-4)
    assert float((graph.cut(plan)(x) - wanted).detach().abs().max()) > 1e-2  # the plain cut does lose something


@settings(max_examples=25, deadline=None)
@given(spec=specs(other=True, max_blocks=2), seed=st.integers(0, 99))
def test_a_reader_of_one_position_is_never_worse_off(spec: Spec, seed: int) -> None:
    """Output of each reader with the dense input at what stays, against the dense output, on the calibration data."""
    net, x = make(spec)
    graph = trace(net, x)
    torch.manual_seed(seed)
    plan = graph.resolve(Plan.uniform(graph, 0.5, "random"))
    statistics = gathered(graph, x)
    new = refit(graph, plan, statistics)
    kept = graph.kept(plan)
    for name, reader in graph.readers.items():
        if name in new:
            gram = statistics.gram[name]
            stay = torch.from_numpy(kept.indices(graph.axes(name)[reader.axis]))
            before, after = (t.detach().double().movedim(reader.axis, 0).flatten(1)
                             for t in (graph.captured.tensors[name], new[name]))
            assert _error(gram, before, after, stay, reader.bias is not None) <= 1.001 * _error(
                gram, before, before, stay, False) + 1e-9


def _error(gram: Gram, dense: Tensor, new: Tensor, stay: Tensor, without_mean: bool) -> float:
    """E‖x·dense − x[stay]·new[stay]‖², for the best bias or none."""
    difference = dense.clone()
    difference[stay] -= new[stay]
    moments = gram.matrix - torch.outer(gram.mean, gram.mean) if without_mean else gram.matrix
    return float((difference * (moments @ difference)).sum())


def test_several_groups_on_one_weight() -> None:
    """In and out of the middle layer are cut; only what comes in is refitted, and the rows that stay are right."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    x = torch.randn(64, 5)
    graph = trace(net, x[:2])
    plan = graph.resolve(Plan.uniform(graph, 0.5))
    model = graph.cut(plan, gathered(graph, x), least_squares=True)
    assert [tuple(model.get_submodule(n).weight.shape) for n in "024"] == [(4, 5), (3, 4), (3, 3)]
    wanted = net(x)
    assert float((model(x) - wanted).detach().square().mean()) < 0.5 * float(
        (graph.cut(plan)(x) - wanted).detach().square().mean())


def test_only_the_named_groups_are_made_up_for() -> None:
    net, x, _ = linear()
    graph = trace(nn.Sequential(*net, nn.Linear(4, 2)).eval(), x[:2])
    plan = graph.resolve(Plan.uniform(graph, 0.5))
    assert set(refit(graph, plan, gathered(graph, x), ["2"])) == {"3.weight", "3.bias"}
    assert set(refit(graph, plan, gathered(graph, x), [])) == set()


def test_dead_units_and_a_dead_layer() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    x = torch.randn(64, 5)
    with torch.no_grad():
        net[0].bias[::2] = -100.0
    graph = trace(net, x[:2])
    for gone in ((1, 2), (0, 2, 4, 6)):
        plan = keeping(graph, "0", *gone)
        assert bool(torch.isfinite(graph.cut(plan, gathered(graph, x), least_squares=True)(x)).all())
    with torch.no_grad():
        net[0].bias.fill_(-100.0)
    plan = keeping(graph, "0", 1, 2)
    torch.testing.assert_close(graph.cut(plan, gathered(graph, x), least_squares=True)(x), net(x))


def test_a_matrix_that_is_not_quite_positive_gets_more() -> None:
    matrix = torch.diag(torch.tensor([1.0, 1.0, -1e-9], dtype=torch.float64))
    assert float(torch.linalg.eigvalsh(damped(matrix, 0.0)).min()) > 0
    assert torch.equal(damped(torch.zeros(2, 2), 0.1), torch.eye(2, dtype=torch.float64))


def test_weights_with_a_second_use_and_depthwise_ones_are_left_alone() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.inner = nn.Embedding(10, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.words(x)) @ self.words.weight.T
    assert set(trace(Tied().eval(), torch.arange(4)[None]).readers) == {"inner.weight"}
    net = nn.Sequential(nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 3, 1)).eval()
    assert set(trace(net, torch.zeros(2, 2, 5, 5)).readers) == {"0.weight", "2.weight"}


@contextmanager
def unchanged(graph: Graph) -> Iterator[None]:
    before = {n: t.clone() for n, t in graph.captured.tensors.items()}
    yield
    assert all(torch.equal(t, before[n]) for n, t in graph.captured.tensors.items())


def test_the_users_own_class_comes_back_refitted_and_the_graph_stays() -> None:
    torch.manual_seed(0)
    net, x, group = linear()
    graph = trace(net.eval(), x[:2])
    with unchanged(graph):
        pruned = graph.prune(Plan.of(graph, {group: 6}, "greedy"), gathered(graph, x))
    assert isinstance(pruned, nn.Sequential)
    torch.testing.assert_close(pruned(x), net(x), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("statistics", [None, Statistics()])
def test_without_data_there_is_one_clear_error(statistics: Statistics | None) -> None:
    net, x, group = linear()
    graph = trace(net.eval(), x[:2])
    resolved = keeping(graph, group, 1)
    with pytest.raises(ConfigError, match="needs data") as caught:
        graph.cut(resolved, statistics, least_squares=True)
    assert "gram" in str(caught.value.fix)
    with pytest.raises(ConfigError):
        graph.cut(Plan.of(graph, {group: 6}, "lasso"), statistics)
