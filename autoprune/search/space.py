"""The search space: which widths and which methods each group may take, and how candidates recover."""

from __future__ import annotations

import fnmatch
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.errors import ConfigError, did_you_mean
from autoprune.methods.schedules import SCHEDULES
from autoprune.resources import folder

if TYPE_CHECKING:
    from autoprune.graph.graph import Graph

__all__ = ["Choices", "Space", "list_spaces", "load_space"]

_RECOVER: dict[str, type] = {"steps": int, "lr": float, "distill": float, "temperature": float, "weight_decay": float,
                             "calibration_batches": int, "precision": str, "distill_features": float, "patience": int,
                             "least_squares": bool, "start": str, "checkpoint": str}
_SCHEDULE: dict[str, type] = {"kind": str, "cycles": int, "soft": bool, "penalty_steps": int, "l1_norms": float,
                              "group_lasso": float}
_TABLES = {"recover": _RECOVER, "schedule": _SCHEDULE}
_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_WEIGHT: tuple[str, Callable[[Any], bool]] = ("at least 0 and finite", lambda v: 0 <= v < math.inf)
_COUNT: tuple[str, Callable[[Any], bool]] = ("at least 0", lambda v: v >= 0)
_RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "steps": _COUNT,
    "lr": ("above 0 and finite", lambda v: 0 < v < math.inf),
    "distill": ("in [0, 1]", lambda v: 0 <= v <= 1),
    "temperature": ("above 0 and finite", lambda v: 0 < v < math.inf),
    "weight_decay": _WEIGHT,
    "calibration_batches": _COUNT,
    "precision": ("auto, fp32 or bf16", lambda v: v in ("auto", "fp32", "bf16")),
    "distill_features": _WEIGHT,
    "patience": _COUNT,
    "kind": ("one-shot, iterative or gradual", lambda v: v in SCHEDULES),
    "cycles": ("at least 1", lambda v: v >= 1),
    "penalty_steps": _COUNT,
    "l1_norms": _WEIGHT,
    "group_lasso": _WEIGHT,
}
_TOP = {"description", "methods", "min_keep", "precisions", "recover", "schedule", "search", "groups"}
_SEARCH = {"trials", "rankings"}
_RANKING = {"scope", "method"}
_GROUP = {"methods", "min_keep", "keep"}


@dataclass(frozen=True)
class Choices:
    """What one group may become: ascending widths (the last is its size) and method names; `left_out` are methods of
    the space that do not apply to the group.
    """

    widths: tuple[int, ...]
    methods: tuple[str, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Space:
    """A search space as written in a TOML file.

    precisions: what candidates may be deployed in, fp32 first; rankings: (scope, method) of rankings over several
    groups (`autoprune.methods.ranked`) whose plans at the budget are among the first candidates.
    """

    name: str
    description: str = ""
    methods: tuple[str, ...] = ("l1",)
    min_keep: float = 0.1
    precisions: tuple[str, ...] = ("fp32",)
    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    recover: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    trials: int = 32
    rankings: tuple[tuple[str, str], ...] = ()

    def with_methods(self, names: Sequence[str]) -> Space:
        """The same space with these methods in place of its own; rankings by others are left out.

        Raises `ConfigError` for a name that is no method. What a group's own rule names stays.
        """
        from autoprune.methods.registry import registered

        known = tuple(dict.fromkeys(registered(name) for name in names))
        return replace(self, methods=known, rankings=tuple(r for r in self.rankings if r[1] in known))

    def choices(self, graph: Graph, align: int) -> dict[str, Choices]:
        """Choices of every group that may change. Widths are such that the pruned axis is a multiple of `align`
        channels, as far as the group is large enough; the whole group is always a choice. Methods are those that apply
        to the group (norm scales need a norm).

        Raises `ConfigError` when there is a group that none of its methods applies to.
        """
        from autoprune.methods.criterion import GroupView
        from autoprune.methods.registry import criterion

        out: dict[str, Choices] = {}
        without: list[str] = []
        for name, g in graph.groups.items():
            rule = self._rule(name, g.kind)
            if rule.get("keep") == "whole":
                continue
            step = g.step(align)
            least = max(1, math.ceil(g.size * float(rule.get("min_keep", self.min_keep))))
            widths = [n for n in range(step, g.size, step) if n >= least]
            if widths:
                view = GroupView(graph, name)
                named = tuple(rule.get("methods", self.methods))
                methods = tuple(m for m in named if criterion(m).applies(view))
                out[name] = Choices((*widths, g.size), methods, tuple(m for m in named if m not in methods))
                without += [] if methods else [f"{name}: {', '.join(named)}"]
        if without:
            raise ConfigError(f"the space {self.name!r} names no method that applies to {len(without)} group(s)",
                              given="; ".join(without[:3]), fix="add l1, which always applies, to its methods")
        return out

    def _rule(self, name: str, kind: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = {}
        for pattern, rule in self.groups.items():
            if fnmatch.fnmatchcase(f"kind:{kind}", pattern) or fnmatch.fnmatchcase(name, pattern):
                found = rule
        return found

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "description": self.description, "methods": list(self.methods),
                "min_keep": self.min_keep, "precisions": list(self.precisions),
                "groups": {k: dict(v) for k, v in self.groups.items()},
                "recover": dict(self.recover), "schedule": dict(self.schedule), "search": {
                    "trials": self.trials, "rankings": [{"scope": s, "method": m} for s, m in self.rankings]}}


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
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("the space file cannot be read", given=f"{path}: {error}", fix="autoprune spaces list"
                          ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("the space file is not valid TOML", given=f"{path}: {error}") from error
    problems = _problems(data)
    if problems:
        lines = text.splitlines()
        listed = "".join(f"\n  - {_locate(lines, where)}{what}" for where, what in problems)
        raise ConfigError(f"the space file {path} has {len(problems)} problem(s):{listed}",
                          fix="autoprune spaces show default prints a correct one")
    return _space(path.stem, data)


def _space(name: str, data: Mapping[str, Any]) -> Space:
    """The space that a file without problems describes."""
    from autoprune.methods.registry import registered

    def known(methods: Iterable[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(registered(m) for m in methods))

    groups = {pattern: {**rule, "methods": known(rule["methods"])} if "methods" in rule else rule
              for pattern, rule in data.get("groups", {}).items()}
    search = data.get("search", {})
    return Space(name, data.get("description", ""), known(data.get("methods", ("l1",))),
                 float(data.get("min_keep", 0.1)), tuple(data.get("precisions", ("fp32",))), groups,
                 data.get("recover", {}), data.get("schedule", {}), int(search.get("trials", 32)),
                 tuple((r["scope"], registered(r["method"])) for r in search.get("rankings", ())))


Problem = tuple[tuple[str, ...], str]
"""The words that lead to it, from the table to the value, and what is wrong."""


def _locate(lines: list[str], where: tuple[str, ...]) -> str:
    """`line 3: `: each word is looked for from the line of the word before it."""
    number = 0
    for word in where:
        pattern = re.compile(rf"(?<![\w:.-]){re.escape(word)}(?![\w:-])")
        found = next((i for i in range(number, len(lines))
                      if not lines[i].lstrip().startswith("#") and pattern.search(lines[i])), None)
        if found is None:
            return ""
        number = found
    return f"line {number + 1}: "


def _problems(data: Mapping[str, Any]) -> list[Problem]:
    out: list[Problem] = [((k,), f"unknown key {k!r}; {did_you_mean(k, _TOP)}") for k in data if k not in _TOP]
    if not isinstance(data.get("description", ""), str):
        out.append((("description",), "description must be text"))
    for section in (*_TABLES, "search", "groups"):
        if not isinstance(data.get(section, {}), Mapping):
            return [*out, ((section,), f"[{section}] must be a table")]
    out += _method_problems(data.get("methods", ["l1"]), ("methods",))
    out += _keep_problems(data.get("min_keep", 0.1), ("min_keep",))
    out += _precision_problems(data)
    for table in _TABLES:
        for key, value in data.get(table, {}).items():
            out += [((table, key), problem) for problem in _value_problems(table, key, value)]
    out = out or _contradictions(data)
    for key, value in data.get("search", {}).items():
        if key not in _SEARCH:
            out.append((("search", key), f"unknown key search.{key}; {did_you_mean(key, _SEARCH)}"))
        elif key == "rankings":
            out += _ranking_problems(value, data.get("methods", ["l1"]))
        elif isinstance(value, bool) or not isinstance(value, int) or value < 1:
            out.append((("search", key), f"search.{key} must be a whole number ≥ 1, not {value!r}"))
    for pattern, rule in data.get("groups", {}).items():
        where = ("groups", pattern)
        if not isinstance(rule, Mapping):
            out.append((where, f"groups.{pattern!r} must be a table"))
            continue
        out += [((*where, k), f"unknown key {k!r} in groups.{pattern!r}; {did_you_mean(k, _GROUP)}") for k in rule
                if k not in _GROUP]
        out += _method_problems(rule.get("methods", ["l1"]), (*where, "methods"))
        out += _keep_problems(rule.get("min_keep", 0.1), (*where, "min_keep"))
        if rule.get("keep", "whole") != "whole":
            out.append(((*where, "keep"), f"keep in groups.{pattern!r} can only be \"whole\""))
    return out


def _value_problems(table: str, key: str, value: Any) -> list[str]:
    kind = _TABLES[table].get(key)
    if kind is None:
        return [f"unknown key {table}.{key}; {did_you_mean(key, _TABLES[table])}"]
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, (int, float) if kind is float else kind):
        return [f"{table}.{key} must be {_KINDS[kind]}, not {value!r}"]
    allowed, fits = _RANGES.get(key, ("", lambda _: True))
    return [] if fits(value) else [f"{table}.{key} must be {allowed}, not {value!r}"]


def _contradictions(data: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with settings that are right one by one."""
    from autoprune.recover.recovery import Recovery

    try:
        Recovery.of(data.get("recover", {}), data.get("schedule", {}))
    except ConfigError as error:
        return [(("schedule",) if "schedule" in data else ("recover",), " ".join(str(error).split()))]
    return []


def _method_problems(names: Any, where: tuple[str, ...]) -> list[Problem]:
    from autoprune.methods.registry import method_names, registered

    known = method_names()
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        return [(where, f"{'.'.join(where)} must be a list of at least one name")]
    out: list[Problem] = []
    for name in names:
        if ":" not in name and name not in known:
            out.append(((*where, name), f"unknown method {name!r}; {did_you_mean(name, known)}"))
        elif ":" in name:
            try:
                registered(name)
            except ConfigError as error:
                out.append(((*where, name), " ".join(str(error).split())))
    return out


def _ranking_problems(value: Any, methods: Any) -> list[Problem]:
    from autoprune.methods.ranked import SCOPES

    where = ("search", "rankings")
    if not isinstance(value, list) or not all(isinstance(r, Mapping) and r.keys() == _RANKING for r in value):
        return [(where, 'search.rankings must be a list of tables such as { scope = "global", method = "taylor" }')]
    out: list[Problem] = []
    for ranking in value:
        if ranking["scope"] not in SCOPES:
            out.append((where, f"unknown scope {ranking['scope']!r} in search.rankings; "
                               f"{did_you_mean(str(ranking['scope']), SCOPES)}"))
        if ranking["method"] not in methods:
            out.append((where, f"search.rankings ranks by {ranking['method']!r}, which is not among methods"))
    return out


def _precision_problems(data: Mapping[str, Any]) -> list[Problem]:
    names = data.get("precisions", ["fp32"])
    if names not in (["fp32"], ["fp32", "int8"]):
        return [(("precisions",), f'precisions must be ["fp32"] or ["fp32", "int8"], not {names!r}')]
    if "int8" in names and data.get("recover", {}).get("calibration_batches") == 0:
        return [(("recover", "calibration_batches"), "int8 needs calibration data: recover.calibration_batches must be "
                                                     "at least 1")]
    return []


def _keep_problems(value: Any, where: tuple[str, ...]) -> list[Problem]:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        return [(where, f"min_keep must be in (0, 1], not {value!r}")]
    return []
