"""A process that runs the agent, seen from the search: start, one request at a time, timeout, crash, restart."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from autoprune.devices.agent import source
from autoprune.errors import ConfigError, DeviceError, UnmeasurableError

__all__ = ["BOOTSTRAP", "WorkerLost", "WorkerProcess", "local_worker"]

BOOTSTRAP = ("import sys; sys.path[:] = [p for p in sys.path if p]; b = sys.stdin.buffer; "
             "exec(b.read(int(b.readline())))")
"""What Python is started with, anywhere: it reads the length of a Python text and the text from stdin, and runs it.

Imports nothing from the folder it happens to start in, and holds no character that a shell would change in "…".
"""
_LONGEST_ANSWER = 4_000_000
_SLOWEST_LINK = 200_000  # bytes per second


class WorkerLost(DeviceError):
    """The process died, or did not answer in time: another try, with a fresh one, may work."""


class WorkerProcess:
    """One process that speaks the agent's JSON lines. Started by the first `ask`, and again by the next `ask` after a
    crash or a timeout.

    `command` starts a Python with `BOOTSTRAP`, which is handed `text` to run. `died(exit code or None, last words)`
    tells what its death means, or None where that is just `WorkerLost`.
    """

    def __init__(self, command: Sequence[str], text: str,
                 died: Callable[[int | None, str], DeviceError | None] | None = None):
        self._command, self._text, self._explain = list(command), text.encode(), died
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._asked = 0

    @property
    def pid(self) -> int | None:
        """Process id while it runs, else None."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def ask(self, request: dict[str, Any], timeout_s: float, payload: bytes = b"") -> dict[str, Any]:
        """Send one request (and the raw bytes that follow it), wait for its answer.

        Raises `WorkerLost` when the process dies or does not answer within `timeout_s` seconds (plus what a slow link
        takes for the payload), `DeviceError` when it answers nonsense or refuses. After the first two the next call
        starts a fresh process.
        """
        process = self._start()
        self._asked += 1
        until = time.monotonic() + timeout_s + len(payload) / _SLOWEST_LINK
        self._send(process, json.dumps({**request, "id": self._asked}).encode() + b"\n", until, timeout_s)
        self._send(process, payload, until, timeout_s)
        line = self._receive(process, until, timeout_s)
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or answer.get("id") != self._asked or not isinstance(answer.get("ok"), bool):
            self.close()
            raise DeviceError("the measuring process answered with something that is no answer to its question",
                              given=repr(line[:200].decode(errors="replace")),
                              fix="if this is what the device's shell prints at login, print it only to a terminal")
        if answer["ok"]:
            return answer
        raise _refusal(str(answer.get("kind")), _plain(str(answer.get("error"))[:600]))

    def _send(self, process: subprocess.Popen[bytes], data: bytes, until: float, timeout_s: float) -> None:
        assert process.stdin is not None
        view = memoryview(data)
        while view:
            if not select.select([], [process.stdin], [], max(0.0, until - time.monotonic()))[1]:
                raise self._too_long(timeout_s)
            try:
                view = view[os.write(process.stdin.fileno(), view[:65536]):]
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._died("before it took the model") from error

    def _receive(self, process: subprocess.Popen[bytes], until: float, timeout_s: float) -> bytes:
        assert process.stdout is not None
        buffer = b""
        while b"\n" not in buffer:
            if not select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
                raise self._too_long(timeout_s)
            chunk = os.read(process.stdout.fileno(), 1 << 20)
            if not chunk:
                raise self._died("before it answered")
            buffer += chunk
            if len(buffer) > _LONGEST_ANSWER:
                self.close()
                raise DeviceError("the measuring process answered with too much text",
                                  given=repr(buffer[:200].decode(errors="replace")),
                                  allowed=f"{_LONGEST_ANSWER} bytes", fix="measure again")
        return buffer

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        self._errors = tempfile.TemporaryFile(prefix="autoprune-worker-")  # noqa: SIM115 - closed in close()
        try:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0,
                start_new_session=True)  # Ctrl-C goes to the search, which closes the worker in its own time
        except OSError as error:
            self.close()
            raise ConfigError(f"cannot start {self._command[0]}", given=error.strerror or str(error),
                              fix=f"install {self._command[0]}") from error
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self._send(self._process, b"%d\n" % len(self._text) + self._text, time.monotonic() + 60, 60)
        return self._process

    def _too_long(self, timeout_s: float) -> DeviceError:
        self.close()
        return WorkerLost(f"measuring took longer than {timeout_s:g} s and was stopped",
                          given=f"timeout_s={timeout_s:g}", fix="raise timeout_s, or measure a smaller model")

    def _died(self, when: str) -> DeviceError:
        """What happened to the process, as an error; cleans up."""
        code, words = None, ""
        if self._process is not None:
            try:
                code = self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                code = None
        if self._errors is not None:
            self._errors.seek(0, os.SEEK_END)
            self._errors.seek(max(0, self._errors.tell() - 2000))
            words = _plain(self._errors.read().decode(errors="replace")).strip()
        self.close()
        explained = None if self._explain is None else self._explain(code, words)
        if explained is not None:
            return explained
        how = "ended" if code is None else f"exit code {code}" if code >= 0 else f"signal {_signal_name(-code)}"
        return WorkerLost(f"the measuring process died {when} ({how})",
                          given=words.splitlines()[-1] if words else "no message",
                          fix="`autoprune doctor`; a SIGKILL usually means too little memory, a SIGILL a wheel for "
                              "another processor")

    def close(self) -> None:
        """End the process; safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                try:
                    if pipe is not None:
                        pipe.close()
                except OSError:
                    pass
            try:
                process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # with what it may have started: it leads a session of its own
                process.wait()
        if self._errors is not None:
            self._errors.close()
            self._errors = None


def local_worker() -> WorkerProcess:
    """The agent on this machine, in the Python that runs this."""
    return WorkerProcess([sys.executable, "-c", BOOTSTRAP], source())


_REFUSALS: Mapping[str, tuple[type[DeviceError] | type[ConfigError], str, str]] = {
    "missing": (WorkerLost, "the device has lost a file that it was given", "measure again"),
    "setup": (DeviceError, "the device is not ready to be measured on", "docs/remote-devices.md"),
    "busy": (DeviceError, "another measurement holds the device", "wait for the other search, or stop it"),
    "disk": (DeviceError, "the device has no room for the model",
             "free some space there, or delete its cache folder"),
    "throttled": (DeviceError, "the device's chip was slowed down while it measured, twice",
                  "a heat sink or fan against heat, a stronger power supply against under-voltage"),
    "provider": (ConfigError, "onnxruntime on the device lacks the execution provider",
                 "pip install onnxruntime-gpu (instead of onnxruntime), with its CUDA and cuDNN"),
    "model": (UnmeasurableError, "the model could not be measured",
              "check it with onnx.checker.check_model and onnxruntime")}


def _refusal(kind: str, text: str) -> DeviceError | ConfigError:
    """The agent's refusal as an error that names the fix."""
    error, message, fix = _REFUSALS.get(kind, _REFUSALS["model"])
    return error(message, given=text, fix=fix)


def _plain(text: str) -> str:
    """Text of a device without what would steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
