"""One live line on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoprune.search.outcome import Progress

__all__ = ["ProgressLine", "describe", "duration"]


def duration(seconds: float | None) -> str:
    """`47 s`, `3:05`, `1:02:03`, or `?`."""
    if seconds is None:
        return "?"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def describe(p: Progress) -> str:
    """`12/36 candidates, 7 within budget, best 98.6 % at 18.2 ms, 6 on the front, 2:31 left`."""
    best = "none yet"
    if p.best is not None and p.best.score is not None:
        best = f"{_value(p.best.score.value, p.best.score.metric)} at {p.best.ms:.3g} ms"
    return (f"{p.done}/{p.total} candidates, {p.feasible} within budget, best {best}, {p.front} on the front, "
            f"{duration(p.left_s)} left")


def _value(value: float, metric: str) -> str:
    return f"{100 * value:.1f} %" if metric in ("accuracy", "top5", "f1", "miou", "token_accuracy") else f"{value:.4g}"


class ProgressLine:
    """Rewrites one line on a terminal; elsewhere writes a line per candidate."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._start = time.monotonic()

    def stage(self, text: str) -> None:
        """Something slow starts that is no candidate."""
        self._show(f"{text} …")

    def update(self, p: Progress) -> None:
        line = describe(p)
        if not self._live and p.last is not None:
            c = p.last
            outcome = f"{c.latency}, {c.score}" if c.status == "ok" else f"failed: {c.reason}"
            line = f"[{duration(p.elapsed_s)}] trial {c.number} ({c.origin}): {outcome} | {line}"
        self._show(line)

    def _show(self, text: str) -> None:
        if self._live:
            sys.stderr.write("\r\x1b[K" + text)
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
