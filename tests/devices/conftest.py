from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from loopback import SSHD, Loopback
from onnx import TensorProto, helper, numpy_helper

Make = Callable[..., bytes]


def build(nodes: list[Any], weights: dict[str, np.ndarray], shape: list[Any]) -> bytes:
    """ONNX bytes of a graph whose input is `x` and whose last node gives the output."""
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in weights.items()])
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


def _weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32) * 0.1


@pytest.fixture(scope="session")
def matmul() -> Make:
    def make(side: int = 64, rows: int = 8) -> bytes:
        return build([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": _weight(side, side)}, [rows, side])
    return make


@pytest.fixture(scope="session")
def cnn() -> Make:
    """conv + batch norm + relu, depthwise, pointwise, pooled, classified."""
    def make(width: int = 32, batch: Any = "batch", side: int = 16) -> bytes:
        ones = np.ones(width, np.float32)
        nodes = [
            helper.make_node("Conv", ["x", "w0"], ["c0"], name="stem", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("BatchNormalization", ["c0", "s", "b", "m", "v"], ["n0"]),
            helper.make_node("Relu", ["n0"], ["r0"]),
            helper.make_node("Conv", ["r0", "w1"], ["c1"], name="mid", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c1"], ["r1"]),
            helper.make_node("Conv", ["r1", "w2"], ["c2"], name="dw", group=width, kernel_shape=[3, 3],
                             pads=[1, 1, 1, 1]),
            helper.make_node("Conv", ["c2", "w3"], ["c3"], name="dw2", group=width, kernel_shape=[3, 3],
                             pads=[1, 1, 1, 1], strides=[2, 2]),
            helper.make_node("Conv", ["c3", "w4"], ["c4"], name="pw", kernel_shape=[1, 1]),
            helper.make_node("GlobalAveragePool", ["c4"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Gemm", ["f", "w5"], ["y"], name="fc", transB=1),
        ]
        weights = {"w0": _weight(width, 3, 3, 3), "s": ones, "b": ones * 0, "m": ones * 0, "v": ones,
                   "w1": _weight(width, width, 3, 3), "w2": _weight(width, 1, 3, 3), "w3": _weight(width, 1, 3, 3),
                   "w4": _weight(2 * width, width, 1, 1), "w5": _weight(10, 2 * width)}
        return build(nodes, weights, [batch, 3, side, side])
    return make


@pytest.fixture(scope="session")
def unpriced() -> bytes:
    """An addition, and an operator that nobody counted (Det would need squares; CumSum takes any shape)."""
    nodes = [helper.make_node("Add", ["x", "x"], ["a"]), helper.make_node("CumSum", ["a", "axis"], ["y"])]
    return build(nodes, {"axis": np.array(0, np.int64)}, [64, 64])


@pytest.fixture(scope="session")
def external() -> bytes:
    """A model that claims to keep its weights in a file elsewhere."""
    model = onnx.load_model_from_string(build([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": _weight(4, 4)},
                                              [1, 4]))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return model.SerializeToString()


@pytest.fixture(scope="session")
def hidden_shape() -> bytes:
    """The size of NonZero's output cannot be inferred."""
    return build([helper.make_node("NonZero", ["x"], ["z"]),
                  helper.make_node("Cast", ["z"], ["y"], to=TensorProto.FLOAT)], {}, [4, 4])


@pytest.fixture(scope="session")
def einsum() -> bytes:
    node = helper.make_node("Einsum", ["x", "w"], ["y"], equation="bij,jk->bik")
    return build([node], {"w": _weight(5, 7)}, [2, 3, 5])


@pytest.fixture(scope="session")
def int8() -> bytes:
    """A quantised convolution: priced by its multiply-adds as if fp32, and marked."""
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
             helper.make_node("QLinearConv", ["q", "s", "z", "w", "s", "z8", "s", "z"], ["c"], kernel_shape=[3, 3],
                              pads=[1, 1, 1, 1]),
             helper.make_node("DequantizeLinear", ["c", "s", "z"], ["y"])]
    weights = {"s": np.array(0.1, np.float32), "z": np.array(0, np.uint8), "z8": np.array(0, np.int8),
               "w": np.ones((16, 8, 3, 3), np.int8)}
    return build(nodes, weights, [1, 8, 6, 6])


@pytest.fixture(scope="session")
def _sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("no sshd here: apt-get install openssh-server")
    it = Loopback(tmp_path_factory.mktemp("sshd"))
    yield it
    it.close()


@pytest.fixture
def loopback(_sshd: Loopback, monkeypatch: pytest.MonkeyPatch) -> Loopback:
    """A device behind a real sshd, as it was at first."""
    monkeypatch.setenv("AUTOPRUNE_SSH_CONFIG", str(_sshd.config))
    _sshd.reset()
    return _sshd
