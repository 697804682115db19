"""From the options `--model`, `--data` and `--input` to a model with example inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from autoprune.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from autoprune.graph.graph import Graph

__all__ = ["load_model_and_inputs", "load_onnx", "load_traced", "load_variants", "parse_shape"]

_VARIANTS = 12


def parse_shape(text: str) -> Any:
    """`1x3x224x224` is a tensor of random floats, `1x128:int` one of zeros (token ids)."""
    import torch

    body, _, kind = text.partition(":")
    try:
        shape = [int(n) for n in body.lower().split("x")]
    except ValueError:
        shape = []
    if not shape or any(n < 1 for n in shape) or kind not in ("", "float", "int"):
        raise ConfigError("not an input shape", given=repr(text), allowed="1x3x224x224 or 1x128:int",
                          fix="--input 1x3x224x224")
    generator = torch.Generator().manual_seed(0)
    return torch.zeros(shape, dtype=torch.int64) if kind == "int" else torch.randn(shape, generator=generator)


def load_model_and_inputs(model: str | None, data: str | None, shapes: list[str] | None) -> tuple[nn.Module, Any]:
    """The model and its example inputs; the built-in example when nothing is given."""
    from autoprune.tasks.build import load_task
    from autoprune.tasks.models import load_model

    if shapes:
        if model is None:
            raise ConfigError("--input needs --model", fix="--model nets.py:make --input 1x3x224x224")
        return load_model(model), tuple(parse_shape(s) for s in shapes)
    if model is not None and data is None:
        raise ConfigError("the model needs example inputs", given=f"--model {model}", allowed="--data SPEC, or --input "
                          "1x3x224x224", fix=f"--model {model} --input 1x3x224x224")
    task = load_task(model, data)
    return task.model, task.example_inputs


def load_onnx(model: str | None, data: str | None, shapes: list[str] | None) -> bytes:
    """ONNX bytes of a file, at the sizes of the shapes where there are any, or of a model exported with its example
    inputs.
    """
    from autoprune.nas.oracle import to_onnx_bytes

    if model is not None and model.endswith(".onnx"):
        return to_onnx_bytes(model, tuple(parse_shape(s) for s in shapes) if shapes else None)
    return to_onnx_bytes(*load_model_and_inputs(model, data, shapes))


def load_variants(model: str, data: str | None, shapes: list[str] | None, align: int) -> Iterator[bytes]:
    """ONNX bytes of a model and of pruned variants of it, at widths that are multiples of `align`; of an ONNX file
    its own only.
    """
    if model.endswith(".onnx"):
        yield load_onnx(model, data, shapes)
    else:
        from autoprune.search.variants import variants

        yield from variants(load_traced(model, data, shapes), _VARIANTS, align)


def load_traced(model: str | None, data: str | None, shapes: list[str] | None) -> Graph:
    from autoprune.graph.graph import trace

    module, inputs = load_model_and_inputs(model, data, shapes)
    return trace(module, inputs)
