"""How the text of a SPEC becomes an object: `pkg.mod:name`, `path/file.py:name`, `name?key=value&key=value`.

Loading a SPEC runs the code it names. Nothing is ever evaluated as an expression.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from autoprune.errors import TaskError, did_you_mean

__all__ = ["call_object", "load_object", "object_name", "parse_options", "user_error"]


def load_object(spec: str) -> Any:
    """The object that `pkg.mod:name` or `path/file.py:name` names; `name` may be dotted.

    The folder of the file, or the current one for a module, is put last on `sys.path`, so that siblings import. The
    same unchanged file is run once per process. `TaskError` when the file, the module or the name is missing (with the
    nearest names), or when importing raises (with the user's exception and the line it came from).
    """
    where, colon, name = spec.rpartition(":")
    if not colon or not where or not name:
        raise TaskError("the SPEC does not name an object", given=repr(spec),
                        allowed="pkg.module:name or path/file.py:name", fix=f"{spec.strip(':') or 'file.py'}:name")
    is_file = where.endswith(".py") or os.sep in where
    found: Any = _module_of_file(where, spec) if is_file else _module_of_name(where, spec)
    for part in name.split("."):
        if not hasattr(found, part):
            public = [known for known in vars(found) if not known.startswith("_")] if hasattr(found, "__dict__") else []
            raise TaskError(f"{where} has no {name!r}", given=spec, allowed=did_you_mean(part, public),
                            fix="name a function or object that the file defines")
        found = getattr(found, part)
    return found


def call_object(function: Any, spec: str, what: str) -> Any:
    """`function()`; whatever it raises becomes a `TaskError` that shows it. `what`: "the model factory", …"""
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise user_error(error, f"{what} raised an exception", spec) from error


def user_error(error: BaseException, message: str, spec: str,
               fix: str = "correct that line, then run the same command again") -> TaskError:
    """A `TaskError` with the exception's type and text and the last line of its traceback in the user's own files."""
    here = str(Path(__file__).resolve().parent)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)
              if not frame.filename.startswith((here, "<frozen"))]
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    place = f"\n           {own[-1].filename}:{own[-1].lineno}, in {own[-1].name}: {own[-1].line}" if own else ""
    return TaskError(message, given=f"{spec}\n           {type(error).__name__}: {error}{place}", fix=fix)


def object_name(found: Any) -> str:
    """`module:name` of a function, or of an object's class; never the bare name of something built in."""
    named = found if hasattr(found, "__qualname__") else type(found)
    return f"{named.__module__}:{named.__qualname__}"


def parse_options(spec: str, defaults: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Split `name?key=value&key=value`; values take the type of their default (a default of None means text).

    Returns the name and all options. `TaskError` for an unknown key (with the nearest) or a value of the wrong type.
    """
    name, _, tail = spec.partition("?")
    options = dict(defaults)
    for pair in filter(None, tail.split("&")):
        key, equals, text = pair.partition("=")
        if key not in defaults:
            raise TaskError(f"unknown option {key!r}", given=spec, allowed=did_you_mean(key, defaults),
                            fix=f"{name}?" + "&".join(f"{known}=…" for known in sorted(defaults)))
        default = defaults[key]
        try:
            if not equals:
                raise ValueError("no value")
            options[key] = {"true": True, "false": False}[text.lower()] if isinstance(default, bool) else (
                text if default is None else type(default)(text))
        except (ValueError, KeyError):
            kind = {bool: "true or false", type(None): "text"}.get(type(default), type(default).__name__)
            raise TaskError(f"option {key!r} has no usable value", given=spec, allowed=f"{key}={kind}",
                            fix=f"{name}?{key}={default}") from None
    return name, options


def _module_of_file(where: str, spec: str) -> ModuleType:
    path = Path(where).expanduser().resolve()
    if not path.is_file():
        near = [item.name for item in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise TaskError("the file does not exist", given=f"{spec} → {path}", allowed=did_you_mean(path.name, near),
                        fix=f"ls {path.parent}")
    stat = path.stat()
    version = hashlib.sha256(f"{path}|{stat.st_mtime_ns}|{stat.st_size}".encode()).hexdigest()[:12]
    name = f"_autoprune_user_{path.stem}_{version}"
    if name in sys.modules:
        return sys.modules[name]
    _importable(path.parent)
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise TaskError("the file is not a Python file", given=spec, allowed="path/file.py:name",
                        fix="give the file the ending .py")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # before running it: dataclasses look their own module up
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _import_error(error, where, spec) from error
    return module


def _module_of_name(where: str, spec: str) -> ModuleType:
    _importable(Path.cwd())
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name and (where == error.name or where.startswith(error.name + ".")):
            raise TaskError(f"there is no module {error.name!r}", given=spec,
                            allowed="an installed module, one in the current folder, or path/file.py:name",
                            fix=f"check with: python -c 'import {where}'") from error
        raise _import_error(error, where, spec) from error
    except (Exception, SystemExit) as error:
        raise _import_error(error, where, spec) from error


def _import_error(error: BaseException, where: str, spec: str) -> TaskError:
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return TaskError(f"{where} imports {error.name!r}, which is not installed", given=spec,
                         fix=f"install the package that provides {package!r}, for example: pip install {package}")
    if isinstance(error, SyntaxError):
        return TaskError(f"{where} is not valid Python", given=f"{spec}\n           {error}", fix="correct that line")
    if isinstance(error, SystemExit):  # a script: it would have ended this process, as if all were well
        return user_error(error, f"{where} ends the process while it is imported", spec,
                          fix='put what runs the script under `if __name__ == "__main__":`')
    return user_error(error, f"{where} raised an exception while it was imported", spec)


def _importable(folder: Path) -> None:
    """Put a folder last on `sys.path`: a user's own modules import, and none of them hides an installed one."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
