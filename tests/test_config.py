"""Settings: files, environment, command line, and who wins."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.config import Settings, differences, load_settings, to_toml
from autoprune.errors import ConfigError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_defaults() -> None:
    assert load_settings(None, {}, {}) == Settings()


def test_order_of_precedence(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.toml", 'device = "rpi4"\nbudget = "20ms"\ntrials = 7\n')
    environ = {"AUTOPRUNE_BUDGET": "30ms", "AUTOPRUNE_TRIALS": "9", "OTHER": "x"}
    found = load_settings(path, {"trials": 11, "seed": None}, environ)
    assert (found.device, found.budget, found.trials, found.seed) == ("rpi4", "30ms", 11, 0)


def test_the_file_in_the_current_directory_is_read(tmp_path: Path) -> None:
    write(tmp_path / "autoprune.toml", 'space = "small"')
    assert load_settings(None, {}, {}).space == "small"
    other = write(tmp_path / "other.toml", "seed = 3")
    found = load_settings(other, {}, {})
    assert (found.seed, found.space) == (3, "default")


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOPRUNE_SEED", "42")
    assert load_settings(None, {}).seed == 42
    assert load_settings(None, {}, {}).seed == 0


@pytest.mark.parametrize("value", ["", "x", "1.5", "1 2"])
def test_environment_integers_are_checked(value: str) -> None:
    with pytest.raises(ConfigError, match="AUTOPRUNE_TRIALS must be a whole number"):
        load_settings(None, {}, {"AUTOPRUNE_TRIALS": value})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist(.|\n)*nothing\.toml"):
        load_settings(tmp_path / "nothing.toml", {}, {})


def test_everything_wrong_with_a_file_is_listed_at_once(tmp_path: Path) -> None:
    text = 'devise = "rpi4"\ntrials = "many"\nseed = true\nbudget = 20\nqqqq = 1\nspace = "x"'
    path = write(tmp_path / "a.toml", text)
    with pytest.raises(ConfigError, match=r"5 problem") as info:
        load_settings(path, {}, {})
    text = str(info.value)
    assert "unknown key 'devise'; did you mean 'device'?" in text
    assert "trials must be a whole number, not 'many'" in text
    assert "seed must be a whole number, not True" in text
    assert "budget must be text in quotes, not 20" in text
    assert "unknown key 'qqqq'; available: " in text
    assert "space" not in text.replace("space,", "")


@pytest.mark.parametrize("content", ["device = ", "device = 'a'\ndevice = 'b'", b'device = "\xff\xfe"', b"\x00"])
def test_a_file_that_is_no_toml_is_a_clear_error(tmp_path: Path, content: str | bytes) -> None:
    path = write(tmp_path / "a.toml", content)
    with pytest.raises(ConfigError, match=r"not valid TOML(.|\n)*a\.toml"):
        load_settings(path, {}, {})


def test_updated_ignores_what_is_not_given() -> None:
    before = Settings(trials=3)
    after = before.updated({"trials": None, "seed": 0, "device": "rpi4"})
    assert (after.trials, after.seed, after.device) == (3, 0, "rpi4")
    assert before.device == "cpu"


texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)
values = st.fixed_dictionaries({}, optional={
    f.name: st.integers(-(2**40), 2**40) if f.name in ("trials", "seed", "threads", "steps") else texts
    for f in fields(Settings)})


@settings(deadline=None, max_examples=60, derandomize=True)
@given(values)
def test_toml_round_trip(given_: dict[str, object]) -> None:
    before = Settings().updated(given_)
    again = tomllib.loads(to_toml(before.to_json()))
    assert Settings().updated(again) == before
    assert None not in again.values()


def test_the_one_character_in_which_json_and_toml_differ() -> None:
    assert tomllib.loads(to_toml({"space": "a\x7fb\x00\n"})) == {"space": "a\x7fb\x00\n"}


def test_a_written_file_is_read_back(tmp_path: Path) -> None:
    before = Settings(model="a/b.py:make", budget="20ms@p90", run='runs/"x"\\y', seed=3, trials=4)
    path = write(tmp_path / "s.toml", to_toml(before.to_json()))
    assert load_settings(path, {}, {}) == before


def test_differences() -> None:
    a, b = Settings(seed=1, trials=3).to_json(), Settings(seed=2, trials=3).to_json()
    assert differences(a, a) == ""
    assert differences(a, b).splitlines() == ["- seed = 1", "+ seed = 2"]
