from __future__ import annotations

import io
import os
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from autoprune.devices.device import load_device
from autoprune.devices.profiler import MeasuredProfiler, PredictedProfiler, Profiler, open_profiler
from autoprune.errors import ConfigError, DeviceError
from autoprune.graph.graph import trace
from autoprune.graph.plan import Cut, Plan
from autoprune.graph.quiet import quiet
from autoprune.nas.oracle import LatencyOracle, measure, to_onnx_bytes

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("one_export_per_graph")]


def test_a_profile_answers_for_bytes_and_files(cnn, tmp_path):
    oracle = LatencyOracle("rpi4")
    assert isinstance(oracle, Profiler)
    path = tmp_path / "m.onnx"
    path.write_bytes(cnn(16))
    assert oracle(cnn(16)) == oracle(str(path)) == oracle(path) == oracle.latency_of_onnx(cnn(16))
    assert measure(cnn(16), device="raspberrypi") == oracle(cnn(16))


def test_this_machine_is_measured(cnn):
    with LatencyOracle("cpu", threads=1) as oracle:
        assert oracle(cnn(8)).source == "measured"


def test_open_profiler_picks_by_kind():
    with open_profiler("rpi5") as profiler:
        assert isinstance(profiler, PredictedProfiler)
    with open_profiler(load_device("cpu"), threads=1) as profiler:
        assert isinstance(profiler, MeasuredProfiler)
    with pytest.raises(ConfigError):
        open_profiler("cpu", percentile="p1")


@pytest.mark.parametrize("thing", [3, None, object(), "no/such.onnx", "model.pt"])
def test_what_is_no_model(thing):
    with pytest.raises(ConfigError):
        to_onnx_bytes(thing)


def test_a_module_needs_example_inputs():
    with pytest.raises(ConfigError, match="example inputs"):
        to_onnx_bytes(torch.nn.Linear(2, 2))


def test_files_that_are_not_models(tmp_path, external):
    bad = tmp_path / "bad.onnx"
    for content, words in ((b"garbage", "not an ONNX model"), (b"", "empty"), (external, "outside")):
        bad.write_bytes(content)
        with pytest.raises(ConfigError, match=words):
            to_onnx_bytes(bad)


def test_a_candidate_that_is_no_model_fails_alone():
    """Bytes, not a user's file: the search goes on after a `DeviceError`."""
    with LatencyOracle("rpi4") as oracle, pytest.raises(DeviceError):
        oracle(b"garbage")


def test_a_plan_of_a_graph_is_priced_without_its_model(tiny_graph, monkeypatch):
    plan = Plan.uniform(tiny_graph, 0.5)
    pruned = tiny_graph.prune(plan)
    with LatencyOracle("rpi4", threads=2) as oracle:
        found = oracle.latency(tiny_graph, plan)
        wanted = oracle(pruned, tiny_graph.example_inputs)
        assert found.ms == pytest.approx(wanted.ms, rel=0.005)
        assert (found.device, found.threads, found.source) == (wanted.device, 2, wanted.source)
        dense = oracle.latency(tiny_graph)
        assert dense == oracle.latency(tiny_graph, Plan())
        assert found.ms < dense.ms
        monkeypatch.setattr(type(tiny_graph), "cut", lambda *_: pytest.fail("the model is made"))
        assert oracle.latency(tiny_graph, Plan.uniform(tiny_graph, 0.25)).ms < found.ms
        with pytest.raises(ConfigError, match="does not fit"):
            oracle.latency(tiny_graph, Plan({"nowhere": Cut(1)}))


def test_a_plan_of_another_graph_gets_a_table_of_its_own(tiny_graph):
    other = trace(torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.ReLU(), torch.nn.Linear(30, 4)).eval(),
                  (torch.randn(1, 40),))
    with LatencyOracle("rpi4") as oracle:
        first, second = oracle.latency(tiny_graph), oracle.latency(other)
        assert first.ms != second.ms
        assert oracle.latency(tiny_graph) == first


def test_a_plan_on_a_measured_device_is_measured(tiny_graph):
    with LatencyOracle("cpu", threads=1) as oracle:
        found = oracle.latency(tiny_graph, Plan.uniform(tiny_graph, 0.5))
    assert (found.source, found.device) == ("measured", "cpu")


def test_a_batch_of_several_is_priced_as_one_of_several(tiny_graph):
    model = tiny_graph.dense()
    with LatencyOracle("rpi4") as oracle:
        one, eight = (oracle(model, torch.randn(n, 1, 8, 8)).ms for n in (1, 8))
    assert 4 * one < eight < 10 * one


@pytest.mark.parametrize("device", [None, 4, {"name": "rpi4"}])
def test_what_is_no_device(device):
    with pytest.raises(ConfigError, match="not a device"):
        LatencyOracle(device)


@pytest.fixture
def symbolic(cnn):
    model = onnx.load_model_from_string(cnn(16))
    for axis, name in ((0, "batch"), (2, "side"), (3, "side")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    return model.SerializeToString()


def test_an_onnx_model_has_the_sizes_of_the_example(cnn, symbolic, tmp_path):
    oracle, x = LatencyOracle("rpi4"), torch.zeros(2, 3, 16, 16)
    path = tmp_path / "m.onnx"
    path.write_bytes(symbolic)
    assert oracle(symbolic).ms < oracle(cnn(16)).ms == oracle(symbolic, x[:1]).ms < oracle(symbolic, x).ms
    assert oracle(path, (x,)) == oracle(symbolic, {"x": x}) == oracle(symbolic, x)


@pytest.mark.parametrize("example", [torch.zeros(2, 4, 16, 16), torch.zeros(3, 16, 16), torch.zeros(1, 3, 16, 8),
                                     {"y": torch.zeros(1, 3, 16, 16)}, [torch.zeros(1, 3, 16, 16)] * 2])
def test_an_example_that_is_not_of_the_models_sizes(symbolic, example):
    with pytest.raises(ConfigError, match="do not fit") as caught:
        to_onnx_bytes(symbolic, example)
    assert caught.value.allowed == "x [batch, 3, side, side]"


@pytest.mark.parametrize("device", ["rpi5", load_device("rpi5")])
@pytest.mark.parametrize(("model", "fix"), [("m.onnx", "measure(model, device='rpi5')"),
                                            (torch.nn.Linear(2, 2), "measure(model, example_inputs, device='rpi5')")])
def test_a_device_in_the_place_of_inputs(model, device, fix):
    with pytest.raises(ConfigError, match="the device comes after") as caught:
        measure(model, device)
    assert caught.value.fix == fix


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE])
def test_a_profile_is_for_weights_in_float32(cnn, kind):
    model = onnx.load_model_from_string(cnn(4))
    for value in (*model.graph.initializer, *(v.type.tensor_type for v in (*model.graph.input, *model.graph.output))):
        setattr(value, "data_type" if hasattr(value, "dims") else "elem_type", kind)
    for device in ("rpi4", "t4"):
        with pytest.raises(ConfigError, match="in float32") as caught:
            LatencyOracle(device)(model.SerializeToString())
        assert load_device(device).precision in caught.value.allowed
        assert "model.float()" in caught.value.fix


def test_a_table_in_float64_is_no_matter(cnn):
    model = onnx.load_model_from_string(cnn(16))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((2, 3)), "table"))
    assert LatencyOracle("rpi4")(model.SerializeToString()).ms > 0


def test_a_model_in_int8_is_for_onnxruntime(cnn):
    model = onnx.load_model_from_string(cnn(4))
    for name, value in (("scale", np.float32(0.1)), ("zero", np.uint8(128))):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    model.graph.node[0].input[0] = "d"
    for op, source, out in (("DequantizeLinear", "q", "d"), ("QuantizeLinear", "x", "q")):
        model.graph.node.insert(0, helper.make_node(op, [source, "scale", "zero"], [out]))
    int8 = model.SerializeToString()
    assert LatencyOracle("rpi4")(int8).ms > 0
    for device in ("rpi5-ncnn", "t4"):
        with pytest.raises(ConfigError, match="int8 is for devices that run onnxruntime"):
            LatencyOracle(device)(int8)


def test_natural_wrong_arguments_name_the_right_call(tiny_graph):
    oracle, plan = LatencyOracle("rpi4"), Plan.uniform(tiny_graph, 0.5)
    for call, fix in ((lambda: oracle.latency(tiny_graph.dense(), None), "oracle(model, example_inputs)"),
                      (lambda: oracle.latency("m.onnx"), "oracle(model, example_inputs)"),
                      (lambda: oracle.latency(b"bytes", plan), "oracle(model, example_inputs)"),
                      (lambda: oracle.latency(tiny_graph, {"stem": 8}), "Plan.of(graph, widths)"),
                      (lambda: oracle.latency(tiny_graph, 0.5), "Plan.uniform(graph"),
                      (lambda: oracle(tiny_graph, plan), "oracle.latency(graph, plan)")):
        with pytest.raises(ConfigError) as caught:
            call()
        assert fix in caught.value.fix


def test_one_that_predicts_goes_to_other_processes(cnn):
    graph = trace(torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)),
                  torch.randn(1, 4))
    oracle = LatencyOracle("rpi4")
    before = oracle.latency(graph, Plan.uniform(graph, 0.5))  # from a table, which stays here
    again = pickle.loads(pickle.dumps(oracle))  # noqa: S301 - made in this line
    assert again(cnn(8)) == oracle(cnn(8))
    assert again.latency(graph, Plan.uniform(graph, 0.5)) == before


def test_one_that_measures_stays_in_its_process(cnn, monkeypatch):
    with LatencyOracle("cpu", threads=1) as oracle:
        with pytest.raises(ConfigError, match="belongs to the process"):
            pickle.dumps(oracle)
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(ConfigError, match="belongs to the process"):
            oracle(cnn(8))


def test_threads_take_turns(cnn):
    """Each of them also exports a module, which torch does with state of the whole process."""
    model, x = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)), torch.randn(1, 4)
    with LatencyOracle("cpu", threads=1) as measured, ThreadPoolExecutor(3) as pool:
        oracle = LatencyOracle("rpi4")
        found = list(pool.map(lambda n: (oracle(model, x), measured(cnn(8)).source), range(4)))
    assert found == [(oracle(model, x), "measured")] * 4
    assert not isinstance(sys.stdout, io.StringIO)


def test_a_fork_waits_for_no_thread_of_its_parent():
    """Exports take turns, and so do threads that share an oracle."""
    held, done = threading.Event(), threading.Event()

    def hold():
        with quiet():
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    child = os.fork()
    if child == 0:
        with quiet():
            os._exit(7)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_arrays_are_example_inputs_of_an_onnx_file(cnn):
    oracle, size = LatencyOracle("rpi4"), (1, 3, 16, 16)
    array = oracle(cnn(8), (np.zeros(size, np.float32),))
    assert array == oracle(cnn(8), torch.zeros(size)) == oracle(cnn(8), ())
