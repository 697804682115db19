"""Static int8 quantisation of an ONNX model: weights in int8 per channel, activations in uint8 with ranges that are
read off calibration batches (QDQ; Jacob 2018, arXiv:1712.05877). onnxruntime fuses the pairs into int8 kernels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.errors import ConfigError, ModelError
from autoprune.graph.onnx_module import feed
from autoprune.graph.quiet import quiet

__all__ = ["quantize", "weight_bytes"]

_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Gather")
# Softmax and norms stay in fp32: onnxruntime has no int8 kernel for norms, and 256 steps are few for probabilities.
_BETWEEN = ("Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "MaxPool", "AveragePool", "GlobalAveragePool",
            "Concat", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Pad", "Resize")
_HUGE = 1e4
"""Values beyond this are no activations: an attention mask's -3e38 in a sum would leave one step for all others (on a
BERT with random weights the outputs were off by 150 % of their size, and by 11 % with such nodes in fp32)."""


def quantize(onnx_bytes: bytes, example_inputs: Any, batches: Iterable[Any]) -> bytes:
    """The model in int8, as serialised ONNX.

    batches: inputs in the form of `example_inputs`, of training data; the range of each activation is the least and the
    largest value that it takes on them. What has no int8 kernel stays in fp32 between a dequantisation and a
    quantisation. Costs one pass over the batches in onnxruntime, and about 0.1 s for a small net.

    Raises `ConfigError` without batches, `ModelError` when the model cannot be loaded, run or quantised, or has nothing
    to quantise.
    """
    import onnx

    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
        model = _simplified(onnx_bytes, Path(folder) / "simplified.onnx")
        held = {i.name for i in model.graph.initializer}
        names = [i.name for i in model.graph.input if i.name not in held]
        feeds = [feed(names, example_inputs, inputs) for inputs in batches]
        if not feeds:
            raise ConfigError("int8 needs calibration data", given="no batches",
                              allowed="at least one batch of inputs, from the training data",
                              fix="calibration_batches = 6 under [recover], and a training split that is not empty")
        path = Path(folder) / "int8.onnx"
        try:
            with quiet():
                _write(model, feeds, path)
        except Exception as error:  # the quantiser raises ValueError, AssertionError, onnxruntime's and protobuf's own
            raise ModelError("onnxruntime cannot quantise the model",
                             given=f"{type(error).__name__}: {str(error).strip()[:300]}",
                             fix='leave "int8" out of precisions') from error
        found = onnx.load(str(path))
    if not any(n.op_type == "QuantizeLinear" for n in found.graph.node):
        raise ModelError("nothing in this model can be computed in int8",
                         given=", ".join(sorted({n.op_type for n in model.graph.node})[:12]),
                         allowed=f"a model with one of {', '.join(_LINEAR)}", fix='leave "int8" out of precisions')
    content: bytes = found.SerializeToString()
    return content


def weight_bytes(onnx_bytes: bytes) -> int:
    """Bytes of all constants of an ONNX model."""
    import onnx

    graph = onnx.load_from_string(onnx_bytes).graph
    return sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in graph.initializer)


def _simplified(onnx_bytes: bytes, path: Path) -> Any:
    """The model with norms folded into convolutions and constants computed, with the shapes of what is between."""
    import onnx
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    try:
        ort.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
        return onnx.shape_inference.infer_shapes(onnx.load(str(path)))
    except Exception as error:  # onnxruntime raises a family of classes with no common public base
        raise ModelError("onnxruntime cannot load the model", given=str(error).strip()[:400],
                         fix="check it with onnx.checker.check_model") from error


class _Reader:
    """What onnxruntime calls a `CalibrationDataReader`."""

    def __init__(self, feeds: list[dict[str, Any]]):
        self._left = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._left, None)


def _write(model: Any, feeds: list[dict[str, Any]], path: Path) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quantize_static(model, path, _Reader(feeds), quant_format=QuantFormat.QDQ, per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                    op_types_to_quantize=[*_LINEAR, *_BETWEEN], nodes_to_exclude=_beyond(model, feeds[0]))


def _beyond(model: Any, arrays: dict[str, Any]) -> list[str]:
    """Names of the nodes that read or give a value beyond `_HUGE`, or one that is not finite, on one batch."""
    import onnx
    import onnxruntime as ort

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    given = {o.name for o in probe.graph.output}
    made = {name for n in probe.graph.node for name in n.output}  # shapes are also given of what was fused away
    floats = [v.name for v in probe.graph.value_info
              if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT and v.name in made]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in floats if name not in given)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = dict(zip(floats, session.run(floats, arrays), strict=True)) if floats else {}
    values |= {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer
               if t.data_type == onnx.TensorProto.FLOAT}
    huge = {name for name, x in values.items() if x.size and not float(np.abs(x).max()) < _HUGE}
    return [n.name for n in model.graph.node if huge & {*n.input, *n.output}]
