"""The worker process seen from the search: start, one request at a time, timeout, crash, restart."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from autoprune.errors import DeviceError

__all__ = ["WorkerProcess"]


class WorkerProcess:
    """One `ort_worker`. Started on the first `ask`, restarted by the next `ask` after a crash or a timeout."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._asked = 0

    @property
    def pid(self) -> int | None:
        """Process id while it runs, else None."""
        return None if self._process is None else self._process.pid

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send one request, wait for its answer.

        Raises `DeviceError` when the worker crashes (with the signal and its last words), does not answer within
        `timeout_s` seconds, answers nonsense, or reports an error. The next call then starts a fresh worker.
        """
        process = self._start()
        self._asked += 1
        line = json.dumps({**request, "id": self._asked}) + "\n"
        try:
            assert process.stdin is not None
            process.stdin.write(line.encode())
            process.stdin.flush()
        except (BrokenPipeError, OSError) as error:
            raise self._died("before it took the model") from error
        answer = self._answer(process, timeout_s)
        if answer.get("id") != self._asked:
            self.close()
            raise DeviceError("the measuring process answered out of turn", given=str(answer)[:200],
                              fix="measure again")
        if answer.get("ok") is not True:
            raise DeviceError("the model could not be measured", given=str(answer.get("error"))[:600],
                              fix="check it with onnx.checker.check_model and onnxruntime")
        return answer

    def _answer(self, process: subprocess.Popen[bytes], timeout_s: float) -> dict[str, Any]:
        assert process.stdout is not None
        until, buffer = time.monotonic() + timeout_s, b""
        while b"\n" not in buffer:
            left = until - time.monotonic()
            ready = select.select([process.stdout], [], [], max(0.0, left))[0] if left > 0 else []
            if not ready:
                self.close()
                raise DeviceError(f"measuring took longer than {timeout_s:g} s and was stopped",
                                  given=f"timeout_s={timeout_s:g}", fix="raise timeout_s, or measure a smaller model")
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                raise self._died("while it measured")
            buffer += chunk
            if len(buffer) > 1_000_000:
                self.close()
                raise DeviceError("the measuring process answered with too much text", fix="measure again")
        try:
            answer = json.loads(buffer)
        except ValueError as error:
            self.close()
            raise DeviceError("the measuring process answered with something that is not JSON",
                              given=buffer[:200].decode(errors="replace"), fix="measure again") from error
        return answer if isinstance(answer, dict) else {}

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        package = str(Path(__file__).resolve().parents[2])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._errors = tempfile.TemporaryFile(prefix="autoprune-worker-")  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "autoprune.devices.ort_worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._errors, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True)  # Ctrl-C goes to the search, which closes the worker in its own time
        return self._process

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
            words = self._errors.read().decode(errors="replace").strip()
        self.close()
        how = "ended" if code is None else f"exit code {code}" if code >= 0 else f"signal {_signal_name(-code)}"
        return DeviceError(f"the measuring process died {when} ({how})",
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
                process.kill()
                process.wait()
        if self._errors is not None:
            self._errors.close()
            self._errors = None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
