"""Models put together around their tensors are what protobuf would have written."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from autoprune.graph.onnx_bytes import array_of, serialize


def model(names: list[str]) -> Any:
    graph = helper.make_graph([helper.make_node("Sum", names, ["y"])], "net", [],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    return helper.make_model(graph, producer_name="test", opset_imports=[helper.make_opsetid("", 18)])


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "int32", "uint8", "int8", "bool"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4), (200, 300)])
def test_every_type_and_shape_comes_back(dtype: str, shape: tuple[int, ...]) -> None:
    value = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    read = onnx.ModelProto.FromString(serialize(model(["w"]), {"w": value}))
    [tensor] = read.graph.initializer
    back = numpy_helper.to_array(tensor)
    assert tensor.name == "w"
    assert back.dtype == value.dtype
    assert back.shape == value.shape
    assert np.array_equal(back, value)


def test_it_reads_as_what_protobuf_writes() -> None:
    values = {f"w{i}": np.full((i + 1, 70), i, np.float32) for i in range(5)}
    plain = model(list(values))
    plain.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in values.items())
    given: dict[str, Any] = dict(values)
    given["w3"] = numpy_helper.from_array(values["w3"], "w3")  # a message stays what it is
    assert onnx.ModelProto.FromString(serialize(model(list(values)), given)) == plain


def test_bfloat16_is_kept() -> None:
    tensor = torch.randn(3, 5).bfloat16()
    read = onnx.ModelProto.FromString(serialize(model(["w"]), {"w": array_of(tensor)}))
    assert read.graph.initializer[0].data_type == TensorProto.BFLOAT16
    back = numpy_helper.to_array(read.graph.initializer[0]).astype(np.float32)
    assert np.array_equal(back, tensor.float().numpy())


def test_any_layout_is_written_row_by_row() -> None:
    tensor = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    read = onnx.ModelProto.FromString(serialize(model(["w"]), {"w": array_of(tensor)}))
    assert np.array_equal(numpy_helper.to_array(read.graph.initializer[0]), tensor.numpy())


def test_a_scalar_stays_a_scalar() -> None:
    read = onnx.ModelProto.FromString(serialize(model(["w"]), {"w": array_of(torch.tensor(3.5))}))
    assert list(read.graph.initializer[0].dims) == []
