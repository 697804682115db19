"""Training with a cost reaches the target; what cannot be reached is said before training."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from autoprune.dynamic.paths import decisions
from autoprune.dynamic.train import Cost, train
from autoprune.errors import ConfigError
from autoprune.recover.finetune import FineTune
from tests.dynamic.nets import gated
from tests.recover.conftest import ToyTask, data


class Points(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = (
            nn.Linear(4, 64), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 128))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + torch.relu(self.a(x))
        x = x + torch.relu(self.b(x))
        out: Tensor = self.head(x)[:, :3]
        return out


SETTINGS = FineTune(steps=150, lr=1e-2, distill=0.0, precision="fp32")


def test_training_comes_to_the_target() -> None:
    torch.manual_seed(0)
    batches = data()
    model = gated(Points().eval(), batches[0].inputs)
    target = model.rest + 0.4 * sum(model.shares)
    loss = train(model, ToyTask(), batches, Cost(target), SETTINGS)
    opened = decisions(model, [e.inputs for e in batches])
    share = float(model.share(opened.float()).mean())
    assert abs(share - target) < 0.12
    assert math.isfinite(loss)
    assert all(g.noise == 0.0 for g in model.gates)
    assert not model.training


@pytest.mark.parametrize("target", [0.0, 1.0, -0.5, math.nan])
def test_targets_out_of_range(target: float) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        Cost(target)


def test_a_target_below_what_always_runs_is_refused() -> None:
    model = gated(Points().eval(), torch.randn(2, 4))
    with pytest.raises(ConfigError, match="does not reach the target"):
        train(model, ToyTask(), data(), Cost(model.rest / 2), SETTINGS)


@pytest.mark.parametrize("change", [{"patience": 2}, {"distill_features": 1.0}])
def test_settings_that_do_not_fit_gates_are_refused(change: dict[str, float]) -> None:
    model = gated(Points().eval(), torch.randn(2, 4))
    with pytest.raises(ConfigError, match="all steps"):
        train(model, ToyTask(), data(), Cost((1 + model.rest) / 2), dataclasses.replace(SETTINGS, **change))
