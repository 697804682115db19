"""The process that times ONNX models: `python -m autoprune.devices.ort_worker`, JSON lines in and out.

It is a process of its own because training changes thread counts, and because a crash in the runtime must cost one
candidate, not the search. It never imports torch. One request per line:

    {"id": 1, "candidate": PATH, "reference": PATH or null, "inputs": PATH.npz or null, "threads": 2,
     "min_runs": 20, "min_s": 0.3, "warmup_runs": 10, "warmup_s": 0.1, "repeats": 2}

and one answer: `{"id": 1, "ok": true, "candidate": stats, "reference": stats or null, "drift": 0.01, "attempts": 1,
"runtime_version": "1.31.1"}` or `{"id": 1, "ok": false, "error": "…"}`. Ends when stdin closes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["main", "make_inputs"]

_NOISY = 1.15  # p90/p10
_DRIFT = 0.05
_FLOATS = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16"}
_INTS = {"tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(int16)": "int16", "tensor(int8)": "int8",
         "tensor(uint8)": "uint8", "tensor(uint16)": "uint16", "tensor(uint32)": "uint32", "tensor(uint64)": "uint64",
         "tensor(bool)": "bool"}


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


def _runner(path: str, inputs_path: str | None, threads: int) -> Callable[[], None]:
    """A function that runs the model once on inputs bound beforehand."""
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    if inputs_path is None:
        inputs = make_inputs([(i.name, i.type, list(i.shape)) for i in session.get_inputs()])
    else:
        with np.load(inputs_path, allow_pickle=False) as stored:
            inputs = {name: stored[name] for name in stored.files}
    wanted = {i.name for i in session.get_inputs()}
    if set(inputs) != wanted:
        raise ValueError(f"inputs are {sorted(inputs)}, the model wants {sorted(wanted)}")
    binding = session.io_binding()
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value)))
    for output in session.get_outputs():
        binding.bind_output(output.name, "cpu")
    return lambda: session.run_with_iobinding(binding)


def _warm_up(run: Callable[[], None], runs: int, seconds: float) -> float:
    """Run until both limits are met; the last run's seconds."""
    start, done, last = time.perf_counter_ns(), 0, 0.0
    while done < max(1, runs) or time.perf_counter_ns() - start < seconds * 1e9:
        before = time.perf_counter_ns()
        run()
        last = (time.perf_counter_ns() - before) / 1e9
        done += 1
    return last


def _time(runners: list[Callable[[], None]], request: dict[str, Any]) -> list[list[float]]:
    """Milliseconds per run and model, in blocks A B B A …; the run after a switch refills caches and is dropped."""
    guess_s = [_warm_up(run, request["warmup_runs"], request["warmup_s"]) for run in runners]
    min_runs, min_s = request["min_runs"], request["min_s"]
    block = [max(3, min_runs // 4, min(200, round(min_s / 8 / max(g, 1e-7)))) for g in guess_s]
    times: list[list[float]] = [[] for _ in runners]
    spent_s = [0.0] * len(runners)
    order = list(range(len(runners)))
    while any(len(t) < min_runs or s < min_s for t, s in zip(times, spent_s, strict=True)):
        for which in order:
            if len(runners) > 1:
                runners[which]()
            for _ in range(block[which]):
                before = time.perf_counter_ns()
                runners[which]()
                took = time.perf_counter_ns() - before
                times[which].append(took / 1e6)
                spent_s[which] += took / 1e9
        order.reverse()
    return times


def _stats(times_ms: list[float]) -> dict[str, float]:
    import numpy as np

    p10, p50, p90, p99 = (float(v) for v in np.percentile(times_ms, [10, 50, 90, 99]))
    return {"min_ms": min(times_ms), "p10_ms": p10, "p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "n": len(times_ms)}


def _drift(times_ms: list[float]) -> float:
    """Second half against first half of the medians, as a signed fraction."""
    import numpy as np

    half = len(times_ms) // 2
    return float(np.median(times_ms[half:]) / np.median(times_ms[:half])) - 1 if half else 0.0


def _measure(request: dict[str, Any], kept: dict[str, Callable[[], None]]) -> dict[str, Any]:
    """Measure once, again when noisy or drifting (at most `repeats` times), and keep the calmest attempt."""
    import onnxruntime as ort

    runners = [_runner(request["candidate"], request["inputs"], request["threads"])]
    if request["reference"] is not None:
        key = json.dumps([request["reference"], request["inputs"], request["threads"]])
        if key not in kept:  # the dense model is the same for a whole search: keep its session, and only that one
            kept.clear()
            kept[key] = _runner(request["reference"], request["inputs"], request["threads"])
        runners.append(kept[key])
    best: tuple[float, list[list[float]], float] | None = None
    attempts = 0
    while attempts <= request["repeats"]:
        attempts += 1
        times = _time(runners, request)
        drift, spread = _drift(times[-1]), _stats(times[0])
        ratio = spread["p90_ms"] / spread["p10_ms"]
        badness = max(ratio / _NOISY, abs(drift) / _DRIFT)
        if best is None or badness < best[0]:
            best = (badness, times, drift)
        if badness <= 1:
            break
        time.sleep(min(0.5, request["min_s"]))  # let a neighbour finish, or the chip cool down
    assert best is not None  # the loop ran at least once
    _, times, drift = best
    return {"candidate": _stats(times[0]), "reference": _stats(times[1]) if len(times) > 1 else None, "drift": drift,
            "attempts": attempts, "runtime_version": ort.__version__}


def main() -> None:
    """Serve requests until stdin closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not land between the answers
    kept: dict[str, Callable[[], None]] = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"id": request["id"], "ok": True, **_measure(request, kept)}
        except Exception as error:  # the runtime raises many classes; all of them cost one candidate only
            answer = {"id": request["id"], "ok": False, "error": f"{type(error).__name__}: {error}"[:2000]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
