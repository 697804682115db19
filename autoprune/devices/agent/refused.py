"""How the agent says no."""

from __future__ import annotations

__all__ = ["Refused"]


class Refused(Exception):
    """A request that cannot be met: `kind` is for programs, the text for people."""

    def __init__(self, kind: str, text: str):
        super().__init__(text)
        self.kind = kind
