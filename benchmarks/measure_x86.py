"""One-thread onnxruntime times of the nets of `whole_nets.py` on this x86 machine → benchmarks/data/ort_x86_nets.csv.

    python benchmarks/measure_x86.py

Medians of interleaved rounds, so that a machine that slows down slows every net; also one memcpy and the clock.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import whole_nets

ROUNDS = 15
DATA = Path(__file__).with_name("data")


def memcpy_gbs() -> float:
    """GB/s of one copy far bigger than the caches."""
    source = np.ones(1 << 25)
    target = np.empty_like(source)
    times = []
    for _ in range(9):
        start = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - start)
    return float(source.nbytes / min(times) / 1e9)


def clock_ghz() -> float:
    """What /proc/cpuinfo says."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return max(float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")) / 1e3


def main() -> None:
    """Measure and write."""
    sessions = {}
    for name in whole_nets.NETS:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(whole_nets.net_bytes(name), options, providers=["CPUExecutionProvider"])
        value = session.get_inputs()[0]
        feed = np.ones(value.shape, np.float32 if value.type == "tensor(float)" else np.int64)
        sessions[name] = (session, {value.name: feed})
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(ROUNDS):
        for name, (session, feeds) in sessions.items():
            session.run(None, feeds)
            start = time.perf_counter()
            session.run(None, feeds)
            times[name].append(1e3 * (time.perf_counter() - start))
    lines = [f"# onnxruntime {ort.__version__}, 1 thread, medians of {ROUNDS}; clock_ghz {clock_ghz():.2f}, "
             f"memcpy_gbs {memcpy_gbs():.1f}", "name,ms,min_ms"]
    lines += [f"{name},{statistics.median(t):.4f},{min(t):.4f}" for name, t in times.items()]
    (DATA / "ort_x86_nets.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
