from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


def _model(width: int) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {"w0": rng.standard_normal((width, 3, 3, 3)), "w1": rng.standard_normal((10, width, 1, 1))}
    nodes = [helper.make_node("Conv", ["x", "w0"], ["c"], pads=[1, 1, 1, 1]), helper.make_node("Relu", ["c"], ["r"]),
             helper.make_node("Conv", ["r", "w1"], ["y"])]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture
def cnn() -> Callable[[int], bytes]:
    """Two convolutions of so many channels in between."""
    return lambda width: _model(width).SerializeToString()


@pytest.fixture
def external() -> bytes:
    """A model that claims to keep its weights in a file elsewhere."""
    model = _model(8)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    data: bytes = model.SerializeToString()
    return data
