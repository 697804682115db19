from __future__ import annotations

import json
import math

import pytest

from autoprune.errors import ConfigError
from autoprune.tasks.score import Score


def test_text_of_a_fraction_and_of_a_loss() -> None:
    assert str(Score("accuracy", 0.983, "test", 360, 0.0068)) == "98.3 % ± 0.7 (accuracy, test, n=360)"
    assert str(Score("mse", 0.1234567, "search", 8, 0.0123, False)) == "0.1235 ± 0.012 (mse, search, n=8)"


def test_json_round_trip() -> None:
    score = Score("mse", 0.5, "validation", 10, 0.1, higher_is_better=False)
    assert Score.from_json(json.loads(json.dumps(score.to_json()))) == score


def test_json_with_wrong_keys_names_them() -> None:
    data = Score("mse", 0.5, "validation", 10, 0.1).to_json()
    del data["n"]
    with pytest.raises(ConfigError, match="missing or unknown keys") as caught:
        Score.from_json(data | {"m": 1})
    assert caught.value.given == "m, n"


@pytest.mark.parametrize("change", [{"value": math.nan}, {"value": math.inf}, {"standard_error": -0.1}, {"n": 0},
                                    {"split": "tset"}])
def test_unusable_values_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Score.from_json(Score("accuracy", 0.5, "test", 10, 0.1).to_json() | change)


def test_better_than_knows_the_direction() -> None:
    high, low = (Score("accuracy", value, "test", 10, 0.1) for value in (0.9, 0.8))
    assert high.better_than(low)
    assert not low.better_than(high)
    small, large = (Score("mse", value, "test", 10, 0.1, False) for value in (0.1, 0.2))
    assert small.better_than(large)
    assert not small.better_than(small)
