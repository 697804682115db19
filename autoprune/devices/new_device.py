"""A device file for a board that nobody has priced: another board's profile with its own facts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from autoprune.devices.device import Device, ErrorFigures, Fact, ProfileConstants, list_devices
from autoprune.devices.toml_file import at_most, device_text
from autoprune.errors import ConfigError

__all__ = ["check_name", "derive", "write_device"]

_GIVEN = "given on the command line"


def check_name(name: str) -> None:
    """Raises `ConfigError` for what is no name of a device, and for one that ships with autoprune."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) is None or name.endswith(".toml"):
        raise ConfigError("not a device name", given=repr(name), allowed="letters, digits, '.', '-' and '_'",
                          fix="a name such as mine; the file will be mine.toml")
    if name in {d.name for d in list_devices()}:
        raise ConfigError("a device of this name ships with autoprune", given=repr(name), allowed="any other name",
                          fix=f"my-{name}")


def derive(name: str, like: Device, facts: Mapping[str, float | bool], *, threads: int | None = None,
           description: str | None = None) -> Device:
    """A profile like `like`, with other `facts` (keys of `ProfileConstants`; units as there).

    `threads` None means all cores where `facts` names them, else as many as `like`. What `like` measured or learnt of
    its own board (its facts, a narrow interval) is left behind: the interval is at least as wide as the widest of the
    shipped profiles of that runtime.

    Raises `ConfigError` for a name that a shipped device has or that is none, for a `like` that is not a profile, and
    for facts that are unknown, out of range, or do not fit one another.
    """
    shipped = list_devices()
    check_name(name)
    if like.kind != "profile" or like.profile is None or like.error is None:
        raise ConfigError(f"{like.name} is measured, so it has no facts to start from", given=f"--like {like.name}",
                          allowed=", ".join(d.name for d in shipped if d.kind == "profile"), fix="--like rpi4")
    profile = replace(like.profile, **_checked(facts))
    used = threads if threads is not None else profile.cores if "cores" in facts else like.threads or profile.cores
    if not 1 <= used <= profile.cores:
        raise ConfigError("more threads than cores", given=f"{used} threads, {profile.cores} cores",
                          allowed=f"1 to {profile.cores}", fix=f"--threads {profile.cores}")
    changed = {**facts, **({} if threads is None else {"threads": threads})}
    widest = max((d for d in [like, *shipped] if d.error is not None and d.runtime == like.runtime),
                 key=lambda d: d.error.hi_ratio / d.error.lo_ratio if d.error is not None else 0.0)
    return replace(
        like, name=name, description=description or f"like {like.resolved}, with facts of its own", threads=used,
        alias_of=None, announce="", profile=profile, error=_as_wide_as(widest),
        facts={"like": Fact(like.resolved, _GIVEN), **{k: Fact(v, _GIVEN) for k, v in changed.items()}})


def _checked(facts: Mapping[str, float | bool]) -> dict[str, Any]:
    kinds = {f.name: str(f.type) for f in fields(ProfileConstants)}
    for key, value in facts.items():
        if key not in kinds:
            raise ConfigError("unknown fact of a profile", given=repr(key), allowed=", ".join(sorted(kinds)))
        if kinds[key] == "bool":
            good, allowed = isinstance(value, bool), "True or False"
        else:
            whole = kinds[key] == "int"
            good = isinstance(value, int if whole else int | float) and 0 < value <= at_most(key)
            allowed = f"a {'whole ' if whole else ''}number above 0, {at_most(key):g} at most"
        if not good:
            raise ConfigError(f"{key} is out of range", given=repr(value), allowed=allowed,
                              fix=f"another --{key.replace('_', '-')}")
    return dict(facts)


def _as_wide_as(device: Device) -> ErrorFigures:
    assert device.error is not None
    return replace(device.error, source="never compared with a measurement; the interval is that of "
                                        f"{device.resolved}, the widest of the profiles")


def _toml(device: Device) -> str:
    """A device that `derive` made, as the text of a device file."""
    assert device.profile is not None
    assert device.error is not None
    own = [key for key in device.facts if key not in ("like", "threads")]
    source = f"as {device.facts['like'].value}, but for what was {_GIVEN}: {', '.join(own) or 'nothing'}"
    tables = {
        "runtime": {"name": device.runtime, "version": device.runtime_version, "provider": device.provider,
                    "precision": device.precision},
        "profile": {**asdict(device.profile), "source": source}, "error": asdict(device.error),
        **{f"facts.{key}": asdict(fact) for key, fact in device.facts.items()}}
    top = {"schema": 1, "name": device.name, "kind": device.kind, "description": device.description,
           "threads": device.threads, "align": device.align, "sparsity": list(device.sparsity)}
    return device_text(top, tables)


def write_device(device: Device, path: Path, *, force: bool = False) -> None:
    """Write a device that `derive` made.

    Raises `ConfigError` where there is a file already (unless `force`) or none can be written.
    """
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(_toml(device))
    except FileExistsError as error:
        raise ConfigError("the device file is there already", given=str(path), allowed="a new name, or --force to "
                          "replace it", fix=f"autoprune devices show {path}") from error
    except OSError as error:
        raise ConfigError("the device file cannot be written", given=f"{path}: {error.strerror or error}",
                          fix="run it in a folder that you may write to") from error
