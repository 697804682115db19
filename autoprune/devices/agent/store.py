"""Files sent to the agent, kept by their content's hash."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autoprune.devices.agent.refused import Refused

__all__ = ["Cache"]


class Cache:
    """Files by SHA-256 in one folder; the oldest go when it would hold more than `limit` bytes."""

    def __init__(self, folder: str | None, limit: int):
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.folder, self.limit = Path(folder) if folder else base / "autoprune" / "models", limit
        self.needed: set[str] = set()

    def path(self, sha256: str) -> Path:
        """Where a file is or would be. Raises `Refused` for what is no hash."""
        if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
            raise Refused("model", f"not a SHA-256: {sha256!r}")
        return self.folder / sha256

    def existing(self, sha256: str) -> str:
        """The path of a file that is here. Raises `Refused` when it is not."""
        if not self.path(sha256).is_file():
            raise Refused("missing", sha256)
        return str(self.path(sha256))

    def missing(self, files: dict[str, int]) -> list[str]:
        """Those of `files` (hash → bytes) that are not here, and keep the others."""
        self.needed = set(files)
        absent = []
        for sha256, size in files.items():
            try:
                here = self.path(sha256).stat().st_size == size
            except OSError:
                here = False
            if here:
                with contextlib.suppress(OSError):
                    os.utime(self.path(sha256))
            else:
                absent.append(sha256)
        return absent

    def put(self, sha256: str, size: int, source: Any) -> None:
        """Store `size` bytes of `source`; all of them are read whatever happens, and a file is complete or absent.

        Raises `Refused` when the disk is full or the content has another hash, `EOFError` when `source` ends.
        """
        digest = hashlib.sha256()
        body = _chunks(source, size, digest)
        partial = self.folder / f"{os.getpid()}.part"
        try:
            target = self.path(sha256)
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(size)
            with open(partial, "wb") as handle:
                for chunk in body:
                    handle.write(chunk)
            if digest.hexdigest() != sha256:
                raise Refused("missing", f"{sha256} arrived damaged")
            os.replace(partial, target)
        except OSError as error:
            raise Refused("disk", f"{size} bytes do not fit in {self.folder}: {error.strerror or error}") from error
        finally:
            for _ in body:  # what is left of the file is no request
                pass
            with contextlib.suppress(OSError):
                partial.unlink()

    def _make_room(self, size: int) -> None:
        """Delete the oldest files that nobody needs now until `size` bytes fit under the limit, and into the free half
        of the disk.
        """
        files = []
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another agent of this user makes room too
                files.append((path.stat().st_mtime, path.stat().st_size, path))
        total = sum(stored for _, stored, _ in files)
        limit = min(self.limit, (shutil.disk_usage(self.folder).free + total) // 2)
        for _, stored, path in sorted(files):
            if total + size > limit and path.name not in self.needed:
                total -= stored
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()


def _chunks(source: Any, size: int, digest: Any) -> Iterator[bytes]:
    while size:
        chunk = source.read(min(size, 1 << 20))
        if not chunk:
            raise EOFError
        size -= len(chunk)
        digest.update(chunk)
        yield chunk
