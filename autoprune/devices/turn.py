"""One measurement at a time per user and machine: two searches that time at once would both be wrong."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoprune.errors import DeviceError

__all__ = ["machine_lock"]


@contextmanager
def machine_lock(timeout_s: float) -> Iterator[None]:
    """Hold this user's measuring lock; the system releases it if the process dies.

    Raises `DeviceError` when another process holds it for longer than `timeout_s` seconds. Where there is no `fcntl`
    or no writable temporary folder, nothing is locked.
    """
    try:
        import fcntl

        path = Path(tempfile.gettempdir()) / f"autoprune-measure-{os.getuid()}.lock"
        handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except (ImportError, AttributeError, OSError):
        yield
        return
    try:
        until = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > until:
                    raise DeviceError(f"another measurement has held this machine for {timeout_s:g} s",
                                      given=str(path), fix="wait for the other search, or stop it") from error
                time.sleep(0.02)
        yield
    finally:
        os.close(handle)
