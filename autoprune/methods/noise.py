"""Numbers for the controls: the same for one seed and name, in any process."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch

__all__ = ["noise"]


def noise(seed: int, name: str, shape: Sequence[int]) -> torch.Tensor:
    """Uniform in [0, 1), of this shape."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{name}".encode()))
    return torch.rand(*shape, generator=generator)
