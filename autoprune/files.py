"""Writing files that others may be reading."""

from __future__ import annotations

from pathlib import Path

__all__ = ["replace_file"]


def replace_file(path: Path, content: str | bytes) -> None:
    """Write `path` (text as UTF-8) in one step: who reads it sees the old file or the new one, never half of it.

    Raises `OSError`.
    """
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.replace(path)
