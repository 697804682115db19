"""Early stop: the best weights on what is held out, and an end in time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from autoprune.errors import ConfigError
from autoprune.recover.early_stop import Best
from autoprune.recover.finetune import Extras, FineTune, finetune
from tests.recover.conftest import ToyTask, data, net


def test_the_best_state_comes_back() -> None:
    model = net()
    values = iter([3.0, 1.0, 2.0, 2.0])
    best = Best(model, lambda: next(values), patience=2)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        assert not best.check()  # the best
        model[0].weight.fill_(2.0)
        assert not best.check()
        model[1].running_mean.fill_(9.0)
        assert best.check()
    best.restore()
    assert bool((model[0].weight == 1.0).all())
    assert not bool((model[1].running_mean == 9.0).any())


def test_a_loss_that_is_never_finite_keeps_the_first_state() -> None:
    model = net()
    before = model[0].weight.clone()
    best = Best(model, lambda: float("nan"), patience=1)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    assert best.check()
    best.restore()
    assert torch.equal(model[0].weight, before)


def test_training_that_does_harm_is_stopped_and_undone(task: ToyTask) -> None:
    """Labels of the training batches are wrong, those of the held-out ones (every fifth) right."""
    examples = [e if i % 5 == 0 else type(e)(e.inputs, (e.target + 1) % 3, None) for i, e in enumerate(data(10))]
    model, steps = net(), []
    finetune(model, task, data(10), FineTune(steps=40, lr=2e-2, distill=0.0, precision="fp32"))
    held = examples[::5]

    def loss() -> float:
        with torch.no_grad():
            return sum(float(F.cross_entropy(model(e.inputs), e.target)) for e in held)

    before = loss()
    settings = FineTune(steps=40, lr=2e-2, distill=0.0, precision="fp32", patience=2)
    finetune(model, task, examples, settings, extras=Extras(after_step=steps.append))
    assert loss() <= before + 1e-6
    assert len(steps) == 8  # two looks, four steps apart


def test_patience_with_one_batch_is_an_error(task: ToyTask) -> None:
    with pytest.raises(ConfigError, match="hold out"):
        finetune(net(), task, data(1), FineTune(steps=2, patience=1))


def test_a_penalty_is_added_to_the_loss(task: ToyTask) -> None:
    def first(extras: Extras | None) -> float:
        return finetune(net(), task, data(1), FineTune(steps=1, distill=0.0, precision="fp32"), extras=extras)

    assert first(Extras(penalty=lambda: torch.tensor(2.5))) == pytest.approx(first(None) + 2.5, rel=1e-5)
