"""Everything that can be wrong with a space file, each with the words that lead to its line."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from autoprune.errors import ConfigError, did_you_mean
from autoprune.methods.schedules import SCHEDULES

__all__ = ["RECOVER", "SCHEDULE", "Problem", "located", "problems_of"]

RECOVER: dict[str, type] = {"steps": int, "lr": float, "distill": float, "temperature": float, "weight_decay": float,
                             "calibration_batches": int, "precision": str, "distill_features": float, "patience": int,
                             "least_squares": bool, "start": str, "checkpoint": str}
SCHEDULE: dict[str, type] = {"kind": str, "cycles": int, "soft": bool, "penalty_steps": int, "l1_norms": float,
                              "group_lasso": float}
_TABLES = {"recover": RECOVER, "schedule": SCHEDULE}
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
_TOP = {"description", "methods", "min_keep", "precisions", "recover", "schedule", "masks", "search", "groups",
        "drop"}
_SEARCH = {"trials", "rankings", "halving"}
_RANKING = {"scope", "method"}
_GROUP = {"methods", "min_keep", "keep"}
_MASKS = {"pattern", "sparsity", "methods", "skip", "skip_unfit"}

Problem = tuple[tuple[str, ...], str]
"""The words that lead to it, from the table to the value, and what is wrong."""


def located(lines: list[str], where: tuple[str, ...]) -> str:
    """`line 3: `, of the text's `lines`: each word is looked for from the line of the word before it."""
    number = 0
    for word in where:
        pattern = re.compile(rf"(?<![\w:.-]){re.escape(word)}(?![\w:-])")
        found = next((i for i in range(number, len(lines))
                      if not lines[i].lstrip().startswith("#") and pattern.search(lines[i])), None)
        if found is None:
            return ""
        number = found
    return f"line {number + 1}: "


def problems_of(data: Mapping[str, Any]) -> list[Problem]:
    """Of a space file's contents, in no particular order; none when it is right."""
    out: list[Problem] = [((k,), f"unknown key {k!r}; {did_you_mean(k, _TOP)}") for k in data if k not in _TOP]
    if not isinstance(data.get("description", ""), str):
        out.append((("description",), "description must be text"))
    for section in (*_TABLES, "masks", "search", "groups"):
        if not isinstance(data.get(section, {}), Mapping):
            return [*out, ((section,), f"[{section}] must be a table")]
    out += _method_problems(data.get("methods", ["l1"]), ("methods",))
    out += _keep_problems(data.get("min_keep", 0.1), ("min_keep",))
    out += _precision_problems(data)
    drop = data.get("drop", [])
    if not isinstance(drop, list) or not all(isinstance(d, str) for d in drop):
        out.append((("drop",), "drop must be a list of names or patterns of residual branches"))
    for table in _TABLES:
        for key, value in data.get(table, {}).items():
            out += [((table, key), problem) for problem in _value_problems(table, key, value)]
    out = out or _contradictions(data)
    out += _mask_problems(data["masks"], data.get("recover", {})) if "masks" in data else []
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


def _mask_problems(table: Mapping[str, Any], recover: Mapping[str, Any]) -> list[Problem]:
    from autoprune.methods.masks.registry import element_criterion
    from autoprune.recover.sparsify import Recipe

    out: list[Problem] = [(("masks", k), f"unknown key masks.{k}; {did_you_mean(k, _MASKS)}") for k in table
                          if k not in _MASKS]
    for key in ("methods", "skip"):
        names = table.get(key, ["magnitude"])
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names) or not (names or key == "skip"):
            out.append((("masks", key), f"masks.{key} must be a list of names"))
    sparsity = table.get("sparsity")
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float | None):
        out.append((("masks", "sparsity"), f"masks.sparsity must be a number, not {sparsity!r}"))
    if not isinstance(table.get("skip_unfit", False), bool):
        out.append((("masks", "skip_unfit"), "masks.skip_unfit must be true or false"))
    if not isinstance(table.get("pattern", "weight"), str):
        out.append((("masks", "pattern"), "masks.pattern must be text"))
    if (start := recover.get("start", "keep")) != "keep":
        out.append((("masks",), f"masks are chosen by trained weights, which recover.start = {start!r} throws away"))
    for method in [] if out else dict.fromkeys(table.get("methods", ["magnitude"])):
        try:
            Recipe(sparsity, table.get("pattern", "weight"), method)
        except ConfigError as error:  # its fix is an option of the command line
            return [(("masks",), f"{error.message}: {error.given}" + (f"; {error.allowed}" if error.allowed else ""))]
        if element_criterion(method).needs and recover.get("calibration_batches") == 0:
            return [(("recover", "calibration_batches"), f"masks by {method} need calibration data: "
                                                         "recover.calibration_batches must be at least 1")]
    return out


def _keep_problems(value: Any, where: tuple[str, ...]) -> list[Problem]:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        return [(where, f"min_keep must be in (0, 1], not {value!r}")]
    return []
