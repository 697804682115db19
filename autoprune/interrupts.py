"""Ctrl-C (and what is treated like it) neither in the middle of a write nor lost.

Python raises KeyboardInterrupt wherever the main thread is. In a database's transaction that leaves it open, and the
database locked; in a finaliser or the callback of a weak reference the exception is printed and forgotten.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["INTERRUPTS", "noted_interrupts", "uninterrupted"]

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """An interrupt that comes inside is raised at its end, a second one at once (what is done inside may hang). A mask
    would not do: another thread takes the signal then, and Python raises it in this one all the same. Elsewhere than in
    the main thread nothing happens.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []
    before = {number: handler for number, handler in _handlers().items() if handler is not signal.SIG_IGN}

    def wait(number: int, frame: Any) -> None:
        if seen and callable(before[number]):
            before[number](number, frame)
        seen.append(number)

    try:
        _install(dict.fromkeys(before, wait))
        yield
    finally:
        _install(before)
        for late in seen[:1]:
            signal.raise_signal(late)


@contextmanager
def noted_interrupts() -> Iterator[list[int]]:
    """The signals that came inside and whose handlers raised KeyboardInterrupt, in a list that grows: who looks at it
    now and then misses none, whatever became of the exception. Elsewhere than in the main thread it stays empty.
    """
    seen: list[int] = []
    in_main = threading.current_thread() is threading.main_thread()
    before = {number: handler for number, handler in _handlers().items() if in_main and callable(handler)}

    def note(number: int, frame: Any) -> None:
        try:
            before[number](number, frame)
        except KeyboardInterrupt:
            seen.append(number)
            raise

    try:
        _install(dict.fromkeys(before, note))
        yield seen
    finally:
        _install(before)


def _handlers() -> dict[int, Any]:
    """Those of the program, which may be SIG_DFL; SIG_DFL also for one that Python did not install."""
    return {number: signal.getsignal(number) or signal.SIG_DFL for number in INTERRUPTS}


def _install(handlers: Mapping[int, Any]) -> None:
    """All of them, also when a signal comes in between."""
    problem: BaseException | None = None
    for number, handler in handlers.items():
        try:
            signal.signal(number, handler)
        except KeyboardInterrupt as error:  # raised by a handler that is in place already
            signal.signal(number, handler)
            problem = error
    if problem is not None:
        raise problem
