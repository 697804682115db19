"""The exception tree: exit codes, texts, and that errors cross process boundaries."""

from __future__ import annotations

import copy
import pickle

import pytest

from autoprune import errors
from autoprune.errors import (
    AutopruneError,
    BudgetError,
    ConfigError,
    DamagedError,
    DeviceError,
    ModelError,
    TaskError,
    did_you_mean,
)
from autoprune.recover.finetune import Diverged

EXIT_CODES = {AutopruneError: 1, ConfigError: 2, DamagedError: 2, TaskError: 2, BudgetError: 3, DeviceError: 4,
              ModelError: 5, Diverged: 1}


@pytest.mark.parametrize(("kind", "code"), EXIT_CODES.items(), ids=lambda v: getattr(v, "__name__", None))
def test_exit_codes(kind: type[AutopruneError], code: int) -> None:
    error = kind("what happened")
    assert error.exit_code == code
    assert isinstance(error, AutopruneError)
    assert isinstance(error, Exception)


def test_all_is_complete() -> None:
    classes = {n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, Exception)}
    assert classes | {"did_you_mean", "first_line"} == set(errors.__all__)


def test_the_text_has_a_line_for_each_part() -> None:
    error = ConfigError("it is wrong", given=3, allowed="1 or 2", fix="use 2")
    assert str(error).splitlines() == ["it is wrong", "  given:   3", "  allowed: 1 or 2", "  fix:     use 2"]
    assert str(ConfigError("it is wrong")) == "it is wrong"
    assert str(ConfigError("it is wrong", given=0)).splitlines() == ["it is wrong", "  given:   0"]
    assert str(ConfigError("it is wrong", given="")).splitlines() == ["it is wrong", "  given:   "]
    assert ConfigError("x", given=["a"]).given == "['a']"


@pytest.mark.parametrize("kind", EXIT_CODES)
def test_errors_survive_pickling(kind: type[AutopruneError]) -> None:
    """They come back from worker processes."""
    error = kind("it is wrong", given=3, allowed="1 or 2", fix="use 2")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301  (our own bytes)
        assert type(again) is kind
        assert str(again) == str(error)
        assert (again.message, again.given, again.allowed, again.fix) == ("it is wrong", "3", "1 or 2", "use 2")


def test_did_you_mean() -> None:
    assert did_you_mean("tailor", ["l1", "taylor"]) == "did you mean 'taylor'? available: l1, taylor"
    assert did_you_mean("zzz", {"b": 1, "a": 2}) == "available: a, b"
    assert did_you_mean("x", []) == "available: none"
    assert did_you_mean("", ["a"]) == "available: a"
