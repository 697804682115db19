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

INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Interrupts that come inside are raised at its end. (A mask would not do: another thread takes the signal then,
    and Python raises it in this one all the same.) Elsewhere than in the main thread nothing happens.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []
    before = {number: signal.signal(number, lambda number, _: seen.append(number)) for number in INTERRUPTS}
    try:
        yield
    finally:
        _restore(before)
        for late in seen:
            signal.raise_signal(late)


@contextmanager
def noted_interrupts() -> Iterator[list[int]]:
    """The signals that come inside and that Python handles, in a list that grows: who looks at it now and then misses
    none, whatever became of the exception. Elsewhere than in the main thread it stays empty.
    """
    seen: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        seen.append(number)
        before[number](number, frame)

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in INTERRUPTS if callable(signal.getsignal(number))}
    try:
        for number in before:
            signal.signal(number, note)
        yield seen
    finally:
        _restore(before)


def _restore(handlers: Mapping[Any, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
