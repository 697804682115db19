"""Gradients over a few batches, as the data-dependent criteria see them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.errors import ConfigError, TaskError
from autoprune.graph.graph import trace
from autoprune.methods.collect import collect
from autoprune.methods.statistics import NEEDS, Statistics, UnitStatistics
from tests.graph.nets import Spec, make
from tests.methods.conftest import BIAS, FIRST, LAST, X, small


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def batches(count: int, size: int = 6) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(1)
    return [(torch.randn(size, 4, generator=g), torch.randint(0, 3, (size,), generator=g)) for _ in range(count)]


def loss(model: nn.Module, inputs: Any, target: Any) -> Tensor:
    return F.cross_entropy(model(inputs), target)


def test_mean_gradient_is_autograds() -> None:
    model = net()
    data = batches(3)
    statistics = collect(trace(model, data[0][0]), data, loss)
    model.eval()
    sum(loss(model, x, y) for x, y in data).div(3).backward()  # type: ignore[union-attr]
    assert statistics.gradients.keys() == dict(model.named_parameters()).keys()
    for name, p in model.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(statistics.gradients[name], p.grad, msg=name)


def test_no_more_batches_than_asked_for() -> None:
    data = batches(5)
    pulled = []

    def stream() -> Any:
        for i, batch in enumerate(data):
            pulled.append(i)
            yield batch

    graph = trace(net(), data[0][0])
    few = collect(graph, stream(), loss, max_batches=2)
    assert pulled == [0, 1]
    same = collect(graph, data[:2], loss)
    for name, g in few.gradients.items():
        assert torch.equal(g, same.gradients[name])


def test_evaluation_mode_and_no_change() -> None:
    """Two calls agree although there is dropout, and the running statistics of the traced model stay."""
    model = net().train()
    data = batches(2)
    graph = trace(model, data[0][0])
    state = {k: v.clone() for k, v in model.state_dict().items()}
    one, two = collect(graph, data, loss), collect(graph, data, loss)
    for name, g in one.gradients.items():
        assert torch.equal(g, two.gradients[name])
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert model.training


def test_no_batches_is_an_error() -> None:
    with pytest.raises(TaskError, match="no batch"):
        collect(trace(net(), batches(1)[0][0]), [], loss)
    with pytest.raises(TaskError, match="no batch"):
        collect(trace(net(), batches(1)[0][0]), batches(1), loss, max_batches=0)


def test_nan_in_the_data_is_an_error() -> None:
    (x, y), *rest = batches(2)
    bad = x.clone()
    bad[0, 0] = float("nan")
    with pytest.raises(TaskError, match="not finite"):
        collect(trace(net(), x), [*rest, (bad, y)], loss)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_an_error_though_its_gradient_is(value: float) -> None:
    data = batches(1)
    with pytest.raises(TaskError, match="not finite"):
        collect(trace(net(), data[0][0]), data, lambda m, x, y: loss(m, x, y) + value)


def test_a_gradient_that_is_not_finite_names_the_parameter() -> None:
    data = batches(1)
    with pytest.raises(TaskError, match=r"gradients that are not finite\n.*0\.weight"):
        collect(trace(net(), data[0][0]), data, lambda m, x, y: m(x * 0).sub(m(x * 0).detach()).abs().sqrt().sum())


def test_parameters_that_the_user_froze_still_get_gradients() -> None:
    """Frozen for training is not unimportant: the units of a frozen backbone have to be ranked, too."""
    model = net()
    model.requires_grad_(False)
    model[4].requires_grad_(True)
    data = batches(2)
    statistics = collect(trace(model, data[0][0]), data, loss)
    assert statistics.gradients.keys() == dict(model.named_parameters()).keys()
    assert not model[0].weight.requires_grad


# -- more than gradients ------------------------------------------------------------------------------------------


def everything(model: nn.Module, data: list[tuple[Any, Any]], of: Any = loss, **options: Any) -> Statistics:
    return collect(trace(model, data[0][0]), data, of, needs=NEEDS, **options)


def test_fisher_is_the_mean_of_squared_batch_gradients() -> None:
    model, data = net(), batches(3)
    statistics = everything(model, data)
    one_by_one = [collect(trace(model, x), [(x, y)], loss).gradients for x, y in data]
    for name, fisher in statistics.fisher.items():
        torch.testing.assert_close(fisher, torch.stack([g[name].square() for g in one_by_one]).mean(0))


def test_hessian_of_a_quadratic_is_exact() -> None:
    """Of ½ Σ c w² every sign gives the same estimate: c, and 0 for what the loss is linear in."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)).eval()
    curvature = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])

    def quadratic(m: nn.Module, inputs: Any, _: Any) -> Tensor:
        w = dict(m.named_parameters())
        return (curvature * w["0.weight"].square()).sum() / 2 + w["1.bias"].sum() + 0 * m(inputs).sum()

    hessian = everything(model, [(torch.randn(4, 2), None)] * 2, quadratic).hessian
    torch.testing.assert_close(hessian["0.weight"], curvature)
    assert torch.equal(hessian["1.bias"], torch.zeros(2))


def test_hutchinson_comes_near_the_diagonal_and_repeats() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).eval()
    x = torch.randn(16, 2)

    def square(m: nn.Module, inputs: Any, _: Any) -> Tensor:
        return m(inputs).square().mean()

    data = [(x, None)] * 400  # every second is used
    hessian = everything(model, data, square, max_batches=400).hessian["0.weight"]
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(square(model, x, None), parameters, create_graph=True)
    rows = [torch.autograd.grad(g, parameters, retain_graph=True) for g in gradients[0].flatten()]
    full = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
    diagonal = full.diagonal()
    deviation = ((full.square().sum(1) - diagonal.square()) / (len(data) / 2)).sqrt()
    assert ((hessian.flatten() - diagonal).abs() < 4 * deviation).all()
    assert (deviation < diagonal.abs().max()).all()
    assert torch.equal(everything(model, data[:3], square, seed=1).hessian["0.weight"],
                       everything(model, data[:3], square, seed=1).hessian["0.weight"])
    assert not torch.equal(everything(model, data[:3], square, seed=1).hessian["0.weight"],
                           everything(model, data[:3], square, seed=2).hessian["0.weight"])


def test_activations_by_hand_are_those_after_the_activation_function() -> None:
    """h = relu(W x + b) of two samples: (0, 2.5, 1), (5.5, 8.5, 0); every output has the gradient 1/4."""
    units = everything(small(activation=nn.ReLU()), [(X, None)], lambda m, x, _: m(x).mean()).units["0"]
    hidden = torch.tensor([[0.0, 2.5, 1.0], [5.5, 8.5, 0.0]])
    assert torch.equal(hidden, (X @ torch.tensor(FIRST).T + torch.tensor(BIAS)).relu())
    outgoing = torch.tensor(LAST).sum(0) / 4
    _close(units.mean, hidden.mean(0))
    _close(units.variance, hidden.var(0, unbiased=False))
    _close(units.zeros, torch.tensor([0.5, 0.0, 0.5]))
    _close(units.entropy, torch.full((3,), 2.0).log())  # two samples in two bins
    assert units.taylor is not None
    _close(units.taylor, (hidden * outgoing).abs().sum(0))


def test_a_unit_that_never_changes_has_no_entropy() -> None:
    """A ReLU that is always off."""
    model = small(activation=nn.ReLU())
    with torch.no_grad():
        model[0].bias[1] = -100.0
    units = everything(model, [(X, None)], lambda m, x, _: m(x).mean()).units["0"]
    assert units.entropy[1] == 0 == units.variance[1]
    assert units.zeros[1] == 1


def test_gram_is_the_second_moment_of_what_a_weight_reads() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2), nn.Flatten(),
                          nn.Linear(36, 2)).eval()
    data = [(torch.randn(n, 2, 5, 5), None) for n in (3, 2)]
    statistics = everything(model, data, lambda m, x, _: m(x).square().mean())
    hidden = torch.cat([model[:2](x) for x, _ in data]).detach().double()
    seen = hidden.movedim(1, -1).reshape(-1, 4)
    gram = statistics.gram["2.weight"]
    _close(gram.matrix, seen.T @ seen / len(seen))
    _close(gram.mean, seen.mean(0))
    assert gram.count == 5 * 9
    assert statistics.gram["4.weight"].matrix.shape == (36, 36)
    assert set(statistics.gram) == {"0.weight", "2.weight", "4.weight"}
    for name, square in statistics.squares.items():
        _close(square, statistics.gram[name].matrix.diagonal())


def test_gram_only_of_the_weights_asked_for_and_without_a_loss() -> None:
    model, data = net(), batches(2)
    statistics = collect(trace(model, data[0][0]), data, needs={"gram"}, weights=["4.weight"])
    assert set(statistics.gram) == {"4.weight"}
    assert not statistics.gradients
    assert not statistics.units
    assert not statistics.squares


def test_a_layer_used_twice_adds_up() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again = nn.Linear(2, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.again(self.again(self.first(x)).relu())
            return out

    model = Twice().eval()
    h = model.first(X)
    seen = torch.cat([h, model.again(h).relu()]).detach().double()
    gram = collect(trace(model, X), [(X, None)], needs={"gram"}).gram["again.weight"]
    assert gram.count == 4
    _close(gram.matrix, seen.T @ seen / 4)


@pytest.mark.parametrize("blocks", [("residual", "depthwise", "grouped", "se"), ("transposed", "glu", "cat", "split"),
                                    ("pre_norm", "multi_query", "gated"), ("qkv", "rms_norm", "mlp")])
def test_every_group_is_seen_and_the_outputs_stay(blocks: tuple[str, ...]) -> None:
    image = blocks[0] in ("residual", "transposed")
    model, x = make(Spec("image" if image else "tokens", 8, blocks, "flatten" if image else "mean", 0))
    graph = trace(model, x)
    outputs: list[Tensor] = []

    def watched(m: nn.Module, inputs: Any, _: Any) -> Tensor:
        outputs.append(m(inputs))
        return outputs[-1].square().mean()

    statistics = collect(graph, [(x, None)], watched, needs=NEEDS)
    torch.testing.assert_close(outputs[0], model(x))
    assert statistics.units.keys() == graph.groups.keys()
    for name, group in graph.groups.items():
        for field in UnitStatistics.__dataclass_fields__:
            values = getattr(statistics.units[name], field)
            assert values.shape == (group.size,)
            assert torch.isfinite(values).all()
    assert statistics.hessian.keys() == statistics.gradients.keys() == statistics.fisher.keys()


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_hidden_units_of_recurrent_layers_are_seen_where_they_leave(cell: Any) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = cell(5, 6, 2, batch_first=True), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.cell(x)[0][:, -1])
            return out

    model, x = Recurrent().eval(), torch.randn(4, 7, 5)
    statistics = everything(model, [(x, None)], lambda m, x, _: m(x).square().mean())
    last = model.cell(x)[0][:, -1].detach()
    (units,) = statistics.units.values()
    _close(units.mean, last.mean(0))
    assert statistics.gram["cell.weight_ih_l0"].matrix.shape == (5, 5)
    assert any(bool(h.any()) for n, h in statistics.hessian.items() if "weight_hh" in n)


def test_a_head_has_the_mean_over_its_positions() -> None:
    model, x = make(Spec("tokens", 8, ("qkv",), "mean", 0))
    graph = trace(model, x)
    statistics = collect(graph, [(x, None)], needs={"activations", "gram"})
    name = next(n for n, g in graph.groups.items() if g.kind == "heads")
    read = statistics.gram["blocks.0.parts.0.proj.weight"]
    _close(statistics.units[name].mean, read.mean.reshape(2, 4).mean(1))
    assert statistics.units[name].taylor is None


def test_what_needs_a_loss_says_so() -> None:
    graph = trace(net(), batches(1)[0][0])
    with pytest.raises(ConfigError, match="need a loss"):
        collect(graph, batches(1), needs={"fisher"})
    with pytest.raises(TaskError, match="without labels"):
        collect(graph, [(batches(1)[0][0], None)], loss)
    with pytest.raises(ConfigError, match="did you mean 'hessian'"):
        collect(graph, batches(1), loss, needs={"hesian"})


def test_a_later_pass_adds_to_what_there_is() -> None:
    graph, data = trace(net(), batches(1)[0][0]), batches(2)
    both = collect(graph, data, loss).joined(collect(graph, data, loss, needs={"fisher"}))
    assert both.gathered == {"gradients", "fisher"}
    assert both.gradients.keys() == both.fisher.keys()


def _close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a.double(), b.double(), rtol=1e-5, atol=1e-6)


class Tied(nn.Module):
    """An autoencoder whose weight is read along both axes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 10))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(F.linear(x, self.weight)) @ self.weight


def test_a_weight_that_is_read_along_both_axes_has_no_features() -> None:
    graph = trace(Tied(), torch.randn(4, 10))
    statistics = collect(graph, [(torch.randn(8, 10), None)], None, needs={"activations", "gram"})
    assert statistics.units
    assert not statistics.gram
    assert not statistics.squares


def test_an_operator_without_a_second_derivative_names_the_methods() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Hardsigmoid(), nn.Linear(8, 3))
    with pytest.raises(ConfigError, match="without a second derivative") as caught:
        collect(trace(model, torch.randn(2, 4)), batches(1), loss, needs={"hessian"})
    assert "obd" in str(caught.value.fix)
