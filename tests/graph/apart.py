"""A check in a process of its own: onnxruntime and the compilers behind it can abort, and that must fail one test."""

from __future__ import annotations

import multiprocessing
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

LIMIT_S = 600.0
"""A check takes seconds; one that takes this long hangs."""


def apart(check: Callable[..., Any], *arguments: Any) -> Any:
    """What `check` returns in a process of its own, with warnings as errors; raises `AssertionError` where it failed,
    ended the process or hung. `check` is a function of a module.
    """
    context = multiprocessing.get_context("forkserver")  # imports once, forks from there for every check
    context.set_forkserver_preload(["torch", "transformers", "onnx", "onnxscript", "onnxruntime"])
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(send, check, arguments))
    process.start()
    send.close()
    try:
        if not receive.poll(LIMIT_S):
            raise AssertionError(f"no answer after {LIMIT_S:.0f} s")
        value, error = receive.recv()
    except EOFError:
        process.join()
        raise AssertionError(f"the process ended with exit code {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
        receive.close()
        process.close()
    assert error is None, error
    return value


def _answer(send: Connection, check: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    warnings.simplefilter("error")
    try:
        answer = check(*arguments), None
    except BaseException:  # whatever it is, it is the parent's to report
        answer = None, traceback.format_exc()
    send.send(answer)
    send.close()
