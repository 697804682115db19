"""The lottery ticket: sizes that can be compared, rewinding, and going on after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from autoprune.errors import ConfigError
from autoprune.graph.graph import trace
from autoprune.methods.schedules import Schedule
from autoprune.recover import ticket as module
from autoprune.recover.finetune import FineTune
from autoprune.recover.sparsify import Recipe
from autoprune.recover.ticket import Checkpoints, Ticket
from tests.recover.conftest import ToyTask, data, net


def make(scope: str = "global") -> Ticket:
    graph = trace(net(), data(1)[0].inputs)
    return Ticket(graph, ToyTask(), data(), Recipe(0.75, scope=scope, schedule=Schedule("iterative", 2)),
                  FineTune(steps=8, lr=1e-2, distill=0.0, precision="fp32"), early_steps=3)


def silent(_: str) -> None:
    pass


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_all_masks_have_the_same_size_in_every_weight(tmp_path: Path, scope: str) -> None:
    models = make(scope).models(Checkpoints(tmp_path, {}), silent)
    assert list(models) == ["dense", "ticket", "random mask", "random weights"]
    counts = {name: {n: int(p.count_nonzero()) for n, p in m.named_parameters() if p.dim() > 1}
              for name, m in models.items()}
    assert counts["ticket"] == counts["random mask"] == counts["random weights"]
    assert sum(counts["ticket"].values()) == sum(counts["dense"].values()) // 4
    ticket, chance = (models[n].get_parameter("0.weight") != 0 for n in ("ticket", "random mask"))
    assert torch.equal(ticket, models["random weights"].get_parameter("0.weight") != 0)
    assert not torch.equal(ticket, chance)


def test_every_cycle_goes_back_to_the_early_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without training after the early steps, what stays is exactly the early weights."""
    real = module.finetune
    monkeypatch.setattr(module, "finetune", lambda m, t, d, s, seed: real(m, t, d, s, seed) if s.steps == 3 else 0.0)
    make().models(Checkpoints(tmp_path, {}), silent)
    early, ticket = (load_file(tmp_path / f"{n}.safetensors") for n in ("early", "ticket-02"))
    for name in ("0.weight", "4.weight"):
        mask = ticket[name] != 0
        assert torch.equal(ticket[name], early[name] * mask)
    assert torch.equal(ticket["0.bias"], early["0.bias"])


def test_interrupted_it_goes_on_and_ends_at_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = make().models(Checkpoints(tmp_path / "a", {}), silent)
    real, calls = module.finetune, []

    def interrupted(*arguments: Any) -> float:
        calls.append(1)
        if len(calls) == 4:  # early, dense, cycle 1; then Ctrl-C in cycle 2
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "finetune", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make().models(Checkpoints(tmp_path / "b", {}), silent)
    assert {p.stem for p in (tmp_path / "b").glob("*.safetensors")} == {"early", "dense", "ticket-01"}
    again = make().models(Checkpoints(tmp_path / "b", {}), silent)
    assert len(calls) == 4 + 3
    for name, model in expected.items():
        for n, p in model.named_parameters():
            assert torch.equal(p, again[name].get_parameter(n)), (name, n)


def test_another_configuration_is_refused_unless_fresh(tmp_path: Path) -> None:
    first = Checkpoints(tmp_path, {"steps": 3})
    first.get("x", lambda: {"t": torch.ones(1)})
    assert Checkpoints(tmp_path, {"steps": 3}).get("x", lambda: pytest.fail("made again"))["t"].tolist() == [1.0]
    with pytest.raises(ConfigError, match="other settings") as info:
        Checkpoints(tmp_path, {"steps": 4})
    assert "steps: 3 → 4" in str(info.value)
    fresh = Checkpoints(tmp_path, {"steps": 4}, fresh=True)
    assert fresh.get("x", lambda: {"t": torch.zeros(1)})["t"].tolist() == [0.0]


@pytest.mark.parametrize("fresh", [True, False])
def test_tensors_that_are_not_a_tickets_are_neither_used_nor_removed(tmp_path: Path, fresh: bool) -> None:
    (tmp_path / "dense.safetensors").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="not a ticket's") as info:
        Checkpoints(tmp_path, {}, fresh=fresh)
    assert info.value.given == "dense.safetensors"
    assert (tmp_path / "dense.safetensors").read_bytes() == b"mine"


def test_damaged_files_and_folders_that_are_none(tmp_path: Path) -> None:
    stored = Checkpoints(tmp_path, {})
    stored.get("x", lambda: {"t": torch.ones(1)})
    (tmp_path / "x.safetensors").write_bytes(b"torn")
    with pytest.raises(ConfigError, match="damaged") as info:
        stored.get("x", lambda: pytest.fail("made again"))
    assert "remove x.safetensors" in str(info.value.fix)
    (tmp_path / "ticket.json").write_text("{")
    with pytest.raises(ConfigError, match="other settings"):
        Checkpoints(tmp_path, {})
    with pytest.raises(ConfigError, match="cannot be written"):
        Checkpoints(tmp_path / "x.safetensors", {})
