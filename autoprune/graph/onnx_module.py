"""A torch module that runs an ONNX model: what is scored where onnxruntime, and not torch, computes the candidate."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils import _pytree as pytree

from autoprune.errors import ModelError
from autoprune.graph.trace import split_inputs

__all__ = ["OnnxModule", "feed"]


def feed(names: list[str], example_inputs: Any, inputs: Any) -> dict[str, NDArray[Any]]:
    """The arrays for an ONNX model's inputs `names`, from a batch in the form of `example_inputs`.

    Keyword inputs that the example has not (labels) are left out. Raises `ModelError` when tensors are missing.
    """
    (example_args, example_kwargs), (args, kwargs) = split_inputs(example_inputs), split_inputs(inputs)
    missing = [name for name in example_kwargs if name not in kwargs]
    leaves = pytree.tree_leaves((args[: len(example_args)], {k: kwargs[k] for k in example_kwargs if k in kwargs}))
    tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
    if missing or len(tensors) != len(names):
        raise ModelError("a batch does not fit the inputs of the ONNX model", given=f"{len(tensors)} tensors",
                         allowed=", ".join(names), fix="give batches in the form of the example inputs")
    return {name: x.detach().cpu().numpy() for name, x in zip(names, tensors, strict=True)}


class OnnxModule(nn.Module):
    """Inputs and outputs in the form of those of `like`, computed by onnxruntime on this machine's CPU.

    like: the torch model that the ONNX model was exported from; it runs once, on `example_inputs`, and is not kept.
    A fixed batch in the ONNX model is that of every batch. Raises `ModelError` when onnxruntime cannot load or run it.
    """

    def __init__(self, onnx_bytes: bytes, like: nn.Module, example_inputs: Any):
        super().__init__()
        import onnxruntime as ort

        self._example = example_inputs
        args, kwargs = split_inputs(example_inputs)
        like.eval()
        with torch.no_grad():
            self._leaves, self._form = pytree.tree_flatten(like(*args, **kwargs))
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = ort.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a family of classes with no common public base
            raise ModelError("onnxruntime cannot load the model", given=str(error).strip()[:400]) from error
        self._names = [i.name for i in self._session.get_inputs()]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs for one batch, on the CPU, without gradients."""
        arrays = feed(self._names, self._example, kwargs or args)
        try:
            found = iter(self._session.run(None, arrays))
        except Exception as error:  # as above
            raise ModelError("onnxruntime cannot run the model on a batch", given=str(error).strip()[:400]) from error
        leaves = [torch.from_numpy(np.asarray(next(found))) if isinstance(x, torch.Tensor) else x
                  for x in self._leaves]
        return pytree.tree_unflatten(leaves, self._form)
