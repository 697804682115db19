"""What a device answers is not trusted: whatever it says, an error of autoprune's comes out, or a checked value."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.devices.agent import facts
from autoprune.devices.device import load_device
from autoprune.devices.hello import Hello
from autoprune.devices.measure import Measurer
from autoprune.devices.measurement import Measurement, read_measurement
from autoprune.devices.worker_process import BOOTSTRAP, WorkerProcess
from autoprune.errors import AutopruneError, DeviceError

STATS = {"min_ms": 1.0, "p10_ms": 1.15, "p25_ms": 1.18, "p50_ms": 1.2, "p90_ms": 1.25, "p99_ms": 1.4, "n": 20}
ANSWER = {"candidate": STATS, "reference": STATS, "ratio": 0.5, "drift": 0.01, "attempts": 1,
          "runtime_version": "1.31.1", "governor": "",
          "nodes": [{"name": "a", "op": "Conv", "ms": 0.5, "shape": [1, 8]}]}
NAN, INF = float("nan"), float("inf")

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8)


def _read(answer: Any) -> Measurement:
    return read_measurement(answer, "p50", "board", "onnxruntime", 1)


def test_a_good_answer():
    assert _read(ANSWER).latency.ms == 1.2
    assert _read({**ANSWER, "drift": 0.2}).latency.notes == ("drift 20 %",)


@pytest.mark.parametrize("bad", [
    {"candidate": None}, {"candidate": {**STATS, "p50_ms": NAN}}, {"candidate": {**STATS, "p99_ms": INF}},
    {"candidate": {**STATS, "min_ms": 0}}, {"candidate": {**STATS, "p10_ms": 5}}, {"candidate": {**STATS, "n": 0}},
    {"candidate": {**STATS, "n": True}}, {"candidate": {**STATS, "p50_ms": "1.2"}}, {"reference": []}, {"drift": NAN},
    {"ratio": None}, {"ratio": 0}, {"drift": "x"}, {"drift": 10**400}, {"attempts": -1},
    {"runtime_version": "1\x1b[2J"},
    {"runtime_version": "1" * 500}, {"governor": None}, {"nodes": None}, {"nodes": {}},
    {"nodes": [{"name": "a", "op": "Conv", "ms": -1}]}, {"nodes": [{"name": "a"}]},
    {"nodes": [{"name": "a" * 5000, "op": "Conv", "ms": 1}]}, {"nodes": [3]}])
def test_bad_answers(bad):
    with pytest.raises(DeviceError):
        _read({**ANSWER, **bad})


@given(st.sampled_from(sorted(ANSWER)), anything)
@settings(max_examples=150, deadline=None)
def test_any_answer(key, value):
    with suppress(DeviceError):
        _read({**ANSWER, key: value})


@given(st.sampled_from(sorted(facts.hello())), anything)
@settings(max_examples=150, deadline=None)
def test_any_hello(key, value):
    with suppress(DeviceError):
        Hello.read({**facts.hello(), key: value})


def test_a_good_hello():
    hello = Hello.read(facts.hello())
    assert hello.cores == facts.usable_cores()
    hello.check("")


@pytest.mark.parametrize("answers", [
    "{}", "{'missing': 3}", "{'missing': [3]}", "{'missing': ['x']}", "{'missing': [['x']]}",
    "{'missing': [], 'x': 1}", "{'id': 7}", "{'ok': 'yes'}", "{'ok': False, 'kind': [1], 'error': {'a': 1}}", "[]",
    "'x' * 10"])
def test_an_agent_that_lies(matmul, answers):
    text = ("import json\nfrom autoprune.devices.agent.facts import hello\n"
            "for line in sys.stdin.buffer:\n    id = json.loads(line)['id']\n"
            f"    found = hello() if id == 1 else {answers}\n"
            "    found = {'id': id, 'ok': True, **found} if isinstance(found, dict) else found\n"
            "    print(json.dumps(found), flush=True)\n")
    with Measurer(load_device("cpu"), threads=1, timeout_s=30) as it:
        it._worker = WorkerProcess([sys.executable, "-c", BOOTSTRAP], f"sys.path[:] = {sys.path!r}\n{text}")
        with pytest.raises(AutopruneError):
            it.measure(matmul(), min_runs=1, min_s=0.0, repeats=0)
        it._worker.close()
