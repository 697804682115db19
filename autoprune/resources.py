"""Where the files that ship with autoprune are: `devices/*.toml` and `search_spaces/*.toml`.

In a checkout they are top-level folders; in the wheel they lie under `autoprune/_data/`.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["folder"]

_PACKAGE = Path(__file__).resolve().parent


def folder(name: str) -> Path:
    """The folder of shipped files called `name` ("devices" or "search_spaces")."""
    packed = _PACKAGE / "_data" / name
    return packed if packed.is_dir() else _PACKAGE.parent / name
