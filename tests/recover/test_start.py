"""Where training starts from: checkpoints and random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from autoprune.errors import ConfigError
from autoprune.graph.graph import trace
from autoprune.graph.plan import Plan
from autoprune.recover.start import early_graph, read_checkpoint, reinitialise
from tests.graph.nets import Spec, make
from tests.recover.conftest import data, net


def test_rewinding_gives_the_early_weights_of_the_units_that_stay(tmp_path: Path) -> None:
    early, trained = net(), net()
    with torch.no_grad():
        for p in trained.parameters():
            p.add_(torch.randn_like(p))
    graph = trace(trained, data(1)[0].inputs)
    save_file(early.state_dict(), tmp_path / "early.safetensors")
    plan = graph.resolve(Plan.uniform(graph, 0.5))
    model = early_graph(graph, read_checkpoint(tmp_path / "early.safetensors")).build(plan)
    torch.testing.assert_close(model.get_submodule("0").weight, early[0].weight[list(plan.cuts["0"].kept or ())])
    torch.testing.assert_close(model.get_submodule("1").running_mean, early[1].running_mean[:4])


def test_checkpoints_that_cannot_be_used_are_one_clear_error(tmp_path: Path) -> None:
    graph = trace(net(), data(1)[0].inputs)
    with pytest.raises(ConfigError, match="does not exist"):
        read_checkpoint(tmp_path / "none.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"rubbish")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_checkpoint(tmp_path / "a.safetensors")
    state = net().state_dict()
    del state["4.weight"]
    state["0.weight"] = torch.zeros(7, 4)
    with pytest.raises(ConfigError, match="2 tensors") as caught:
        early_graph(graph, state)
    assert "4.weight: missing" in str(caught.value.given)


@pytest.mark.parametrize("spec", [Spec("image", 8, ("conv_bn", "depthwise", "transposed"), "gap", 0),
                                  Spec("tokens", 8, ("pre_norm", "mlp", "position"), "mean", 1)])
def test_random_weights_are_drawn_by_their_pruned_shapes(spec: Spec) -> None:
    model, x = make(spec)
    graph = trace(model, x)
    plan = graph.resolve(Plan.uniform(graph, 0.5))
    one, two, other = (graph.build(plan) for _ in range(3))
    for m, seed in ((one, 0), (two, 0), (other, 1)):
        reinitialise(graph, m, seed)
    names = {r.weight for r in graph.reads} & {n for n, p in one.named_parameters() if p.dim() > 1}
    assert names
    for name in names:
        weight = one.tensors()[name]
        assert torch.equal(weight, two.tensors()[name])
        assert not torch.equal(weight, other.tensors()[name])
        assert not torch.equal(weight, graph.build(plan).tensors()[name])
    assert bool(torch.isfinite(one(x)).all())


def test_bounds_and_constants_by_hand() -> None:
    """A pruned 3×3 convolution of four channels: U(−1/6, 1/6). Norms as torch makes them, biases zero."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 64, 3), nn.Flatten(),
                          nn.Linear(64, 2)).eval()
    with torch.no_grad():
        for t in (*model[1].parameters(), model[1].running_mean, model[1].running_var):
            t.uniform_(2.0, 3.0)
    graph = trace(model, torch.randn(2, 3, 3, 3))
    pruned = graph.build(graph.resolve(Plan.of(graph, {"0": 4})))
    reinitialise(graph, pruned, 0)
    weight = pruned.get_submodule("3").weight
    assert weight.shape == (64, 4, 3, 3)
    assert float(weight.detach().abs().max()) == pytest.approx(1 / 6, rel=0.01)
    norm = pruned.get_submodule("1")
    for tensor, value in ((norm.weight, 1.0), (norm.bias, 0.0), (norm.running_mean, 0.0), (norm.running_var, 1.0),
                          (pruned.get_submodule("0").bias, 0.0), (pruned.get_submodule("5").bias, 0.0)):
        assert bool((tensor == value).all())


def test_recurrent_biases_and_weights() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.cell, self.head = nn.Embedding(9, 6), nn.LSTM(6, 4, batch_first=True), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(self.cell(self.words(x))[0])
            return out

    graph = trace(Net().eval(), torch.randint(0, 9, (2, 5)))
    model = graph.build(graph.resolve(Plan.uniform(graph, 0.5)))
    before = {n: t.clone() for n, t in model.tensors().items()}
    reinitialise(graph, model, 0)
    after = model.tensors()
    assert not bool(after["cell.bias_hh_l0"].any())
    assert not bool(after["cell.bias_ih_l0"].any())
    for name in ("words.weight", "cell.weight_ih_l0", "cell.weight_hh_l0", "head.weight"):
        assert not torch.equal(after[name], before[name])


def test_what_is_frozen_is_not_drawn() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    net[0].requires_grad_(False)
    graph = trace(net, torch.randn(2, 6))
    model = graph.dense()
    before = {n: t.clone() for n, t in model.tensors().items()}
    reinitialise(graph, model, 0)
    assert {n for n, t in model.tensors().items() if not torch.equal(t, before[n])} == {"2.weight", "2.bias"}
