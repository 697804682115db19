"""The measuring loop, and the runtime that it times."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import tempfile
import time
from collections.abc import Callable, Iterator
from operator import truediv
from pathlib import Path
from statistics import median
from typing import Any

from autoprune.devices.agent.facts import THROTTLED_NOW, throttle_bits, throttled
from autoprune.devices.agent.refused import Refused

__all__ = ["DRIFT", "NOISY", "Blocks", "make_inputs", "nodes", "runner", "statistics", "summary", "turn", "unthrottled"]

NOISY, DRIFT = 1.1, 0.05  # p90/p10; second half against the first
_BLOCK_S, _SHORTEST = 0.003, 3  # seconds, and runs, of one model before the other has its turn
Blocks = list[list[float]]
"""Milliseconds of runs that followed each other, block by block."""
_FLOATS = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16"}
_INTS = {"tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(int16)": "int16", "tensor(int8)": "int8",
         "tensor(uint8)": "uint8", "tensor(uint16)": "uint16", "tensor(uint32)": "uint32", "tensor(uint64)": "uint64",
         "tensor(bool)": "bool"}


@contextlib.contextmanager
def turn(wait_s: float) -> Iterator[None]:
    """Hold this user's measuring lock: two searches that time at once would both be wrong. The system releases it if
    the process dies. Where there is no `fcntl` or no writable temporary folder, nothing is locked.
    """
    try:
        import fcntl

        path = Path(tempfile.gettempdir()) / f"autoprune-measure-{os.getuid()}.lock"
        handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except (ImportError, AttributeError, OSError):
        yield
        return
    try:
        until = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > until:
                    raise Refused("busy", f"held for {wait_s:g} s: {path}") from None
                _stop_if_abandoned()
                time.sleep(0.02)
        yield
    finally:
        os.close(handle)


def _stop_if_abandoned() -> None:
    """Exit when nobody holds the other end of stdin: a lost search must not keep the device busy."""
    if hasattr(select, "poll"):
        poll = select.poll()
        gone = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)
        poll.register(0, gone)
        if any(event & gone for _, event in poll.poll(0)):
            os._exit(1)


def make_inputs(signature: list[tuple[str, str, list[Any]]]) -> dict[str, Any]:
    """Inputs by name for `(name, type, shape)` of onnxruntime: seeded uniform floats in [0, 1), zeros for integers.

    Symbolic dimensions become 1. Raises `ValueError` for types that are no tensor of numbers.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    made: dict[str, Any] = {}
    for name, kind, shape in signature:
        sides = [d if isinstance(d, int) and d > 0 else 1 for d in shape]
        if kind in _FLOATS:
            made[name] = rng.random(sides, dtype=np.float32).astype(_FLOATS[kind])
        elif kind in _INTS:
            made[name] = np.zeros(sides, dtype=_INTS[kind])
        else:
            raise ValueError(f"input {name!r} is {kind}; give it with inputs={{...}}")
    return made


def runner(path: str, inputs_path: str | None, request: dict[str, Any]) -> Callable[[], None]:
    """A function that runs the model once."""
    return _bound(_session(path, request), inputs_path, request["provider"])


def _session(path: str, request: dict[str, Any], profile: str | None = None) -> Any:
    import onnxruntime as ort

    provider = request["provider"]
    if provider not in ort.get_available_providers():
        raise Refused("provider", f"{provider} is not among {', '.join(ort.get_available_providers())}")
    if provider != "CPUExecutionProvider" and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # of CUDA and cuDNN as pip installs them, which the loader does not look for
    options = ort.SessionOptions()
    options.intra_op_num_threads = request["threads"]
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    session = ort.InferenceSession(path, options, providers=list(dict.fromkeys([provider, "CPUExecutionProvider"])))
    if session.get_providers()[0] != provider:
        raise Refused("provider", f"{provider} could not start; onnxruntime fell back to {session.get_providers()[0]}")
    return session


def _bound(session: Any, inputs_path: str | None, provider: str) -> Callable[[], None]:
    """A function that runs the model once on inputs bound beforehand, on the provider's own memory."""
    import numpy as np
    import onnxruntime as ort

    if inputs_path is None:
        inputs = make_inputs([(i.name, i.type, list(i.shape)) for i in session.get_inputs()])
    else:
        with np.load(inputs_path, allow_pickle=False) as stored:
            inputs = {name: stored[name] for name in stored.files}
    wanted = {i.name for i in session.get_inputs()}
    if set(inputs) != wanted:
        raise ValueError(f"inputs are {sorted(inputs)}, the model wants {sorted(wanted)}")
    binding, place = session.io_binding(), "cpu" if provider == "CPUExecutionProvider" else "cuda"
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value), place, 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, place)
    if place == "cpu":
        return lambda: session.run_with_iobinding(binding)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run


def _warm_up(run: Callable[[], None], runs: int, seconds: float) -> float:
    """Run until both limits are met; the fastest run's seconds (any other may have been interrupted)."""
    start, done, fastest = time.perf_counter_ns(), 0, math.inf
    while done < max(1, runs) or time.perf_counter_ns() - start < seconds * 1e9:
        before = time.perf_counter_ns()
        run()
        fastest = min(fastest, (time.perf_counter_ns() - before) / 1e9)
        done += 1
    return fastest


def _time(runners: list[Callable[[], None]], request: dict[str, Any]) -> list[Blocks]:
    """Milliseconds per run, in blocks, of each model: A B B A …, all of about the same time, which is short beside what
    other programs do to the machine's speed. The run after a switch refills caches and is dropped. Blocks in which runs
    take far longer than the warm-up said (threads that wait for each other) end early.
    """
    guess_s = [max(1e-7, _warm_up(run, request["warmup_runs"], request["warmup_s"])) for run in runners]
    min_runs, min_s = request["min_runs"], request["min_s"]
    shortest = max(_SHORTEST, min_runs // 8)
    block_s = max(_BLOCK_S, shortest * max(guess_s))
    length = [max(shortest, round(block_s / g)) for g in guess_s]
    blocks: list[Blocks] = [[] for _ in runners]
    order = list(range(len(runners)))
    runs, spent_ms = [0] * len(runners), [0.0] * len(runners)
    while min(runs) < min_runs or min(spent_ms) < 1e3 * min_s:
        for which in order:
            _stop_if_abandoned()
            if len(runners) > 1:
                runners[which]()
            block: list[float] = []
            start = time.perf_counter_ns()
            for done in range(length[which]):
                before = time.perf_counter_ns()
                if done >= shortest and before - start > 2e9 * block_s:
                    break
                runners[which]()
                block.append((time.perf_counter_ns() - before) / 1e6)
            blocks[which].append(block)
            runs[which] += len(block)
            spent_ms[which] += sum(block)
        order.reverse()
    return blocks


def statistics(times_ms: list[float]) -> dict[str, float]:
    """Minimum, quantiles and number of run times."""
    import numpy as np

    p10, p25, p50, p90, p99 = (float(v) for v in np.percentile(times_ms, [10, 25, 50, 90, 99]))
    return {"min_ms": min(times_ms), "p10_ms": p10, "p25_ms": p25, "p50_ms": p50, "p90_ms": p90, "p99_ms": p99,
            "n": len(times_ms)}


def _ratios(blocks: Blocks, reference: Blocks) -> list[float]:
    """Of the medians of blocks that followed each other."""
    return list(map(truediv, map(median, blocks), map(median, reference)))


def _drift(values: list[float]) -> float:
    """The median of the second half against that of the first, as a signed fraction."""
    half = len(values) // 2
    return median(values[half:]) / median(values[:half]) - 1 if half else 0.0


def summary(blocks: list[Blocks]) -> dict[str, Any]:
    """What is told of a candidate and, if it was timed in turns with one, of the reference."""
    candidate, *reference = [[ms for block in of for ms in block] for of in blocks]
    in_turns = _ratios(*blocks) if reference else None
    return {"candidate": statistics(candidate), "reference": statistics(reference[0]) if reference else None,
            "ratio": median(in_turns) if in_turns else None, "drift": _drift(in_turns or candidate)}


def _calmest(runners: list[Callable[[], None]], request: dict[str, Any]) -> dict[str, Any]:
    """Time once, again when drifting or, without a reference, noisy (at most `repeats` times); the calmest attempt.

    What slows both models in turn is not in their ratio, so with a reference only that ratio has to stay.
    """
    found: list[tuple[float, dict[str, Any]]] = []
    while len(found) <= request["repeats"]:
        told = summary(_time(runners, request))
        noise = 0.0 if told["reference"] else told["candidate"]["p90_ms"] / told["candidate"]["p10_ms"] / NOISY
        badness = max(noise, abs(told["drift"]) / DRIFT)
        found.append((badness, told))
        if badness <= 1:
            break
        time.sleep(min(0.5, request["min_s"]))  # let a neighbour finish, or the chip cool down
    return {**min(found, key=lambda f: f[0])[1], "attempts": len(found)}


def _cool(limit_s: float) -> int | None:
    """Wait until nothing slows the chip any more, at most `limit_s` seconds; its bits then."""
    until = time.monotonic() + limit_s
    while (bits := throttle_bits()) is not None and bits & THROTTLED_NOW and time.monotonic() < until:
        _stop_if_abandoned()
        time.sleep(min(0.5, limit_s))
    return bits


def unthrottled(runners: list[Callable[[], None]], request: dict[str, Any]) -> dict[str, Any]:
    """`_calmest`; what was timed on a throttled chip is thrown away, and timed once more after cooling down."""
    why: list[str] = []
    for _ in range(2):
        before = _cool(request["cool_down_s"])
        if before is None or not before & THROTTLED_NOW:
            found = _calmest(runners, request)
            why = throttled(before, throttle_bits())
            if not why:
                return found
        else:
            why = throttled(before, before)
    raise Refused("throttled", ", ".join(why))


def nodes(path: str, inputs_path: str | None, request: dict[str, Any]) -> list[dict[str, Any]]:
    """Milliseconds of every node in the faster half of `profile_runs` runs with onnxruntime's profiler, in execution
    order: a mean, because the profiler counts whole microseconds.
    """
    runs = request["profile_runs"]
    with tempfile.TemporaryDirectory(prefix="autoprune-profile-") as folder:
        session = _session(path, request, os.path.join(folder, "p"))
        run = _bound(session, inputs_path, request["provider"])
        for _ in range(max(2, request["warmup_runs"]) + runs):
            run()
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    starts = sorted(e["ts"] for e in events if e.get("cat") == "Session" and e.get("name") == "model_run")[-runs:]
    times: dict[tuple[str, str, str], list[float]] = {}
    shapes: dict[tuple[str, str, str], list[int]] = {}
    for event in sorted((e for e in events if e.get("cat") == "Node"), key=lambda e: e["ts"]):
        name = event["name"]
        if name.endswith("_kernel_time") and event["ts"] >= starts[0]:
            key = (name[:-len("_kernel_time")], event["args"]["op_name"], event["args"].get("node_index", ""))
            which = sum(s <= event["ts"] for s in starts) - 1
            times.setdefault(key, [0.0] * runs)[which] += event["dur"] / 1e3  # a body runs its nodes more than once
            shapes[key] = [s for o in event["args"].get("output_type_shape", [])[:1] for s in next(iter(o.values()))]
    fast = max(1, runs // 2)
    return [{"name": key[0], "op": key[1], "ms": sum(sorted(ms)[:fast]) / fast, "shape": shapes[key]}
            for key, ms in times.items()]
