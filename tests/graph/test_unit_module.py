"""The pruned module: modes, saving and loading, what a broken folder gives."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import AutopruneError, ConfigError
from autoprune.graph.graph import Graph, trace
from autoprune.graph.module import PrunedModule, load_module
from autoprune.graph.plan import Plan


class Noisy(nn.Module):
    """A norm with statistics and dropout: what training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.drop(torch.relu(self.norm(self.first(x)))))
        return out


@pytest.fixture
def graph() -> Graph:
    torch.manual_seed(0)
    return trace(Noisy(), torch.randn(16, 6))


@pytest.fixture
def pruned(graph: Graph) -> PrunedModule:
    return graph.cut(Plan.uniform(graph, 0.5))


X = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))


# -- modes --------------------------------------------------------------------------------------------------------


def test_modules_start_in_evaluation_mode(graph: Graph) -> None:
    assert not graph.dense().training
    assert not graph.cut(Plan.uniform(graph, 0.5)).training


def test_dropout_follows_the_mode(pruned: PrunedModule) -> None:
    assert torch.equal(pruned(X), pruned(X))
    pruned.train()
    assert not torch.equal(pruned(X), pruned(X))
    pruned.eval()
    assert torch.equal(pruned(X), pruned(X))


def test_batch_norm_follows_the_mode(pruned: PrunedModule) -> None:
    mean = pruned.norm.running_mean.clone()  # type: ignore[union-attr, operator]
    pruned(X)
    assert torch.equal(pruned.norm.running_mean, mean)  # type: ignore[union-attr]
    pruned.train()
    pruned(X)
    first: nn.Linear = pruned.first  # type: ignore[assignment]
    expected = 0.9 * mean + 0.1 * nn.functional.linear(X, first.weight, first.bias).mean(0)
    assert torch.allclose(pruned.norm.running_mean, expected, atol=1e-6)  # type: ignore[union-attr, arg-type]
    moved = pruned.norm.running_mean.clone()  # type: ignore[union-attr, operator]
    pruned.eval()
    pruned(X)
    assert torch.equal(pruned.norm.running_mean, moved)  # type: ignore[union-attr]


def test_training_agrees_with_the_users_own_module() -> None:
    """Same weights, same dropout mask: the same loss and the same gradients."""
    torch.manual_seed(0)
    net = Noisy()
    dense = trace(net, torch.randn(16, 6)).dense()
    results = []
    for m in (net, dense):
        m.train()
        torch.manual_seed(3)
        loss = m(X).square().mean()
        loss.backward()
        results.append((loss.detach(), {n: p.grad for n, p in m.named_parameters()}, m.norm.running_var.clone()))
    (loss, gradients, variance), (loss2, gradients2, variance2) = results
    assert torch.allclose(loss, loss2)
    assert torch.allclose(variance, variance2)
    assert gradients.keys() == gradients2.keys()
    for name, g in gradients.items():
        assert torch.allclose(g, gradients2[name], atol=1e-6), name


def test_a_pruned_module_can_be_traced_and_pruned_again(pruned: PrunedModule) -> None:
    again = trace(pruned, X)
    assert {g.size for g in again.groups.values()} == {4}
    assert again.cut(Plan.uniform(again, 0.5))(X).shape == (16, 3)


def test_half_precision_and_back(pruned: PrunedModule) -> None:
    before = pruned(X)
    pruned.double()
    assert pruned(X.double()).dtype is torch.float64
    assert torch.allclose(pruned(X.double()).float(), before, atol=1e-6)


# -- saving -------------------------------------------------------------------------------------------------------


def test_save_and_load(pruned: PrunedModule, tmp_path: Path) -> None:
    folder = pruned.save(tmp_path / "a" / "b")
    assert {p.name for p in folder.iterdir()} == {"graph.json", "plan.json", "weights.safetensors"}
    loaded = load_module(str(folder))
    assert torch.equal(loaded(X), pruned(X))
    assert loaded.plan == pruned.plan
    assert not loaded.training
    assert {n: p.shape for n, p in loaded.named_parameters()} == {n: p.shape for n, p in pruned.named_parameters()}
    assert {n for n, _ in loaded.named_buffers()} == {n for n, _ in pruned.named_buffers()}


def test_what_is_frozen_stays_so(pruned: PrunedModule, tmp_path: Path) -> None:
    frozen = next(name for name, _ in pruned.named_parameters())
    pruned.get_parameter(frozen).requires_grad_(False)
    loaded = load_module(pruned.save(tmp_path))
    assert [name for name, p in loaded.named_parameters() if not p.requires_grad] == [frozen]


def test_the_users_class_is_saved_in_the_same_form(graph: Graph, tmp_path: Path) -> None:
    own = graph.prune(Plan.uniform(graph, 0.5))
    assert isinstance(own, Noisy)
    loaded = load_module(own.save(tmp_path))
    assert torch.allclose(loaded(X), own(X), atol=1e-6)
    assert loaded.plan == own.plan  # type: ignore[attr-defined]


def test_a_loaded_model_trains_and_can_be_traced(pruned: PrunedModule, tmp_path: Path) -> None:
    loaded = load_module(pruned.save(tmp_path))
    loaded.train()
    loaded(X).sum().backward()
    assert all(p.grad is not None for p in loaded.parameters())
    assert not torch.equal(loaded(X), loaded(X))
    assert trace(loaded.eval(), X).groups


def test_a_model_saved_in_training_mode_loads_the_same(pruned: PrunedModule, tmp_path: Path) -> None:
    expected = pruned(X)
    pruned.train()
    assert torch.equal(load_module(pruned.save(tmp_path))(X), expected)


def test_saving_does_not_pickle(pruned: PrunedModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("pickle was used")

    for name in ("dump", "dumps", "load", "loads"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "save", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert torch.equal(load_module(pruned.save(tmp_path))(X), pruned(X))


def test_saving_over_an_older_model(graph: Graph, tmp_path: Path) -> None:
    graph.dense().save(tmp_path)
    small = graph.cut(Plan.uniform(graph, 0.25))
    small.save(tmp_path)
    assert torch.equal(load_module(tmp_path)(X), small(X))
    assert not list(tmp_path.glob("*.tmp"))


def test_structured_inputs_and_outputs(tmp_path: Path) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(4, 8), nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor | tuple[Tensor, ...]]:
            h = torch.relu(self.a(left) + self.b(right))
            return {"logits": self.out(h), "both": (left + 1, right)}

    torch.manual_seed(0)
    inputs = {"left": torch.randn(2, 4), "right": torch.randn(2, 5)}
    graph = trace(Pair(), inputs)
    pruned = graph.cut(Plan.uniform(graph, 0.5))
    loaded = load_module(pruned.save(tmp_path))
    out, expected = loaded(**inputs), pruned(**inputs)
    assert list(out) == ["logits", "both"]
    assert torch.equal(out["logits"], expected["logits"])
    assert isinstance(out["both"], tuple)


@pytest.mark.parametrize("missing", ["graph.json", "plan.json", "weights.safetensors"])
def test_a_missing_file_is_named(pruned: PrunedModule, tmp_path: Path, missing: str) -> None:
    folder = pruned.save(tmp_path)
    (folder / missing).unlink()
    with pytest.raises(ConfigError, match=missing.replace(".", r"\.")):
        load_module(folder)


def test_a_folder_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="no saved model"):
        load_module("/nonexistent/folder")


CONTENTS = {"empty": "", "half": "{", "list": "[]", "deep": "[" * 100_000, "zero": "\x00\x01"}
FILES = ["graph.json", "plan.json", "weights.safetensors"]


@pytest.mark.parametrize(("name", "content"), [(f, c) for f in FILES for c in CONTENTS])
def test_a_damaged_file_is_a_clear_error(pruned: PrunedModule, tmp_path: Path, name: str, content: str) -> None:
    folder = pruned.save(tmp_path)
    (folder / name).write_text(CONTENTS[content])
    with pytest.raises(AutopruneError):
        load_module(folder)


def test_weights_of_another_model_are_a_clear_error(pruned: PrunedModule, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = pruned.save(tmp_path)
    save_file({"other": torch.zeros(2)}, str(folder / "weights.safetensors"))
    with pytest.raises(AutopruneError):
        load_module(folder)


def test_the_files_hold_no_code(pruned: PrunedModule, tmp_path: Path) -> None:
    folder = pruned.save(tmp_path)
    nodes = json.loads((folder / "graph.json").read_text())["nodes"]
    targets = {n[2] for n in nodes if n[0] == "call_function"}
    assert targets
    assert all(t.startswith(("torch.ops.aten.", "operator.", "math.", "torch.sym_")) for t in targets)
