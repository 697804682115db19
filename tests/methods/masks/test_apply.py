"""Masks as parametrisations: on the user's module and in graph form, hard and soft, and made permanent."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import ConfigError
from autoprune.graph.graph import trace
from autoprune.graph.plan import Plan
from autoprune.methods.masks.apply import Masks
from autoprune.methods.masks.weights import find_maskable
from tests.graph import zoo_recurrent, zoo_transformers

BUILT = {name: getattr(zoo_recurrent, name) for name in ("lstm_deep_bidirectional", "gru", "cells", "conv_lstm")}


class Tied(nn.Module):
    """An embedding that is also the last layer, a grouped and a transposed convolution, a plain product."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(12, 8), nn.Linear(8, 12, bias=False)
        self.out.weight = self.table.weight
        self.grouped, self.up = nn.Conv1d(8, 8, 3, padding=1, groups=2), nn.ConvTranspose1d(8, 4, 2, stride=2)
        self.product = nn.Parameter(torch.randn(4, 8))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.up(self.grouped(self.table(ids).mT)).mT
        out: Tensor = self.out(x @ self.product)
        return out


def built(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    if name == "tied":
        return Tied().eval(), torch.arange(6).reshape(1, 6)
    model, inputs = BUILT[name]() if name in BUILT else zoo_transformers.build(name)
    return model.eval(), inputs


def outputs(model: nn.Module, inputs: Any) -> Tensor:
    with torch.no_grad():
        out = model(**inputs) if isinstance(inputs, dict) else model(*inputs) if isinstance(inputs, tuple) else model(
            inputs)
    out = out if isinstance(out, Tensor) else out[0]
    assert isinstance(out, Tensor)
    return out


def masks_for(model: nn.Module, names: list[str]) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    parameters = dict(model.named_parameters())
    return {n: torch.rand(parameters[n].shape, generator=g) > 0.5 for n in names}


@pytest.mark.parametrize("form", ["module", "graph"])
@pytest.mark.parametrize("name", ["tied", *BUILT, "gpt2", "vit"])
def test_masked_is_the_same_as_zeroed_and_stays_so(name: str, form: str) -> None:
    model, inputs = built(name)
    graph = trace(model, inputs)
    names = list(find_maskable(graph))
    masked: nn.Module = graph.dense() if form == "graph" else model
    own = set(dict(masked.named_parameters()))
    masks = masks_for(masked, names)
    zeroed = copy.deepcopy(masked)
    with torch.no_grad():
        for n, p in zeroed.named_parameters():
            if n in masks:
                p.mul_(masks[n])
    expected, dense = outputs(zeroed, inputs), outputs(masked, inputs)
    handle = Masks(masked, names)
    assert torch.allclose(outputs(masked, inputs), dense, atol=1e-5)
    handle.set(masks)
    assert torch.allclose(outputs(masked, inputs), expected, atol=1e-5)
    seen = handle.tensors()
    assert all(torch.equal(seen[n], p) for n, p in zeroed.named_parameters())
    handle.make_permanent()
    assert torch.allclose(outputs(masked, inputs), expected, atol=1e-5)
    assert set(dict(masked.named_parameters())) == own
    assert all(torch.equal(p, dict(masked.named_parameters())[n]) for n, p in zeroed.named_parameters())
    if name == "tied" and form == "module":
        assert model.out.weight is model.table.weight


def step(model: nn.Module) -> None:
    model(torch.ones(1, 3)).sum().backward()
    with torch.no_grad():
        for p in model.parameters():
            p.sub_(p.grad)


@pytest.mark.parametrize("soft", [False, True])
def test_only_soft_masks_let_masked_weights_train_and_come_back(soft: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 2, bias=False))
    masks = Masks(model, ["0.weight"], soft=soft)
    before = masks.raw()["0.weight"].detach().clone()
    mask = torch.tensor([[True, False, True], [False, True, True]])
    masks.set({"0.weight": mask})
    step(model)
    after = masks.raw()["0.weight"].detach()
    assert torch.equal(after != before, mask | soft)
    assert torch.equal(model[0].weight != 0, mask)
    masks.set({"0.weight": torch.ones_like(mask)})
    assert torch.equal(model[0].weight, after)


def test_prune_first_then_mask() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)), torch.randn(3, 6)
    graph = trace(model, x)
    pruned = graph.cut(Plan.uniform(graph, 0.5))
    names = list(find_maskable(trace(pruned, x)))
    masks = Masks(pruned, names)
    masks.set(masks_for(pruned, []) | {n: torch.zeros_like(p) for n, p in masks.raw().items()})
    assert torch.equal(pruned(x), pruned.get_parameter("2.bias").expand(3, 4))
    masks.make_permanent()
    assert pruned.get_parameter("0.weight").shape == (4, 6)
    assert not bool(pruned.get_parameter("0.weight").any())


def test_load_sets_values_behind_the_masks() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    state = {n: torch.full_like(t, 3) for n, t in model.state_dict().items()}
    masks = Masks(model, ["0.weight"])
    masks.set({"0.weight": torch.eye(2)})
    masks.load(state)
    assert model[0].weight.tolist() == [[3, 0], [0, 3]]
    assert model[1].running_mean.tolist() == [3, 3]


def test_which_weights_can_be_masked_and_along_which_axis() -> None:
    model, inputs = built("tied")
    found = find_maskable(trace(model, inputs))
    assert {n: (w.input_axis, w.spatial) for n, w in found.items()} == {
        "table.weight": (1, 0), "grouped.weight": (1, 1), "up.weight": (0, 1), "product": (0, 0)}
    assert set(find_maskable(trace(model, inputs), ("*.weight",))) == {"product"}


def test_bad_names() -> None:
    model, inputs = built("tied")
    with pytest.raises(ConfigError, match="no such weight"):
        Masks(model, ["tabel.weight"])
    with pytest.raises(ConfigError, match="no weight has the name to skip"):
        find_maskable(trace(model, inputs), ("nothing.*",))
    with pytest.raises(ConfigError, match="every weight that could wear a mask is skipped"):
        find_maskable(trace(model, inputs), ("*",))
