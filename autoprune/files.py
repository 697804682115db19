"""Writing files that others may be reading, on disks that may be full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoprune.errors import ConfigError

__all__ = ["replace_file", "writing"]


@contextmanager
def writing(what: str, path: Path, size: int | None = None,
            fix: str = "free some space, then run the same command again") -> Iterator[None]:
    """An `OSError` inside becomes a `ConfigError`: `what` (to `path`, `size` bytes) cannot be written."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{what} cannot be written", given=f"{path}: {error.strerror or error}",
                          allowed=None if size is None else f"{size:,} bytes free", fix=fix) from error


def replace_file(path: Path, content: str | bytes) -> None:
    """Write `path` (text as UTF-8) in one step: who reads it sees the old file or the new one, never half of it.

    Raises `OSError`.
    """
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.replace(path)
