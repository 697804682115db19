"""The agent's loop: one request per line, one answer per line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from autoprune.devices.agent.facts import governor, hello, pin_to_big_cores
from autoprune.devices.agent.refused import Refused
from autoprune.devices.agent.store import Cache
from autoprune.devices.agent.timing import nodes, runner, turn, unthrottled

__all__ = ["Agent", "main", "serve"]


class Agent:
    """What lives from one request to the next: the stored files, and the dense model's session."""

    def __init__(self) -> None:
        self._cache = Cache(None, 0)
        self._kept: tuple[str, Callable[[], None]] | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request. Raises whatever goes wrong."""
        op = request["op"]
        if op == "hello":
            self._cache = Cache(request["cache"], request["cache_bytes"])
            return hello()
        if op == "has":
            return {"missing": self._cache.missing(request["files"])}
        if op == "put":
            self._cache.put(request["sha256"], request["size"], sys.stdin.buffer)
            return {}
        if op == "measure":
            with turn(request["wait_s"]):
                return self._measure(request)
        raise ValueError(f"unknown op {op!r}")

    def _measure(self, request: dict[str, Any]) -> dict[str, Any]:
        import onnxruntime as ort

        inputs = None if request["inputs"] is None else self._cache.existing(request["inputs"])
        candidate = self._cache.existing(request["candidate"])
        runners = [runner(candidate, inputs, request)]
        if request["reference"] is not None:
            key = json.dumps([request[k] for k in ("reference", "inputs", "threads", "provider")])
            if self._kept is None or self._kept[0] != key:  # the dense model is the same for a whole search
                self._kept = None  # never two of them in memory
                self._kept = key, runner(self._cache.existing(request["reference"]), inputs, request)
            runners.append(self._kept[1])
        found = unthrottled(runners, request)
        times = nodes(candidate, inputs, request) if request["profile_runs"] else []
        return {**found, "nodes": times, "runtime_version": ort.__version__, "governor": governor()}


def main() -> None:
    """Be the agent until stdin closes."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime 1.31 sends some, from Linux too
    pin_to_big_cores()
    serve(Agent().answer)


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer the requests on stdin with `answer`, until stdin closes."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not land between the answers
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            found = {"id": request["id"], "ok": True, **answer(request)}
        except EOFError:
            return
        except Exception as error:  # the runtime raises many classes; all of them cost one candidate only
            kind = error.kind if isinstance(error, Refused) else "model"
            text = str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
            found = {"id": request["id"], "ok": False, "kind": kind, "error": text[:2000]}
        lines.write(json.dumps(found) + "\n")
        lines.flush()
