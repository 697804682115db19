"""Short fine-tuning: it learns, it is reproducible, and it says when it diverges."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.errors import ConfigError
from autoprune.graph.graph import trace
from autoprune.graph.plan import Plan
from autoprune.recover.finetune import Diverged, Example, FineTune, distillation, examples, finetune
from autoprune.tasks.losses import class_axis
from tests.recover.conftest import ToyTask, data, net, points

FAST = {"lr": 2e-2, "precision": "fp32"}


def loss_of(model: nn.Module) -> float:
    model.eval()
    with torch.no_grad():
        return sum(float(F.cross_entropy(model(x), y)) for x, y in points(4, seed=9)) / 4


@pytest.mark.parametrize("distill", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("form", ["module", "graph"])
def test_it_learns(task: ToyTask, distill: float, form: str) -> None:
    model: Any = net()
    examples_ = data(teacher=6.0)
    if form == "graph":
        graph = trace(model, examples_[0].inputs)
        model = graph.cut(Plan.uniform(graph, 0.75))
    before = loss_of(model)
    last = finetune(model, task, examples_, FineTune(steps=60, distill=distill, **FAST))
    assert loss_of(model) < 0.5 * before
    assert math.isfinite(last)
    assert not model.training


def test_the_returned_loss_is_that_of_the_last_tenth(task: ToyTask) -> None:
    """With a learning rate of nearly nothing every step has the loss of its batch."""
    model, examples_ = net(), data(1)
    x, y = examples_[0].inputs, examples_[0].target
    model.train()
    with torch.no_grad():
        expected = float(F.cross_entropy(model(x), y))
    model.eval()
    settings = FineTune(steps=20, lr=1e-12, distill=0.0, weight_decay=0.0, precision="fp32")
    got = finetune(model, task, examples_, settings)
    assert got == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_same_seed_gives_the_same_weights(task: ToyTask, dropout: float) -> None:
    def run(seed: int, noise: int) -> dict[str, Tensor]:
        model = net(dropout)
        torch.manual_seed(noise)  # whatever ran before must not matter
        finetune(model, task, data(), FineTune(steps=6, **FAST), seed)
        return model.state_dict()

    one, two, other = run(1, 5), run(1, 6), run(2, 5)
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


def test_the_global_random_state_is_left_alone(task: ToyTask) -> None:
    model, examples_ = net(0.5), data()
    state = torch.get_rng_state()
    finetune(model, task, examples_, FineTune(steps=3, **FAST))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("case", ["no steps", "no data"])
def test_nothing_to_do(task: ToyTask, case: str) -> None:
    model = net()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    steps, examples_ = (0, data()) if case == "no steps" else (5, [])
    assert math.isnan(finetune(model, task, examples_, FineTune(steps=steps, **FAST)))
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not model.training


def test_a_model_without_trainable_parameters(task: ToyTask) -> None:
    model = net().requires_grad_(False)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    assert math.isnan(finetune(model, task, data(), FineTune(steps=5, **FAST)))
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_frozen_parameters_stay(task: ToyTask) -> None:
    model = net()
    model[0].requires_grad_(False)
    weight = model[0].weight.clone()
    finetune(model, task, data(), FineTune(steps=5, **FAST))
    assert torch.equal(model[0].weight, weight)
    assert not torch.equal(model[4].weight, net()[4].weight)


def test_nan_in_the_loss_is_divergence(task: ToyTask) -> None:
    (first, *rest) = data(4)
    bad = Example(first.inputs * float("nan"), first.target, None)
    with pytest.raises(Diverged, match="not finite") as info:
        finetune(net(), task, [bad, *rest], FineTune(steps=8, **FAST))
    assert "lr" in (info.value.fix or "")
    assert "of 8" in (info.value.given or "")


class NanGradient(ToyTask):
    def loss(self, outputs: Any, target: Any) -> Tensor:
        return (outputs - outputs.detach()).abs().sum().sqrt()  # 0, with a gradient of 0/0


def test_nan_in_the_gradient_is_divergence_even_in_the_last_step() -> None:
    model = net()
    with pytest.raises(Diverged):
        finetune(model, NanGradient(), data(), FineTune(steps=1, distill=0.0, **FAST))
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_all_steps_are_made_and_every_batch_is_seen() -> None:
    seen: list[int] = []

    class Counting(ToyTask):
        def forward(self, model: nn.Module, inputs: Any) -> Any:
            seen.append(round(float(inputs[0, 0]) * 1e6))
            return model(inputs)

    examples_ = data(4)
    finetune(net(), Counting(), examples_, FineTune(steps=10, **FAST))
    assert len(seen) == 10
    for i in (0, 4):  # each pass in an order of its own
        assert len(set(seen[i : i + 4])) == 4
    assert seen[:4] != seen[4:8]


# -- distillation -------------------------------------------------------------------------------------------------


def test_distillation_by_hand() -> None:
    """Two classes, temperature 2: KL((p, 1-p) ‖ (½, ½)) · 4 with p = σ((2 ln 3) / 2) = ¾."""
    teacher, student = torch.tensor([[2 * math.log(3), 0.0]]), torch.tensor([[5.0, 5.0]])
    p = 0.75
    expected = 4 * (p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5))
    got = distillation(student, teacher, FineTune(temperature=2.0), -1)
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_distillation_of_equals_is_zero_and_positive_otherwise() -> None:
    torch.manual_seed(0)
    for shape, axis in [((4, 5), -1), ((2, 3, 5), -1), ((2, 3, 5), 1), ((2, 5, 4, 4), 1)]:
        a, b = torch.randn(shape), torch.randn(shape)
        assert float(distillation(a, a, FineTune(), axis)) == pytest.approx(0.0, abs=1e-6)
        assert float(distillation(a, b, FineTune(), axis)) > 0.01


def test_distillation_is_a_mean_over_what_is_not_the_class_axis() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(6, 5), torch.randn(6, 5)
    flat = float(distillation(a, b, FineTune(), -1))
    tokens = float(distillation(a.view(2, 3, 5), b.view(2, 3, 5), FineTune(), -1))
    pixels = float(distillation(a.view(2, 3, 5, 1).transpose(1, 2), b.view(2, 3, 5, 1).transpose(1, 2), FineTune(), 1))
    assert tokens == pytest.approx(flat, rel=1e-5)
    assert pixels == pytest.approx(flat, rel=1e-5)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (2, 3, 1), (2, 1, 4, 4)])
def test_outputs_without_classes_get_the_squared_error(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(shape), torch.randn(shape)
    found = float(distillation(a, b, FineTune(), class_axis(a, None)))
    assert found == pytest.approx(float((a - b).square().mean()), rel=1e-5)


@pytest.mark.parametrize("target", [torch.tensor([[0.5, -2.0, 7.0]] * 4), torch.tensor([[1, 0, 1], [0, 0, 0]] * 2)],
                         ids=["regression", "labels"])
def test_outputs_with_a_target_each_get_the_squared_error(target: torch.Tensor) -> None:
    """A softmax over them would not see that all are off by the same."""
    teacher = torch.randn(4, 3)
    found = distillation(teacher + 5, teacher, FineTune(), class_axis(teacher, target))
    assert float(found) == pytest.approx(25.0, rel=1e-4)


@pytest.mark.parametrize("target", [None, torch.tensor([0, 2, 1, 1]), torch.tensor([[0.1, 0.9, 0.0]] * 4), {"y": 1}],
                         ids=["none", "classes", "shares", "dict"])
def test_scores_of_classes_are_compared_as_distributions(target: Any) -> None:
    teacher = torch.randn(4, 3)
    found = distillation(teacher + 5, teacher, FineTune(), class_axis(teacher, target))
    assert float(found) == pytest.approx(0.0, abs=1e-5)


def test_the_weight_ofdistillation_mixes_the_two_losses(task: ToyTask) -> None:
    """One step from the same weights: the loss is linear in `distill`."""
    def first(distill: float) -> float:
        return finetune(net(), task, data(1, teacher=3.0), FineTune(steps=1, distill=distill, **FAST))

    assert first(0.25) == pytest.approx(0.75 * first(0.0) + 0.25 * first(1.0), rel=1e-5)
    assert first(0.0) != pytest.approx(first(1.0), rel=1e-2)


def test_without_a_teacher_the_tasks_own_loss_counts_whole(task: ToyTask) -> None:
    settings = FineTune(steps=1, distill=0.7, **FAST)
    plain = finetune(net(), task, data(1), FineTune(steps=1, distill=0.0, **FAST))
    assert finetune(net(), task, data(1), settings) == pytest.approx(plain, rel=1e-6)


# -- examples -----------------------------------------------------------------------------------------------------


def test_examples_hold_the_teachers_logits(task: ToyTask) -> None:
    teacher = net(0.5).train()
    pulled = []

    def stream() -> Any:
        for batch in points(5):
            pulled.append(batch)
            yield batch

    found = examples(task, teacher, stream(), 3)
    assert len(found) == 3
    teacher.eval()
    for example, (x, y) in zip(found, points(5), strict=False):
        assert torch.equal(example.inputs, x)
        assert torch.equal(example.target, y)
        assert example.teacher is not None
        assert torch.equal(example.teacher, teacher(x))
        assert not example.teacher.requires_grad
    assert examples(task, teacher, [], 3) == []
    assert examples(task, teacher, points(2), 0) == []


def test_examples_draw_no_more_batches_than_they_keep(task: ToyTask) -> None:
    """A batch that is loaded and thrown away costs as much as one that is used."""
    pulled = []

    def stream() -> Any:
        for batch in points(5):
            pulled.append(batch)
            yield batch

    examples(task, net(), stream(), 3)
    assert len(pulled) == 3


# -- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [{"steps": -1}, {"lr": 0.0}, {"lr": -1.0}, {"distill": 1.1}, {"distill": -0.1},
                                 {"temperature": 0.0}, {"precision": "fp16"}, {"lr": float("nan")},
                                 {"distill": float("nan")}, {"temperature": float("nan")}, {"lr": float("inf")},
                                 {"weight_decay": -1.0}])
def test_settings_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        FineTune(**bad)


def test_bf16_trains_too(task: ToyTask) -> None:
    model = net()
    before = loss_of(model)
    finetune(model, task, data(), FineTune(steps=60, lr=2e-2, precision="bf16"))
    assert loss_of(model) < 0.5 * before
    assert {p.dtype for p in model.parameters()} == {torch.float32}
