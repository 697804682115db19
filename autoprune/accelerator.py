"""Where models are trained and scored: on a CUDA (or ROCm) GPU if torch sees one, on the CPU otherwise.

Graphs, plans, statistics and files live on the CPU. What takes long borrows the GPU: `with on_accelerator(model): …`.
Other accelerators (MPS lacks float64) are not used. `CUDA_VISIBLE_DEVICES=` keeps everything on the CPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

__all__ = ["device_of", "on_accelerator", "to_device"]


@contextmanager
def on_accelerator(*models: nn.Module) -> Iterator[None]:
    """Those `models` whose parameters are on the CPU are on the GPU inside, and on the CPU again afterwards. Without a
    GPU nothing happens.
    """
    moved = [m for m in models if device_of(m).type == "cpu"] if torch.cuda.is_available() else []
    try:
        for model in moved:
            model.to("cuda")
        yield
    finally:
        for model in moved:
            model.to("cpu")


def device_of(model: nn.Module) -> torch.device:
    """The device of the first parameter; of a model without any, that of its first buffer, or the CPU."""
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def to_device(value: Any, device: torch.device | str) -> Any:
    """The same nesting with every tensor on `device`."""
    return pytree.tree_map_only(torch.Tensor, lambda leaf: leaf.to(device), value)
