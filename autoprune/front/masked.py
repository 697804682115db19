"""What a mask did: scores, nonzeros by layer, bytes on disk, and what it does not do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from autoprune.methods.masks.size import SPARSE_FILE, save_sparse, zipped_bytes
from autoprune.tasks.score import Score

if TYPE_CHECKING:
    from autoprune.graph.module import PrunedModule

__all__ = ["MaskReport", "nonzeros", "sizes"]


@dataclass(frozen=True)
class MaskReport:
    """before, after: scores of the model as it came and masked, on the test split. params: of the model; nonzeros: of
    those, other than zero. layers: name → (nonzeros, size) of each masked weight. dense: names of weights of two or
    more axes without a mask. size_bytes: see `sizes`. speed: what the masks mean for latency on the device.
    """

    before: Score
    after: Score
    params: int
    nonzeros: int
    layers: Mapping[str, tuple[int, int]]
    dense: tuple[str, ...]
    size_bytes: Mapping[str, int]
    speed: str
    recipe: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "layers": {n: list(v) for n, v in self.layers.items()}, "dense": list(self.dense)}


def nonzeros(model: PrunedModule) -> dict[str, tuple[int, int]]:
    """Name → (elements other than zero, elements) of each parameter."""
    return {n: (int(torch.count_nonzero(p)), p.numel()) for n, p in model.named_parameters()}


def sizes(model: PrunedModule, folder: Path) -> dict[str, int]:
    """Bytes of the weights as they are, of `model.onnx` and of its zip, and of `weights.sparse.zip` (zeros left out,
    then zipped), which is written into `folder`; `model.onnx` has to be there.
    """
    onnx_bytes = (folder / "model.onnx").read_bytes()
    return {"weights": sum(t.numel() * t.element_size() for t in model.tensors().values()), "onnx": len(onnx_bytes),
            "onnx_zip": zipped_bytes(onnx_bytes),
            "sparse_zip": save_sparse(model.tensors(), folder / SPARSE_FILE)}

