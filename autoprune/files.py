"""Writing files that others may be reading, on disks that may be full."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.errors import ConfigError

if TYPE_CHECKING:
    import torch

__all__ = ["replace_file", "save_tensors", "writing"]


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


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file in one step. Raises `OSError`, as a disk that is full does everywhere else."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    temporary = path.with_name(path.name + ".tmp")
    try:
        save_file({name: t.detach().contiguous() for name, t in tensors.items()}, str(temporary))
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(temporary)) from error
    temporary.replace(path)
