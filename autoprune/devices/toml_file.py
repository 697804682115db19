"""Device files: reading one, with every problem at once and its line; and the text of one."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.config import to_toml
from autoprune.devices.address import Address
from autoprune.errors import ConfigError, did_you_mean

__all__ = ["at_most", "device_text", "read_device_file"]

_KINDS = ("measured-local", "measured-remote", "calibrated", "profile")
_TEXT, _WHOLE, _NUMBER, _FLAG = "text", "a whole number", "a number", "true or false"
_LIST, _TABLE = "a list", "a table"
_TOP = {"schema": _WHOLE, "name": _TEXT, "kind": _TEXT, "address": _TEXT, "description": _TEXT, "announce": _TEXT,
        "threads": _WHOLE, "align": _WHOLE, "sparsity": _LIST, "runtime": _TABLE, "facts": _TABLE, "profile": _TABLE,
        "roofline": _TABLE, "calibration": _TABLE, "error": _TABLE}
_ALIAS = {"schema": _WHOLE, "name": _TEXT, "alias_of": _TEXT, "announce": _TEXT, "description": _TEXT}
_RUNTIME = {"name": _TEXT, "version": _TEXT, "provider": _TEXT, "precision": _TEXT}
_PROFILE = {"costs": _TEXT, "value_bytes": _WHOLE, "cores": _WHOLE, "clock_ghz": _NUMBER, "fmla_per_cycle": _NUMBER,
            "issue_width": _NUMBER, "memcpy_gbs": _NUMBER, "in_order": _FLAG, "stall": _NUMBER,
            "in_order_factor": _NUMBER, "thread_exponent": _NUMBER, "k_act": _NUMBER, "k_weights": _NUMBER,
            "k_gemv": _NUMBER,
            "tau_us_ghz": _NUMBER, "source": _TEXT}
_ROOFLINE = {"peak_tflops": _NUMBER, "bandwidth_gbs": _NUMBER, "value_bytes": _WHOLE, "compute_efficiency": _NUMBER,
             "memory_efficiency": _NUMBER, "launch_us": _NUMBER, "call_us": _NUMBER, "source": _TEXT}
_ERROR = {"p50": _NUMBER, "p90": _NUMBER, "rows": _WHOLE, "lo_ratio": _NUMBER, "hi_ratio": _NUMBER, "source": _TEXT}
_CALIBRATION = {"kernels": _TEXT, "sha256": _TEXT, "threads": _WHOLE, "layout": _FLAG, "overhead_ms": _NUMBER,
                "probe_ms": _NUMBER, "nets": _WHOLE, "nodes": _WHOLE, "processor": _TEXT}
_MAY_BE_ZERO = {"overhead_ms", "align", "thread_exponent", "k_act", "k_weights", "k_gemv", "tau_us_ghz", "call_us",
                "p50", "p90"}
_AT_MOST = {"threads": 4096, "align": 4096, "value_bytes": 8, "cores": 4096, "clock_ghz": 20, "fmla_per_cycle": 100,
            "issue_width": 100, "memcpy_gbs": 1e5, "stall": 100, "in_order_factor": 100, "thread_exponent": 10,
            "k_act": 1000, "k_weights": 1000, "k_gemv": 1000, "tau_us_ghz": 1e6, "peak_tflops": 1e5,
            "bandwidth_gbs": 1e5, "compute_efficiency": 1, "memory_efficiency": 1, "launch_us": 1e6, "call_us": 1e6,
            "p50": 100, "p90": 100, "hi_ratio": 1000}  # beyond it is another unit: MHz, or percent


def read_device_file(path: Path) -> dict[str, Any]:
    """The checked content of a device file (an alias file has `alias_of`). `ConfigError` lists all problems."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the device file {path}", given=str(error),
                          fix="autoprune devices list") from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML", given=str(error),
                          fix="see devices/rpi4.toml for the layout") from error
    problems = _problems(data, text)
    if problems:
        raise ConfigError(f"{path} is not a device file: {len(problems)} problem(s)",
                          given="\n           ".join(problems), fix="see devices/rpi4.toml for the layout")
    return data


def at_most(key: str) -> float:
    """The largest that a number of this name may be."""
    return _AT_MOST.get(key, 1e9)


def device_text(top: Mapping[str, Any], tables: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of a device file: its keys without a table, then its tables by name. What is None is left out."""
    return "\n".join([to_toml(top), *(f"[{name}]\n{to_toml(table)}" for name, table in tables.items())])


def _problems(data: Mapping[str, Any], text: str) -> list[str]:
    if "alias_of" in data:
        return [*_check(data, _ALIAS, set(_ALIAS), "", text), *_schema(data, text)]
    optional = {"address", "announce", "threads", "align", "facts", "profile", "roofline", "calibration", "error"}
    found = [*_check(data, _TOP, set(_TOP) - optional, "", text), *_schema(data, text)]
    kind = data.get("kind")
    if isinstance(kind, str) and kind not in _KINDS:
        found.append(f"{_at(text, '', 'kind')}kind is {kind!r}; {did_you_mean(kind, _KINDS)}")
    if kind == "calibrated":
        found += [f"{key} is missing (a calibrated device needs it)" for key in ("calibration", "error")
                  if key not in data]
    if kind == "profile":
        found += [f"{key} is missing (a profile needs it)"
                  for key in ("threads", "align", "profile", "error")
                  if key not in data and not (key == "profile" and "roofline" in data)]
    for name, keys, may_miss in (("runtime", _RUNTIME, set() if kind == "profile" else {"version"}),
                                 ("profile", _PROFILE, set()), ("roofline", _ROOFLINE, set()),
                                 ("calibration", _CALIBRATION, set()), ("error", _ERROR, set())):
        if isinstance(data.get(name), dict):
            found += _check(data[name], keys, set(keys) - may_miss, name, text)
    facts = data.get("facts")
    for key, fact in (facts.items() if isinstance(facts, dict) else ()):
        good = isinstance(fact, dict) and set(fact) == {"value", "source"} and isinstance(fact["source"], str) \
            and isinstance(fact["value"], str | int | float)
        if not good:
            found.append(f"{_at(text, 'facts', key)}facts.{key} must be {{ value = …, source = \"…\" }}")
    patterns = data.get("sparsity")
    if isinstance(patterns, list) and not all(isinstance(p, str) for p in patterns):
        found.append(f"{_at(text, '', 'sparsity')}sparsity must be a list of texts")
    return [*found, *_address(data, text), *_order(data, text)]


def _address(data: Mapping[str, Any], text: str) -> list[str]:
    """What is wrong with the address: remote devices have one, calibrated ones may."""
    address, remote = data.get("address"), data.get("kind") == "measured-remote"
    if remote and address is None:
        return ["address is missing (kind measured-remote needs it)"]
    if address is not None and not remote and data.get("kind") != "calibrated":
        return [f"{_at(text, '', 'address')}address is for kinds measured-remote and calibrated only"]
    if isinstance(address, str):
        try:
            Address.parse(address)
        except ConfigError as error:
            return [f"{_at(text, '', 'address')}address: {error.message}; allowed: {error.allowed}"]
    return []


def _order(data: Mapping[str, Any], text: str) -> list[str]:
    """Numbers that must fit one another."""
    found = []
    error, profile, threads = data.get("error"), data.get("profile"), data.get("threads")
    if isinstance(error, dict) and _numbers(error, "lo_ratio", "hi_ratio") \
            and not error["lo_ratio"] <= 1 <= error["hi_ratio"]:
        found.append(f"{_at(text, 'error', 'lo_ratio')}error needs lo_ratio <= 1 <= hi_ratio")
    if isinstance(profile, dict) and _numbers(profile, "cores") and isinstance(threads, int) \
            and threads > profile["cores"]:
        found.append(f"{_at(text, '', 'threads')}threads is {threads}, profile.cores only {profile['cores']}")
    return found


def _numbers(table: Mapping[str, Any], *keys: str) -> bool:
    return all(_is(table.get(k), _NUMBER) for k in keys)


def _schema(data: Mapping[str, Any], text: str) -> list[str]:
    if data.get("schema", 1) == 1:
        return []
    return [f"{_at(text, '', 'schema')}schema is {data['schema']!r}; this autoprune reads schema 1"]


def _check(table: Mapping[str, Any], keys: Mapping[str, str], needed: set[str], where: str, text: str) -> list[str]:
    prefix = f"{where}." if where else ""
    found = [f"{prefix}{key} is missing" for key in keys if key in needed and key not in table]
    for key, value in table.items():
        at = _at(text, where, key)
        if key not in keys:
            found.append(f"{at}unknown key {prefix}{key}; {did_you_mean(key, keys)}")
        elif not _is(value, keys[key]):
            found.append(f"{at}{prefix}{key} must be {keys[key]}, not {value!r}")
        elif keys[key] in (_WHOLE, _NUMBER) and not (0 < value <= at_most(key) or (value == 0 and key in _MAY_BE_ZERO)):
            found.append(f"{at}{prefix}{key} is out of range: {value!r}, not above 0 and at most {at_most(key):g}")
    return found


def _is(value: Any, kind: str) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return {_TEXT: isinstance(value, str) and bool(value), _WHOLE: number and isinstance(value, int), _NUMBER: number,
            _FLAG: isinstance(value, bool), _LIST: isinstance(value, list), _TABLE: isinstance(value, dict)}[kind]


def _at(text: str, where: str, key: str) -> str:
    """`"line 12: "`, or nothing when the key cannot be found in the text."""
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line)
        if header is not None:
            table = header.group(1)
            if table == key and not where:
                return f"line {number}: "
        elif table == where and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return f"line {number}: "
    return ""
