"""A serialised ONNX model put together around its tensors.

protobuf copies every tensor into the message and then the message into the bytes, growing them as it goes. A message's
encoding is the concatenation of its fields' encodings (https://protobuf.dev/programming-guides/encoding/), so the few
kilobytes of nodes are left to protobuf, and the tensors are laid behind them in one copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch

__all__ = ["array_of", "serialize"]

_GRAPH = 7  # ModelProto.graph; these are the field numbers of onnx.proto
_INITIALIZER = 5  # GraphProto.initializer
_RAW_DATA = 9  # TensorProto.raw_data


def serialize(model: Any, initializers: Mapping[str, Any]) -> bytes:
    """`model` (a `ModelProto` whose graph has no initialisers) with `initializers`: name → array or `TensorProto`."""
    pieces: list[Any] = [model.graph.SerializeToString()]
    for name, value in initializers.items():
        pieces += _tensor(name, value) if isinstance(value, np.ndarray) else _field(_INITIALIZER, [_bytes(value)])
    outside = type(model)()
    outside.CopyFrom(model)
    outside.ClearField("graph")
    return b"".join([_bytes(outside), *_field(_GRAPH, pieces)])


def array_of(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """A C-contiguous array, without a copy where possible; bfloat16 is that of `ml_dtypes`, as onnx has it."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype is not torch.bfloat16:
        return np.asarray(tensor.numpy(), order="C")
    from ml_dtypes import bfloat16

    return tensor.view(torch.int16).numpy().view(bfloat16)


def _tensor(name: str, array: np.ndarray[Any, Any]) -> Iterator[Any]:
    from onnx import TensorProto, helper

    dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
    header = TensorProto(name=name, dims=array.shape, data_type=dtype)
    raw = _field(_RAW_DATA, [array.reshape(-1).view(np.uint8).data]) if array.size else []
    yield from _field(_INITIALIZER, [_bytes(header), *raw])


def _field(number: int, pieces: list[Any]) -> list[Any]:
    """A length-delimited field with `pieces` one after the other."""
    return [_varint(number << 3 | 2) + _varint(sum(len(p) for p in pieces)), *pieces]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _bytes(message: Any) -> bytes:
    return cast(bytes, message.SerializeToString())
