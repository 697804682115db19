"""Candidates in processes of their own, forked from the search's: a crash, a hang or too little memory costs one.

A fork starts in milliseconds and shares what all candidates share (dense weights, batches with the dense model's
logits, statistics) without a copy. It computes with one thread: GNU OpenMP's pool does not survive a fork (a second
thread waits for ever), and for nets that are searched, as many processes as cores get more done than as many threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import json
import math
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import final

import torch

from autoprune.devices.agent.facts import usable_cores
from autoprune.interrupts import INTERRUPTS, uninterrupted
from autoprune.search.pipeline import Pipeline
from autoprune.search.workers.job import Done, Job, evaluate, failed, from_json, to_json
from autoprune.search.workers.workers import Workers

__all__ = ["Forked", "can_fork"]

_MOST = 8  # processes by default: a sampler learns little from candidates that all start at once
_MEMORY = 0.7  # of what is free may be used by candidates
_PATIENCE, _LEAST_LIMIT_S = 20, 600.0  # times the longest candidate so far; at least
_SET_PDEATHSIG = 1  # prctl(2)
_CGROUP = Path("/sys/fs/cgroup")


def can_fork() -> bool:
    """Whether candidates can be forked: on Linux, without an accelerator (its runtime does not survive a fork)."""
    if sys.platform != "linux" or torch.accelerator.is_available():
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:  # an old kernel, or a sandbox
        return False
    return True


@dataclass
class _Running:
    job: Job
    process: BaseProcess
    pipe: Connection
    end: int  # a file descriptor that can be read once the process has ended
    log: Path
    started_s: float  # on the monotonic clock, later by what it was paused
    over_time: bool = False


@final
class Forked(Workers):
    """Evaluates up to `count` jobs at once, each in a process that ends with it.

    count: None begins with one, and once one that is pruned has told how much memory it takes, uses all cores (8 at
    most) as far as memory goes. limit_s: wall clock that a candidate may take, None for twenty times the longest so far
    (ten minutes at least), and no limit before there was one. A process that was killed, most likely for its memory, is
    tried once more with batches of half the size, and from then on there is one process less.
    """

    def __init__(self, pipeline: Pipeline, count: int | None = None, limit_s: float | None = None):
        self._pipeline, self._count, self._limit_s = pipeline, count, limit_s
        self._running: dict[int, _Running] = {}
        self._never_started: list[Done] = []
        self._ready = False
        self._longest_s, self._most_bytes = 0.0, 0
        self._context = multiprocessing.get_context("fork")

    @property
    def room(self) -> int:
        return max(0, self._capacity() - self.running)

    @property
    def running(self) -> int:
        return len(self._running) + len(self._never_started)

    def _capacity(self) -> int:
        if self._count is not None:
            return self._count
        if not self._most_bytes:
            return 1
        # as if those that run had taken nothing yet: a process that has just started has not
        return max(1, min(usable_cores(), _MOST, int(min(_MEMORY * _free_bytes() / self._most_bytes, _MOST))))

    def start(self, job: Job) -> None:
        if not self._ready:
            self._pipeline.prepare()
            self._ready = True
        with uninterrupted():  # no process that nobody knows of
            gc.freeze()  # a collection in the child would copy the memory that it shares
            try:
                self._running[job.number] = self._fork(job)
            except OSError as error:
                reason = f"no process could be started: {error.strerror or error}"
                self._never_started.append(Done(job.number, failed(job.number, job.origin, job.plan, reason)))
            finally:
                gc.unfreeze()

    def _fork(self, job: Job) -> _Running:
        log = job.folder.with_suffix(".log")
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_work, args=(self._pipeline, job, theirs, log, os.getpid()))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on forks of processes with threads
                process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        assert process.pid is not None
        with contextlib.suppress(OSError):
            os.setpgid(process.pid, process.pid)  # the child does so too, whichever comes first
        return _Running(job, process, ours, os.pidfd_open(process.pid), log, time.monotonic())

    def wait(self, until_s: float = math.inf) -> list[Done]:
        done, self._never_started = self._never_started, []
        while self._running and not done and time.monotonic() < until_s:
            limit_s = self._limit()
            end_s = min(until_s, min(r.started_s for r in self._running.values()) + limit_s)
            # not the pipe alone: what a process has started (workers of a data loader) may hold it open
            handles = [handle for r in self._running.values() for handle in (r.pipe, r.end)]
            ready = wait(handles, max(0.0, min(end_s - time.monotonic(), 3600.0)))
            for r in list(self._running.values()):
                if r.pipe in ready or r.end in ready:
                    done += self._end(r)
                elif time.monotonic() - r.started_s > limit_s:
                    r.over_time = True
                    done += self._end(r)
        return done

    def _limit(self) -> float:
        if self._limit_s is not None:
            return self._limit_s
        return max(_LEAST_LIMIT_S, _PATIENCE * self._longest_s) if self._longest_s else math.inf

    def _end(self, r: _Running) -> list[Done]:
        """The result of a process that has told one, or has ended; nothing when it is tried once more."""
        del self._running[r.job.number]
        try:
            told = None if r.over_time or not r.pipe.poll() else json.loads(r.pipe.recv_bytes())
        except (EOFError, OSError):
            told = None
        _release(r)
        words = _last_words(r.log)
        r.log.unlink(missing_ok=True)
        if told is not None:
            took_bytes = int(told.pop("bytes"))
            done = from_json(told)
            if done.candidate is not None and not done.candidate.plan.is_dense:
                self._longest_s = max(self._longest_s, time.monotonic() - r.started_s)
                self._most_bytes = max(self._most_bytes, took_bytes)
            if not done.out_of_memory:
                return [done]
        for folder in (r.job.folder, r.job.folder.with_name(r.job.folder.name + ".tmp")):
            shutil.rmtree(folder, ignore_errors=True)
        out_of_memory = told is not None or (r.process.exitcode == -signal.SIGKILL and not r.over_time)
        if out_of_memory and not r.job.half_batches:
            self._count = max(1, len(self._running))
            self.start(replace(r.job, half_batches=True))
            return []
        if told is not None:
            return [done]
        return [Done(r.job.number, failed(r.job.number, r.job.origin, r.job.plan, self._death(r, words)))]

    def _death(self, r: _Running, words: str) -> str:
        if r.over_time:
            return f"took longer than {self._limit():.0f} s and was stopped (--candidate-timeout)"
        code = r.process.exitcode or 0
        what = f"exit code {code}" if code >= 0 else _signal_name(-code)
        hint = "; twice, the second time with half the batch: most likely too little memory" * (
            code == -signal.SIGKILL)
        return f"the process died ({what}){hint}{': ' if words else ''}{words}"[:300]

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        start = time.monotonic()
        held = list(self._running.values())
        try:
            for r in held:
                _signal(r, signal.SIGSTOP)
            yield
        finally:
            for r in held:
                r.started_s += time.monotonic() - start
                _signal(r, signal.SIGCONT)

    def cancel(self) -> None:
        self._never_started.clear()
        while self._running:
            _release(self._running.popitem()[1])


def _release(r: _Running) -> None:
    """End a process with what it has started, whether it had ended or not."""
    _signal(r, signal.SIGKILL)
    r.process.join()
    r.pipe.close()
    os.close(r.end)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _signal(r: _Running, number: int) -> None:
    """To the process and what it has started (workers of a data loader)."""
    assert r.process.pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(r.process.pid, number)


def _work(pipeline: Pipeline, job: Job, pipe: Connection, log: Path, parent: int) -> None:
    """In the child: evaluate, and tell."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)  # Ctrl-C is for the search, which ends its candidates itself
    ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that
        os._exit(1)
    for number in INTERRUPTS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    # the streams of the process may lead elsewhere (a notebook, a test runner)
    sys.stdout = sys.stderr = open(2, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
    faulthandler.enable(open(2, "w", closefd=False))  # noqa: SIM115
    with contextlib.suppress(OSError):  # where memory runs out, this is to be killed and not the search
        Path("/proc/self/oom_score_adj").write_text("1000")
    torch.set_num_threads(1)
    pipeline.task.forget_loader_workers()
    before = _peak_bytes()
    if job.half_batches:
        pipeline.halve_batches()
    told = to_json(evaluate(pipeline, job))
    pipe.send_bytes(json.dumps({**told, "bytes": _peak_bytes() - before}).encode())
    pipe.close()
    os._exit(0)  # what the search has open is not this process's to close


def _peak_bytes() -> int:
    """Of memory held, a high-water mark."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _free_bytes() -> float:
    """Memory that can be had without swapping, and within the limit of a container; infinite where nothing tells."""
    free = [math.inf]
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free.append(1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")))
    with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
        most, used = (int((_CGROUP / f"memory.{name}").read_text(encoding="ascii")) for name in ("max", "current"))
        free.append(float(max(0, most - used)))
    return min(free)


def _last_words(log: Path) -> str:
    """Where it crashed, or else what was printed last; without what would steer a terminal."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 20_000))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    fatal = next((i for i, line in enumerate(lines) if line.startswith("Fatal Python error")), len(lines))
    frames = [line.strip() for line in lines[fatal:] if line.startswith("  File")]
    words = (frames or lines[-1:] or [""])[0]
    return "".join(c if c.isprintable() else " " for c in words)[:200]
