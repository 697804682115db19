"""Masks while training: shares, schedules, restarts, and what is refused before training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import ConfigError
from autoprune.graph.graph import Graph, trace
from autoprune.methods.masks.registry import element_methods
from autoprune.methods.schedules import Schedule
from autoprune.recover import sparsify as module
from autoprune.recover.finetune import FineTune
from autoprune.recover.sparsify import Recipe, Sparsifier, sparsify
from tests.recover.conftest import ToyTask, data, net

FAST = {"lr": 2e-2, "precision": "fp32", "distill": 0.0}


@pytest.fixture
def graph() -> Graph:
    return trace(net(), data(1)[0].inputs)


def kept(masks: dict[str, Tensor]) -> float:
    return sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())


@pytest.mark.parametrize("schedule", [Schedule(), Schedule("iterative", 3), Schedule("gradual", 3)],
                         ids=lambda s: s.kind)
@pytest.mark.parametrize("soft", [False, True])
def test_every_schedule_ends_at_the_sparsity(graph: Graph, task: ToyTask, schedule: Schedule, soft: bool) -> None:
    model, told = graph.dense(), list[tuple[int, float]]()
    recipe = Recipe(0.75, schedule=schedule, soft=soft, scope="global")
    masks = sparsify(model, graph, task, data(), recipe, FineTune(steps=12, **FAST),
                     on_cut=lambda n, share: told.append((n, share)))
    assert [n for n, _ in told] == list(range(1, schedule.cuts + 1))
    assert told[-1][1] == kept(masks.masks()) == 0.25
    shares = [share for _, share in told]
    assert shares == sorted(shares, reverse=True)
    masks.make_permanent()
    weights = [p for p in model.parameters() if p.dim() > 1]
    assert sum(int(p.count_nonzero()) for p in weights) == sum(p.numel() for p in weights) // 4
    assert not torch.equal(model.get_parameter("0.bias"), graph.captured.tensors["0.bias"])


def test_the_gradual_schedule_cuts_within_one_training(graph: Graph, task: ToyTask,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    calls, events = [], []
    real = module.finetune
    monkeypatch.setattr(module, "finetune", lambda *a, **k: (calls.append(a[3].steps), real(*a, **k))[1])
    sparsify(graph.dense(), graph, task, data(), Recipe(0.5, schedule=Schedule("gradual", 4)),
             FineTune(steps=16, **FAST), on_cut=lambda n, _: events.append(n))
    assert calls == [16]
    sparsify(graph.dense(), graph, task, data(), Recipe(0.5, schedule=Schedule("iterative", 4)),
             FineTune(steps=16, **FAST))
    assert calls == [16, 4, 4, 4, 4]
    assert events == [1, 2, 3, 4]


@pytest.mark.parametrize("method", [m.name for m in element_methods()])
@pytest.mark.parametrize("pattern", ["weight", "2:4"])
def test_every_method_on_data_of_the_task(graph: Graph, task: ToyTask, method: str, pattern: str) -> None:
    recipe = Recipe(None if pattern == "2:4" else 0.5, pattern, method)
    run = Sparsifier.of(recipe, graph.dense(), graph, task, data(2))
    assert run.cut(1) == 0.5
    assert all(bool(torch.isfinite(p).all()) for p in run.masks.raw().values())


def test_hard_masks_only_shrink_and_statistics_are_those_of_the_masked_model(graph: Graph, task: ToyTask) -> None:
    recipe = Recipe(0.8, method="snip", schedule=Schedule("iterative", 4), scope="global")
    run = Sparsifier.of(recipe, graph.dense(), graph, task, data(2))
    before = run.masks.masks()
    for cut in range(1, 5):
        with torch.no_grad():
            for p in run.masks.raw().values():
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(cut)))
        run.cut(cut)
        after = run.masks.masks()
        assert all(not bool((after[n] & ~before[n]).any()) for n in after)
        before = after


def test_soft_masks_let_weights_come_back(graph: Graph, task: ToyTask) -> None:
    recipe = Recipe(0.5, schedule=Schedule("iterative", 2), soft=True)
    run = Sparsifier.of(recipe, graph.dense(), graph, task, data(2))
    run.cut(1)
    gone = ~run.masks.masks()["0.weight"]
    with torch.no_grad():
        run.masks.raw()["0.weight"][gone] = 9.0
    run.cut(2)
    assert bool((run.masks.masks()["0.weight"] & gone).any())


def test_a_restart_is_trained_from_after_every_cut(graph: Graph, task: ToyTask,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    start = {n: torch.full_like(t, 0.25) for n, t in graph.captured.tensors.items() if t.is_floating_point()}
    seen: list[bool] = []

    def look(model: nn.Module, *_: Any, **__: Any) -> float:
        weights = [p for n, p in model.named_parameters() if n.endswith("original")]
        seen.append(all(bool((p == 0.25).all()) for p in weights))
        return 0.0

    monkeypatch.setattr(module, "finetune", look)
    sparsify(graph.dense(), graph, task, data(), Recipe(0.5, schedule=Schedule("iterative", 2)),
             FineTune(steps=4, **FAST), restart=start)
    assert seen == [True, True]


@pytest.mark.parametrize(("make", "words"), [
    (lambda: Recipe(), "share of the weights that goes"), (lambda: Recipe(1.0), "share of the weights that goes"),
    (lambda: Recipe(-0.1), "share of the weights that goes"), (lambda: Recipe(0.9, "2:4"), "says itself"),
    (lambda: Recipe(0.5, "3:2"), "unknown pattern"), (lambda: Recipe(0.5, method="l1"), "unknown method"),
    (lambda: Recipe(0.5, scope="net"), "unknown scope")])
def test_recipes_that_make_no_sense(make: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


@pytest.mark.parametrize(("recipe", "steps", "restart", "words"), [
    (Recipe(0.5, schedule=Schedule("gradual", 9)), 8, None, "never reaches its target"),
    (Recipe(0.5, schedule=Schedule("iterative", 9)), 8, None, "never reaches its target"),
    (Recipe(0.5, schedule=Schedule("gradual", 2)), 8, {}, "goes on from the weights that are there"),
    (Recipe(None, "2:3"), 8, None, "does not fit"),
    (Recipe(0.5, skip=("9.*",)), 8, None, "no weight has the name"),
])
def test_what_cannot_work_is_refused_before_training(graph: Graph, task: ToyTask, recipe: Recipe, steps: int,
                                                     restart: Any, words: str,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "finetune", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(ConfigError, match=words):
        sparsify(graph.dense(), graph, task, data(), recipe, FineTune(steps=steps, **FAST), restart=restart)


def test_inputs_that_no_tensor_shows_are_named() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.cell(x)[0][-1])
            return out

    graph = trace(Recurrent(), torch.randn(5, 2, 4))
    with pytest.raises(ConfigError, match=r"compare.s. the inputs") as info:
        Recipe(0.5, method="wanda").masks(graph)
    assert info.value.fix == (
        '--skip-unfit for all of them, or --skip cell.weight_hh_l0 …; in a space file [masks] skip_unfit = true, or '
        'skip = ["cell.weight_hh_l0", …]')
    assert set(Recipe(0.5, method="wanda", skip=("cell.weight_hh_l0",)).masks(graph)) == {
        "cell.weight_ih_l0", "head.weight"}
    unfit = Recipe(0.5, method="wanda", skip_unfit=True)
    assert set(unfit.masks(graph)) == {"cell.weight_ih_l0", "head.weight"}
    with pytest.raises(ConfigError, match="fit no weight"):
        replace(unfit, pattern="kernel").masks(graph)
