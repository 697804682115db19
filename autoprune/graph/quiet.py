"""Exporting without what torch logs, warns and prints about it."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator

__all__ = ["quiet"]

_ONE = threading.RLock()


def _anew() -> None:
    """A forked process has none of the threads that may hold it."""
    global _ONE
    _ONE = threading.RLock()


os.register_at_fork(after_in_child=_anew)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporters log, warn and print progress; errors are raised, and nothing else of it is for the user. One thread
    at a time: they keep their state in globals, and the streams are the process's.
    """
    one = _ONE
    one.acquire()
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()),
              contextlib.redirect_stderr(io.StringIO())):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
        one.release()
