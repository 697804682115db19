"""What a user types, and what it means."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.errors import ConfigError
from autoprune.units import Budget, parse_budget, parse_budgets, parse_drop, parse_duration_s

QUICK = settings(deadline=None, max_examples=200, derandomize=True)


@pytest.mark.parametrize(("text", "ms"), [
    ("20ms", 20.0), ("20 ms", 20.0), (" 20ms ", 20.0), ("0.02s", 20.0), (".5ms", 0.5), ("1500us", 1.5), ("1500µs", 1.5),
    ("1500μs", 1.5), ("50fps", 20.0), ("1e1ms", 10.0), ("2.5E-1ms", 0.25), ("1e+1ms", 10.0)])
def test_absolute_budgets(text: str, ms: float) -> None:
    budget = parse_budget(text)
    assert budget.limit_ms == pytest.approx(ms)
    assert budget.ratio is None
    assert budget.percentile == "p50"
    assert budget.resolve_ms(1000.0) == pytest.approx(ms)
    assert budget.text == text.strip()


def test_relative_budgets() -> None:
    budget = parse_budget("0.5x")
    assert (budget.limit_ms, budget.ratio) == (None, 0.5)
    assert budget.resolve_ms(30.0) == pytest.approx(15.0)


@pytest.mark.parametrize(("text", "percentile"), [
    ("20ms@p90", "p90"), ("20ms @ P99", "p99"), ("0.5x@p50", "p50"), ("20ms", "p50")])
def test_percentiles(text: str, percentile: str) -> None:
    assert parse_budget(text).percentile == percentile


@pytest.mark.parametrize("text", ["20ms@", "20ms@p95", "20ms@90", "20ms@p90@p90", "@p90"])
def test_other_percentiles_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_budget(text)


@pytest.mark.parametrize("number", ["20", "0.5", "1e3"])
def test_a_bare_number_shows_its_readings(number: str) -> None:
    with pytest.raises(ConfigError, match="no unit") as info:
        parse_budget(number)
    text = str(info.value)
    assert f"{number}ms" in text
    assert f"{number}fps" in text
    assert f"{number}x" in text
    assert info.value.fix == f"--budget {number}ms"


@pytest.mark.parametrize("text", ["", " ", "ms", "-20ms", "+20ms", "0ms", "0x", "nan", "nanms", "infms", "1e999ms",
                                  "20mss", "20MS", "20 m s", "20ms30", "2,5ms", "0x10ms", "20%", "1e-400ms",
                                  "1e-307fps", "1e307s", "1e-322us", "２０ms", "20ms\n\n20ms"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as info:
        parse_budget(text)
    assert info.value.fix
    assert info.value.given


@QUICK
@given(st.text(alphabet="0123456789.eE+-@pxmsfuµ% ", max_size=9))
def test_any_text_is_a_finite_budget_or_a_clear_error(text: str) -> None:
    try:
        budget = parse_budget(text)
    except ConfigError as error:
        assert error.fix  # noqa: PT017
        return
    value = budget.resolve_ms(1.0)
    assert math.isfinite(value)
    assert value > 0


@QUICK
@given(st.floats(1e-300, 1e300), st.sampled_from(["us", "ms", "s", "fps", "x"]))
def test_any_number_is_a_finite_budget_or_a_clear_error(number: float, unit: str) -> None:
    try:
        value = parse_budget(f"{number!r}{unit}").resolve_ms(1.0)
    except ConfigError:
        return
    assert math.isfinite(value)
    assert value > 0


def test_a_budget_has_exactly_one_kind_of_bound() -> None:
    assert parse_budget("3ms") == Budget("3ms", limit_ms=3.0)
    assert parse_budget("3x") == Budget("3x", ratio=3.0)


# -- drops and durations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "drop"), [("1pp", 0.01), ("0.5pp", 0.005), ("0.01abs", 0.01), ("2 abs", 2.0)])
def test_drops(text: str, drop: float) -> None:
    assert parse_drop(text) == pytest.approx(drop)


@pytest.mark.parametrize("text", ["1", "1%", "1 %"])
def test_a_drop_without_unit_shows_its_readings(text: str) -> None:
    with pytest.raises(ConfigError, match="needs a unit") as info:
        parse_drop(text)
    assert "1pp" in str(info.value)
    assert "1abs" in str(info.value)
    assert info.value.fix == "--max-drop 1pp"


def test_a_drop_with_another_unit_suggests_the_number_only() -> None:
    with pytest.raises(ConfigError) as info:
        parse_drop("1points")
    assert info.value.fix == "--max-drop 1pp"


@pytest.mark.parametrize("text", ["", "pp", "-1pp", "0pp", "nanpp", "1pppp", "1PP"])
def test_what_is_no_drop_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_drop(text)


@pytest.mark.parametrize(("text", "seconds"), [
    ("90s", 90.0), ("10m", 600.0), ("10min", 600.0), ("2h", 7200.0), ("1d", 86400.0), ("0.5h", 1800.0),
    (" 3 m ", 180.0)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "90", "s", "-1s", "0s", "1ms", "1w", "1h30m", "1e400s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as info:
        parse_duration_s(text)
    assert info.value.fix


def test_several_budgets() -> None:
    assert parse_budgets("20ms") == (parse_budget("20ms"),)
    number: Any = 20.0
    with pytest.raises(ConfigError, match="text with a unit") as caught:
        parse_budgets(number)
    assert caught.value.fix == 'budget="20.0ms"'
    for parse, fix in ((parse_budget, 'budget="20.0ms"'), (parse_drop, 'max_drop="20.0abs"'),
                       (parse_duration_s, 'timeout="20.0s"')):
        with pytest.raises(ConfigError, match="text with a unit") as caught:
            parse(number)
        assert caught.value.fix == fix
    assert parse_budgets(" 20ms, 0.5x,20ms ,50fps") == tuple(map(parse_budget, ("20ms", "0.5x", "50fps")))
    assert [b.percentile for b in parse_budgets("9ms@p90,3ms@p90")] == ["p90", "p90"]


@pytest.mark.parametrize("text", ["", "20ms,", ",", "20ms,10", "20ms;10ms", "20ms@p90,10ms"])
def test_what_are_no_budgets(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_budgets(text)
