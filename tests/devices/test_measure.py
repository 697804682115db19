from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from autoprune.devices.agent import timing
from autoprune.devices.agent.refused import Refused
from autoprune.devices.agent.timing import make_inputs, runner
from autoprune.devices.device import load_device
from autoprune.devices.measure import Measurement, Measurer
from autoprune.errors import ConfigError, DeviceError

QUICK = {"min_runs": 8, "min_s": 0.0, "warmup_runs": 1, "warmup_s": 0.0, "repeats": 0}


@pytest.fixture(scope="module")
def measurer():
    with Measurer(load_device("cpu"), threads=1, timeout_s=60) as it:
        yield it


def test_a_measurement_and_its_json(measurer, cnn):
    found = measurer.measure(cnn(8), reference=cnn(16), **QUICK)
    assert found.latency.source == "measured"
    assert found.latency.runtime_version
    assert found.latency.threads == 1
    assert found.latency.n >= 8
    assert found.stats.min_ms <= found.latency.lo_ms <= found.latency.ms <= found.latency.hi_ms
    assert found.reference is not None
    assert Measurement.from_json(found.to_json()) == found


def test_a_hundredfold_product_is_slower_and_the_worker_stays(measurer, matmul):
    small, pid = measurer.measure(matmul(64, 8), **QUICK), measurer.worker_pid
    large = measurer.measure(matmul(640, 80), **QUICK)
    assert measurer.worker_pid == pid
    assert large.latency.ms > 3 * small.latency.ms


def test_own_inputs_and_percentile(measurer, matmul):
    found = measurer.measure(matmul(64, 8), inputs={"x": np.ones((8, 64), np.float32)}, percentile="p90", **QUICK)
    assert found.latency.percentile == "p90"
    assert found.latency.ms == found.stats.p90_ms
    with pytest.raises(DeviceError, match="the model wants"):
        measurer.measure(matmul(64, 8), inputs={"z": np.ones((8, 64), np.float32)}, **QUICK)
    with pytest.raises(ConfigError, match="finite"):
        measurer.measure(matmul(64, 8), inputs={"x": np.full((8, 64), np.nan, np.float32)}, **QUICK)


def test_a_killed_worker_costs_one_call(matmul):
    with Measurer(load_device("cpu"), threads=1, timeout_s=60) as it:
        it.measure(matmul(64, 8), **QUICK)
        pid = it.worker_pid
        assert pid is not None
        killer = threading.Timer(0.5, os.kill, (pid, signal.SIGKILL))
        killer.start()
        with pytest.raises(DeviceError, match="SIGKILL"):
            it.measure(matmul(256, 64), min_runs=1, min_s=30.0, repeats=0)
        killer.join()
        assert it.measure(matmul(64, 8), **QUICK).latency.ms > 0
        assert it.worker_pid != pid


def test_a_restart_makes_new_sessions(matmul):
    with Measurer(load_device("cpu"), threads=1) as it:
        it.restart()  # before there is anything
        it.measure(matmul(8, 8), **QUICK)
        pid = it.worker_pid
        it.restart()
        it.measure(matmul(8, 8), **QUICK)
        assert it.worker_pid not in (None, pid)


def test_a_timeout_costs_one_call(matmul):
    with Measurer(load_device("cpu"), threads=1, timeout_s=60) as it:
        it.measure(matmul(64, 8), **QUICK)  # started
        it.timeout_s = 0.3
        start = time.monotonic()
        with pytest.raises(DeviceError, match="longer than"):
            it.measure(matmul(256, 64), min_runs=1, min_s=30.0, repeats=0)
        assert time.monotonic() - start < 10
        it.timeout_s = 60
        assert it.measure(matmul(64, 8), **QUICK).latency.ms > 0


def test_bad_models_and_arguments(measurer, external):
    for data in (b"nonsense", b"", external):
        with pytest.raises(DeviceError):
            measurer.measure(data, **QUICK)
    with pytest.raises(ConfigError):
        measurer.measure(b"x", percentile="p42")
    with pytest.raises(ConfigError):
        measurer.measure(b"x", min_runs=0)
    with pytest.raises(ConfigError, match="is priced, so it cannot be measured"):
        Measurer(load_device("rpi4"))
    with pytest.raises(ConfigError, match="more threads"):
        Measurer(load_device("cpu"), threads=100_000)


def test_a_closed_measurer_says_so(matmul):
    it = Measurer(load_device("cpu"), threads=1)
    it.close()
    it.close()
    with pytest.raises(ConfigError, match="closed") as caught:
        it.measure(matmul())
    assert "LatencyOracle" in caught.value.fix


def test_inputs_from_a_signature():
    made = make_inputs([("a", "tensor(float)", ["batch", 3]), ("b", "tensor(int64)", [2, None]),
                        ("c", "tensor(bool)", [])])
    assert made["a"].shape == (1, 3)
    assert made["a"].dtype == np.float32
    assert made["b"].tolist() == [[0], [0]]
    assert made["c"].shape == ()
    with pytest.raises(ValueError, match="string"):
        make_inputs([("s", "tensor(string)", [1])])


def test_nobody_has_to_close(matmul):
    it = Measurer(load_device("cpu"), threads=1)
    it.measure(matmul(), **QUICK)
    pid, folder = it.worker_pid, it._folder
    assert pid is not None
    del it
    gc.collect()
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_profile_runs_tell_every_node(measurer, cnn):
    found = measurer.measure(cnn(16), profile_runs=3, **QUICK)
    ops = [n.op for n in found.nodes]
    assert ops.index("GlobalAveragePool") < ops.index("Gemm")
    assert sum("Conv" in op for op in ops) == 5
    assert all(n.ms > 0 for n in found.nodes)
    assert len({n.name for n in found.nodes}) == len(found.nodes)
    assert Measurement.from_json(found.to_json()) == found
    assert measurer.measure(cnn(16), **QUICK).nodes == ()


@pytest.mark.parametrize(("name", "provider"), [("cuda", "CUDA"), ("tensorrt", "Tensorrt")])
def test_a_gpu_needs_its_provider(matmul, name, provider):
    device = load_device(name)
    assert (device.provider, device.alignment()) == (f"{provider}ExecutionProvider", 8)
    if device.provider in onnxruntime.get_available_providers():
        pytest.skip("it has it")
    with Measurer(device, threads=1) as it, pytest.raises(ConfigError, match="lacks the execution provider") as caught:
        it.measure(matmul(), **QUICK)
    assert "onnxruntime-gpu" in str(caught.value.fix)


class _FakeGpu:
    """What the agent uses of onnxruntime, writing down where inputs and outputs are bound."""

    def __init__(self, started: str):
        self.seen: list[tuple[str, ...]] = []
        self.SessionOptions, self.ExecutionMode, self.GraphOptimizationLevel = (
            onnxruntime.SessionOptions, onnxruntime.ExecutionMode, onnxruntime.GraphOptimizationLevel)
        self.OrtValue = SimpleNamespace(ortvalue_from_numpy=lambda array, place, index: place)
        self.started = started

    def get_available_providers(self):
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def InferenceSession(self, path, options, providers):
        self.seen.append(("providers", *providers))
        tensor = SimpleNamespace(name="x", type="tensor(float)", shape=[1])
        binding = SimpleNamespace(bind_ortvalue_input=lambda *a: self.seen.append(("in", *a)),
                                  bind_output=lambda *a: self.seen.append(("out", *a)),
                                  synchronize_outputs=lambda: self.seen.append(("wait",)))
        return SimpleNamespace(get_providers=lambda: [self.started], get_inputs=lambda: [tensor],
                               get_outputs=lambda: [tensor], io_binding=lambda: binding,
                               run_with_iobinding=lambda _: self.seen.append(("run",)))


def test_on_a_gpu_inputs_and_outputs_stay_there(monkeypatch):
    request = {"provider": "CUDAExecutionProvider", "threads": 1}
    fake = _FakeGpu("CUDAExecutionProvider")
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    runner("m.onnx", None, request)()
    assert fake.seen == [("providers", "CUDAExecutionProvider", "CPUExecutionProvider"), ("in", "x", "cuda"),
                         ("out", "x", "cuda"), ("run",), ("wait",)]
    monkeypatch.setitem(sys.modules, "onnxruntime", _FakeGpu("CPUExecutionProvider"))
    with pytest.raises(Refused, match="fell back"):
        runner("m.onnx", None, request)


def test_an_interrupted_run_while_warming_up_makes_no_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of 5 µs beside one of 1 ms: in blocks of a few runs the small one would take hundreds of them."""
    now, runs = [0], [0]
    monkeypatch.setattr(timing.time, "perf_counter_ns", lambda: now[0])

    def small() -> None:
        runs[0] += 1
        now[0] += 5_000_000 if runs[0] == 10 else 5_000

    def large() -> None:
        now[0] += 1_000_000

    found = timing._time([small, large], {"warmup_runs": 10, "warmup_s": 0.0, "min_runs": 20, "min_s": 0.2})
    assert sum(map(len, found[1])) < 400


def test_a_block_ends_when_runs_take_longer_than_they_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that wait for each other on a busy machine: 5 µs while warming up, 5 ms from then on."""
    now, runs = [0], [0]
    monkeypatch.setattr(timing.time, "perf_counter_ns", lambda: now[0])

    def run() -> None:
        runs[0] += 1
        now[0] += 5_000 if runs[0] <= 10 else 5_000_000

    found = timing._time([run], {"warmup_runs": 10, "warmup_s": 0.0, "min_runs": 20, "min_s": 0.2})
    assert max(map(len, found[0])) == 3  # not the 600 that were planned for a block
    assert sum(map(len, found[0])) < 50


def _machine(monkeypatch: pytest.MonkeyPatch, slow: Callable[[str, int], float]) -> Callable[[], dict[str, Any]]:
    """Times a model of 1 ms beside one of 2 ms where a run takes `slow(model, nanoseconds since)` times as long."""
    now = [0]
    monkeypatch.setattr(timing.time, "perf_counter_ns", lambda: now[0])
    monkeypatch.setattr(timing.time, "sleep", lambda _: None)

    def of(name: str, ns: int) -> Callable[[], None]:
        def run() -> None:
            now[0] += round(ns * slow(name, now[0]))
        return run

    request = {"warmup_runs": 1, "warmup_s": 0.0, "min_runs": 20, "min_s": 0.2, "repeats": 2}
    return lambda: timing._calmest([of("small", 1_000_000), of("large", 2_000_000)], request)


def test_other_programs_bursts_do_not_change_the_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything takes twice as long for 40 ms of every 100: medians of all runs depend on what was met."""
    found = _machine(monkeypatch, lambda name, ns: 1 + (ns // 1_000_000 % 100 < 40))()
    assert found["ratio"] == pytest.approx(0.5)
    assert found["attempts"] == 1


def test_a_machine_that_slows_down_for_both_need_not_be_timed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _machine(monkeypatch, lambda name, ns: 1 + (ns > 200_000_000))()
    assert found["ratio"] == pytest.approx(0.5)
    assert found["attempts"] == 1
    assert abs(found["drift"]) < 0.05


def test_a_model_that_slows_down_alone_is_timed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _machine(monkeypatch, lambda name, ns: 1 + ns / 1e9 if name == "small" else 1.0)()["attempts"] == 3
