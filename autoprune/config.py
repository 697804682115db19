"""Settings of a search, and where they come from.

built-in < device < space < `autoprune.toml` or `-c FILE` < `AUTOPRUNE_*` < command line.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from autoprune.devices.device import Device

__all__ = ["Settings", "load_settings", "to_toml"]


@dataclass(frozen=True)
class Settings:
    """One search. Quantities are texts with units, as a user writes them; None means "not given"."""

    model: str | None = None
    data: str | None = None
    metric: str | None = None
    loss: str | None = None
    device: str | Device = "cpu"
    budget: str | None = None
    max_drop: str | None = None
    space: str = "default"
    methods: str | None = None
    trials: int | None = None
    timeout: str | None = None
    run: str | None = None
    seed: int = 0
    sampler: str = "auto"
    threads: int | None = None
    steps: int | None = None
    reuse: str | None = None
    workers: int | None = None
    candidate_timeout: str | None = None
    storage: str | None = None
    cluster: str | None = None
    candidate_gpus: str | None = None

    def updated(self, values: Mapping[str, Any]) -> Settings:
        """With the values that are not None in place of these."""
        return replace(self, **{k: v for k, v in values.items() if v is not None})

    def to_json(self) -> dict[str, Any]:
        return {k: os.fspath(v) if isinstance(v, os.PathLike) else v for k, v in asdict(self).items()}


_INTEGERS = {"trials", "seed", "threads", "steps", "workers"}


def load_settings(file: str | os.PathLike[str] | None, given: Mapping[str, Any],
                  environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from a file (`autoprune.toml` in the current directory when None), the environment and `given`.

    Raises one `ConfigError` that lists everything wrong with the file.
    """
    path = Path(file) if file is not None else Path("autoprune.toml")
    settings = Settings()
    if file is not None and not path.is_file():
        raise ConfigError("the configuration file does not exist", given=path,
                          fix="leave -c out, or write the file; autoprune search --help names the settings")
    if path.is_file():
        settings = settings.updated(_read(path))
    environ = os.environ if environ is None else environ
    names = {f.name for f in fields(Settings)}
    from_environment: dict[str, Any] = {}
    for name in names:
        text = environ.get(f"AUTOPRUNE_{name.upper()}")
        if text is not None:
            from_environment[name] = _integer(name, text) if name in _INTEGERS else text
    return settings.updated(from_environment).updated(given)


def _integer(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"AUTOPRUNE_{name.upper()} must be a whole number", given=repr(text)) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("the configuration file is not valid TOML", given=f"{path}: {error}") from error
    names = [f.name for f in fields(Settings)]
    problems = []
    for key, value in data.items():
        kind: type = int if key in _INTEGERS else str
        if key not in names:
            problems.append(f"unknown key {key!r}; {did_you_mean(key, names)}")
        elif not isinstance(value, kind) or isinstance(value, bool):
            problems.append(f"{key} must be {'a whole number' if kind is int else 'text in quotes'}, not {value!r}")
    if problems:
        raise ConfigError(f"{path} has {len(problems)} problem(s):\n  - " + "\n  - ".join(problems),
                          fix="autoprune search --help names the settings")
    return data


def to_toml(values: Mapping[str, Any]) -> str:
    """Flat settings as TOML; None is left out. (Strings of JSON are strings of TOML, once DEL is escaped, too.)"""
    lines = [f"{k} = {json.dumps(v, ensure_ascii=False)}".replace("\x7f", "\\u007f") for k, v in values.items()
             if v is not None]
    return "\n".join(lines) + "\n"


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """A diff of two sets of flat settings, empty when they are the same."""
    lines = list(difflib.ndiff(to_toml(before).splitlines(), to_toml(after).splitlines()))
    return "\n".join(line for line in lines if line[:1] in "+-")
