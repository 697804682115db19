"""The search space: which widths and which methods each group may take, and how candidates recover."""

from __future__ import annotations

import fnmatch
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.errors import ConfigError, did_you_mean
from autoprune.resources import folder

if TYPE_CHECKING:
    from autoprune.graph.graph import Graph

__all__ = ["Choices", "Space", "list_spaces", "load_space"]

_RECOVER: dict[str, type] = {"steps": int, "lr": float, "distill": float, "temperature": float, "weight_decay": float,
                             "calibration_batches": int, "precision": str}
_TOP = {"description", "methods", "min_keep", "recover", "search", "groups"}
_SEARCH = {"trials"}
_GROUP = {"methods", "min_keep", "keep"}


@dataclass(frozen=True)
class Choices:
    """What one group may become: ascending widths (the last is its size) and method names."""

    widths: tuple[int, ...]
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Space:
    """A search space as written in a TOML file."""

    name: str
    description: str = ""
    methods: tuple[str, ...] = ("l1",)
    min_keep: float = 0.1
    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    recover: Mapping[str, Any] = field(default_factory=dict)
    trials: int = 36

    def choices(self, graph: Graph, align: int) -> dict[str, Choices]:
        """Choices of every group that may change. Widths are such that the pruned axis is a multiple of `align`
        channels, as far as the group is large enough; the whole group is always a choice.
        """
        out: dict[str, Choices] = {}
        for name, g in graph.groups.items():
            rule = self._rule(name, g.kind)
            if rule.get("keep") == "whole":
                continue
            step = max(1, align // math.gcd(align, g.width))
            least = max(1, math.ceil(g.size * float(rule.get("min_keep", self.min_keep))))
            if g.size <= step:
                step = 1
            widths = [n for n in range(step, g.size, step) if n >= least]
            if widths:
                out[name] = Choices((*widths, g.size), tuple(rule.get("methods", self.methods)))
        return out

    def _rule(self, name: str, kind: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = {}
        for pattern, rule in self.groups.items():
            if fnmatch.fnmatchcase(f"kind:{kind}", pattern) or fnmatch.fnmatchcase(name, pattern):
                found = rule
        return found

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "description": self.description, "methods": list(self.methods),
                "min_keep": self.min_keep, "groups": {k: dict(v) for k, v in self.groups.items()},
                "recover": dict(self.recover), "search": {"trials": self.trials}}


def list_spaces() -> list[str]:
    """Names of the spaces that ship with autoprune."""
    return sorted(p.stem for p in folder("search_spaces").glob("*.toml"))


def load_space(name: str | Path) -> Space:
    """A shipped space by name, or one from a TOML file. `ConfigError` lists everything that is wrong with the file."""
    path = Path(name)
    if path.suffix != ".toml":
        path = folder("search_spaces") / f"{name}.toml"
        if not path.is_file():
            raise ConfigError("unknown search space", given=name, allowed=did_you_mean(str(name), list_spaces())
                              + "; or a path to a .toml file", fix="autoprune spaces list")
    if not path.is_file():
        raise ConfigError("the space file does not exist", given=path, fix="autoprune spaces list")
    text = path.read_text(encoding="utf-8")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("the space file is not valid TOML", given=f"{path}: {error}") from error
    problems = _problems(data)
    if problems:
        lines = text.splitlines()
        listed = "".join(f"\n  - {_locate(lines, key)}{what}" for key, what in problems)
        raise ConfigError(f"the space file {path} has {len(problems)} problem(s):{listed}",
                          fix="autoprune spaces show default prints a correct one")
    return Space(path.stem, data.get("description", ""), tuple(data.get("methods", ("l1",))),
                 float(data.get("min_keep", 0.1)), data.get("groups", {}), data.get("recover", {}),
                 int(data.get("search", {}).get("trials", 36)))


def _locate(lines: list[str], key: str) -> str:
    """`line 3: ` for the first line that mentions the key or value."""
    number = next((i for i, line in enumerate(lines, 1) if key in line), None)
    return f"line {number}: " if number else ""


def _problems(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    out = [(k, f"unknown key {k!r}; {did_you_mean(k, _TOP)}") for k in data if k not in _TOP]
    for section in ("recover", "search", "groups"):
        if not isinstance(data.get(section, {}), Mapping):
            return [*out, (section, f"[{section}] must be a table")]
    out += _method_problems(data.get("methods", ["l1"]), "methods")
    out += _keep_problems(data.get("min_keep", 0.1))
    for key, value in data.get("recover", {}).items():
        kind = _RECOVER.get(key)
        if kind is None:
            out.append((key, f"unknown key recover.{key}; {did_you_mean(key, _RECOVER)}"))
        elif isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
            out.append((key, f"recover.{key} must be {kind.__name__}, not {value!r}"))
    for key, value in data.get("search", {}).items():
        if key not in _SEARCH:
            out.append((key, f"unknown key search.{key}; {did_you_mean(key, _SEARCH)}"))
        elif not isinstance(value, int) or value < 1:
            out.append((key, f"search.{key} must be a whole number ≥ 1, not {value!r}"))
    for pattern, rule in data.get("groups", {}).items():
        if not isinstance(rule, Mapping):
            out.append((pattern, f"groups.{pattern!r} must be a table"))
            continue
        out += [(k, f"unknown key {k!r} in groups.{pattern!r}; {did_you_mean(k, _GROUP)}") for k in rule
                if k not in _GROUP]
        out += _method_problems(rule.get("methods", ["l1"]), pattern) + _keep_problems(rule.get("min_keep", 0.1))
        if rule.get("keep", "whole") != "whole":
            out.append((pattern, f"keep in groups.{pattern!r} can only be \"whole\""))
    return out


def _method_problems(names: Any, where: str) -> list[tuple[str, str]]:
    from autoprune.methods.registry import method_names

    known = method_names()
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        return [(where, f"{where}: methods must be a list of at least one name")]
    return [(n, f"unknown method {n!r}; {did_you_mean(n, known)}") for n in names if n not in known]


def _keep_problems(value: Any) -> list[tuple[str, str]]:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        return [("min_keep", f"min_keep must be in (0, 1], not {value!r}")]
    return []
