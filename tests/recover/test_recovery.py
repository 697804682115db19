"""What settings of recovery may not go together."""

from __future__ import annotations

from typing import Any

import pytest

from autoprune.errors import ConfigError
from autoprune.recover.recovery import Penalty, Recovery


def test_tables_become_settings() -> None:
    found = Recovery.of({"steps": 30, "lr": 1e-3, "calibration_batches": 2, "least_squares": True, "patience": 2},
                        {"kind": "gradual", "cycles": 3, "soft": True, "penalty_steps": 5, "l1_norms": 1e-4})
    assert (found.tune.steps, found.tune.lr, found.tune.patience, found.calibration_batches) == (30, 1e-3, 2, 2)
    assert (found.schedule.kind, found.schedule.cuts, found.soft) == ("gradual", 3, True)
    assert found.penalty == Penalty(5, 1e-4, 0.0)
    assert found.least_squares
    assert Recovery.of({}, {}) == Recovery()


@pytest.mark.parametrize(("recover", "schedule", "says"), [
    ({"steps": 2}, {"kind": "iterative", "cycles": 3}, "never reaches its target"),
    ({}, {"kind": "gradual"}, "several cuts"),
    ({}, {"kind": "one-shot", "cycles": 2}, "out of range"),
    ({}, {"soft": True}, "come back"),
    ({"start": "rewnd"}, {}, "unknown start"),
    ({"start": "random", "least_squares": True}, {}, "thrown away"),
    ({"checkpoint": "early.safetensors"}, {}, "rewinding only"),
    ({}, {"penalty_steps": 4}, "needs a penalty"),
    ({}, {"l1_norms": 0.1}, "needs a penalty and steps"),
])
def test_contradictions_are_refused(recover: dict[str, Any], schedule: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Recovery.of(recover, schedule)
