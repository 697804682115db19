"""Norm recalibration against statistics computed directly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import AutopruneError
from autoprune.graph.graph import trace
from autoprune.graph.plan import Plan
from autoprune.recover.norms import recalibrate
from tests.recover.conftest import net, points

FORMS = ["module", "graph"]


def call(model: nn.Module, inputs: Any) -> Any:
    return model(inputs)


def form(model: nn.Module, x: Tensor, kind: str) -> Any:
    return trace(model, x).dense() if kind == "graph" else model


def norm_of(model: Any) -> Any:
    return model.get_submodule("1")


@pytest.mark.parametrize("kind", FORMS)
def test_one_batch_gives_its_mean_and_variance(kind: str) -> None:
    (x, _), = points(1, 64)
    model = form(net(), x, kind)
    hidden = nn.functional.linear(x, model.get_submodule("0").weight, model.get_submodule("0").bias)
    assert recalibrate(model, [x], call) == 1
    torch.testing.assert_close(norm_of(model).running_mean, hidden.mean(0))
    torch.testing.assert_close(norm_of(model).running_var, hidden.var(0))


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("count", [2, 5, 40])
def test_several_batches_are_a_weighted_mean_without_bias(kind: str, count: int) -> None:
    batches = [x for x, _ in points(count, 16)]
    model = form(net(), batches[0], kind)
    layer = model.get_submodule("0")
    recalibrate(model, batches, call)
    means, variances = [], []
    for x in batches:
        hidden = nn.functional.linear(x, layer.weight, layer.bias)
        means.append(hidden.mean(0))
        variances.append(hidden.var(0))
    weights = torch.tensor([0.1 * 0.9 ** (count - 1 - i) for i in range(count)])
    weights = weights / weights.sum()
    expected = (weights[:, None] * torch.stack(means)).sum(0)
    torch.testing.assert_close(norm_of(model).running_mean, expected.detach(), rtol=1e-4, atol=1e-5)
    expected = (weights[:, None] * torch.stack(variances)).sum(0)
    torch.testing.assert_close(norm_of(model).running_var, expected.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", FORMS)
def test_equal_batches_are_without_bias(kind: str) -> None:
    """The old statistics leave no trace, however few batches there are."""
    (x, _), = points(1)
    for count in (1, 3):
        model = form(net(), x, kind)
        norm_of(model).running_mean.fill_(1000.0)
        norm_of(model).running_var.fill_(1000.0)
        recalibrate(model, [x] * count, call)
        hidden = nn.functional.linear(x, model.get_submodule("0").weight, model.get_submodule("0").bias)
        torch.testing.assert_close(norm_of(model).running_mean, hidden.mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm_of(model).running_var, hidden.var(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", FORMS)
def test_no_batch_restores_exactly(kind: str) -> None:
    (x, _), = points(1)
    model = form(net(), x, kind)
    norm_of(model).running_mean.normal_()
    norm_of(model).running_var.uniform_(0.5, 2)
    before = {n: b.clone() for n, b in model.named_buffers()}
    assert recalibrate(model, [], call) == 1
    for name, b in model.named_buffers():
        assert torch.equal(b, before[name]), name


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("training", [True, False])
def test_the_mode_and_the_weights_stay(kind: str, training: bool) -> None:
    (x, _), = points(1)
    model = form(net(), x, kind)
    model.train(training)
    weights = {n: p.clone() for n, p in model.named_parameters()}
    recalibrate(model, [x], call)
    assert model.training is training
    for name, p in model.named_parameters():
        assert torch.equal(p, weights[name])
        assert p.grad is None


@pytest.mark.parametrize("kind", FORMS)
def test_the_mode_and_statistics_stay_when_the_pass_fails(kind: str) -> None:
    (x, _), = points(1)
    model = form(net(), x, kind)
    before = {n: b.clone() for n, b in model.named_buffers() if "running" in n}

    def broken(m: nn.Module, inputs: Any) -> Any:
        m(inputs)
        raise RuntimeError("the data loader broke")

    with pytest.raises(RuntimeError, match="the data loader broke"):
        recalibrate(model, [x], broken)
    assert not model.training
    for name, b in model.named_buffers():
        if "running" in name:
            assert torch.equal(b, before[name]), name


@pytest.mark.parametrize("kind", FORMS)
def test_submodules_keep_their_own_modes(kind: str) -> None:
    (x, _), = points(1)
    model = form(net(), x, kind)
    model.train()
    model.get_submodule("0").eval()
    recalibrate(model, [x], call)
    assert model.training
    assert not model.get_submodule("0").training


@pytest.mark.parametrize("kind", FORMS)
def test_a_batch_of_one_sample_is_an_error_not_nan(kind: str) -> None:
    """Its variance is undefined; a NaN would sit in the model from then on."""
    (x, _), = points(1)
    model = form(net(), x, kind)
    with pytest.raises((AutopruneError, ValueError)):
        recalibrate(model, [x[:1]], call)
    assert all(torch.isfinite(b).all() for b in model.buffers())


def test_a_model_without_norms_is_not_run() -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("ran")

    assert recalibrate(nn.Linear(4, 3), [torch.ones(2, 4)], refuse) == 0
    x = torch.randn(2, 4)
    assert recalibrate(trace(nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8)), x).dense(), [x], refuse) == 0


def test_norms_without_statistics_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, track_running_stats=False))
    assert recalibrate(model, [torch.randn(8, 4)], call) == 0


@pytest.mark.parametrize("momentum", [0.3, 1.0])
@pytest.mark.parametrize("kind", FORMS)
def test_other_momenta(kind: str, momentum: float) -> None:
    model = net()
    model[1].momentum = momentum
    batches = [x for x, _ in points(3)]
    model = form(model, batches[0], kind)
    recalibrate(model, batches, call)
    layer = model.get_submodule("0")
    means = torch.stack([nn.functional.linear(x, layer.weight, layer.bias).mean(0) for x in batches])
    weights = torch.tensor([momentum * (1 - momentum) ** (2 - i) for i in range(3)])
    expected = ((weights / weights.sum())[:, None] * means).sum(0)
    torch.testing.assert_close(norm_of(model).running_mean, expected.detach(), rtol=1e-4, atol=1e-5)


def test_a_cumulative_norm_forgets_what_it_had() -> None:
    """`momentum=None` averages over all batches ever seen."""
    model = net()
    model[1].momentum = None
    batches = [x for x, _ in points(3)]
    with torch.no_grad():
        model[1].running_mean.fill_(100.0)
        model[1].num_batches_tracked.fill_(7)
    assert recalibrate(model, batches, call) == 1
    means = torch.stack([model[0](x).mean(0) for x in batches])
    torch.testing.assert_close(model[1].running_mean, means.mean(0).detach(), rtol=1e-4, atol=1e-5)
    assert model[1].momentum is None


def test_a_pruned_model_gets_its_own_statistics() -> None:
    """Pruning the first layer changes what the second norm sees; recalibration finds the new mean."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8), nn.BatchNorm1d(8),
                          nn.ReLU(), nn.Linear(8, 3)).eval()
    (x, _), = points(1, 64)
    graph = trace(model, x)
    pruned = graph.cut(Plan.uniform(graph, 0.5))
    assert recalibrate(pruned, [x], call) == 2
    m = pruned.get_submodule
    hidden = torch.relu(nn.functional.batch_norm(nn.functional.linear(x, m("0").weight, m("0").bias), None, None,
                                                 m("1").weight, m("1").bias, True))
    second = nn.functional.linear(hidden, m("3").weight, m("3").bias)
    torch.testing.assert_close(m("4").running_mean, second.mean(0).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", FORMS)
def test_dropout_does_not_widen_the_statistics(kind: str) -> None:
    """At inference there is no dropout; a norm behind one has to be calibrated for that."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Identity(), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 3)).eval()
    (x, _), = points(1, 256)
    expected = model[0](x).var(0).detach()
    model = form(model, x, kind)
    state = torch.get_rng_state()
    recalibrate(model, [x], call)
    torch.testing.assert_close(model.get_submodule("3").running_var, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(torch.get_rng_state(), state)
