"""Exporting without what torch logs, warns and prints about it."""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import warnings
from collections.abc import Iterator

__all__ = ["quiet"]

_ONE = threading.RLock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporters log, warn and print progress; errors are raised, and nothing else of it is for the user. One thread
    at a time: they keep their state in globals, and the streams are the process's.
    """
    _ONE.acquire()
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()),
              contextlib.redirect_stderr(io.StringIO())):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
        _ONE.release()
