from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from autoprune.devices.agent.timing import make_inputs
from autoprune.devices.calibration import nets
from autoprune.devices.calibration.net_builder import MOST_ELEMENTS, NetBuilder
from autoprune.devices.calibration.nets import calibration_nets, probe
from autoprune.devices.calibration.staged_nets import encoder, staged

COUNT = 80


@pytest.fixture(scope="module")
def models() -> list[bytes]:
    return list(itertools.islice(calibration_nets(0), COUNT))


def run(model: bytes) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, make_inputs([(i.name, i.type, list(i.shape))
                                                             for i in session.get_inputs()]))
    return found


def test_they_load_and_run_and_are_of_the_size_they_say(models: list[bytes]) -> None:
    for model in models:
        declared = [[d.dim_value for d in o.type.tensor_type.shape.dim]
                    for o in onnx.load_model_from_string(model).graph.output]
        values = run(model)
        assert values
        assert [list(v.shape) for v in values] == declared


def test_one_seed_gives_the_same_bytes() -> None:
    first, again, other = (list(itertools.islice(calibration_nets(seed), 5)) for seed in (3, 3, 4))
    assert first == again
    assert not set(first) & set(other)
    assert probe() == probe()


def test_every_kind_of_block_occurs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[str] = Counter()
    wanted = {make.__name__ for make, _ in nets._BLOCKS}

    def counted(make):
        def block(net):
            seen[make.__name__] += 1
            return make(net)
        return block

    monkeypatch.setattr(nets, "_BLOCKS", tuple((counted(make), weight) for make, weight in nets._BLOCKS))
    list(itertools.islice(calibration_nets(0), COUNT))
    assert set(seen) == wanted


def test_the_operators_of_real_nets_occur(models: list[bytes]) -> None:
    ops = {n.op_type for model in models for n in onnx.load_model_from_string(model).graph.node}
    assert {"Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "Transpose", "Reshape", "Softmax", "LayerNormalization",
            "Slice", "MaxPool", "GlobalAveragePool", "Resize", "Relu", "Sigmoid", "Gelu", "Clip"} <= ops


def test_sizes_stay_within_the_limits(models: list[bytes]) -> None:
    """As stated: up to several hundred nodes; channels of convolutions, elements of a tensor."""
    channels = []
    for model in models:
        graph = onnx.load_model_from_string(model).graph
        assert 1 <= len(graph.node) <= 1000
        weights = {t.name: tuple(t.dims) for t in graph.initializer}
        channels += [weights[n.input[1]][0] for n in graph.node if n.op_type == "Conv"]
        for value in [*graph.input, *graph.output]:
            assert math.prod(d.dim_value or 1 for d in value.type.tensor_type.shape.dim) <= 8 * MOST_ELEMENTS
    assert min(channels) < 16
    assert 512 < max(channels) <= 2048
    odd = sum(c % 4 != 0 for c in channels) / len(channels)
    assert 0.01 < odd < 0.5  # mostly what networks have, now and then any number


def test_outputs_are_small(models: list[bytes]) -> None:
    """Large ones would be written to memory that is new in every run."""
    for model in models:
        for value in onnx.load_model_from_string(model).graph.output:
            sides = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
            assert math.prod(sides) <= 4096 or sides[-1] == 1


def test_whole_nets_are_built_as_real_ones_are() -> None:
    """Channels grow and maps shrink from stem to head; all layers of an encoder are alike."""
    for seed in range(6):
        net = NetBuilder(np.random.default_rng(seed))
        net.output(staged(net))
        maps = [net.shape[n.output[0]] for n in net.nodes if n.op_type == "Conv"]
        assert maps[0][1] < max(s[1] for s in maps)
        assert maps[0][2] > maps[-1][2]
        assert run(net.bytes())[0].shape == net.shape[net.nodes[-1].output[0]]
        net = NetBuilder(np.random.default_rng(seed))
        net.output(encoder(net))
        softmax = [net.shape[n.output[0]] for n in net.nodes if n.op_type == "Softmax"]
        assert len(softmax) >= 2
        assert len(set(softmax)) == 1
        assert np.isfinite(run(net.bytes())[0]).all()


def test_some_leave_the_batch_open(models: list[bytes]) -> None:
    opened = [any(d.dim_param for i in onnx.load_model_from_string(m).graph.input
                  for d in i.type.tensor_type.shape.dim) for m in models]
    assert 0.2 < sum(opened) / len(opened) < 0.8


def test_the_probe() -> None:
    assert [n.op_type for n in onnx.load_model_from_string(probe()).graph.node] == ["Conv", "Conv"]
    assert run(probe())[0].shape == (1, 64, 28, 28)
