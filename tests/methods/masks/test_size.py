"""The compressed file: exact, smaller with more zeros, and refused when it is something else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autoprune.errors import ConfigError
from autoprune.methods.masks.size import load_sparse, save_sparse, zipped_bytes


def test_what_was_saved_comes_back_exactly(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    sparse = torch.randn(40, 30, generator=g) * (torch.rand(40, 30, generator=g) < 0.1)
    tensors = {"sparse": sparse, "half": sparse.to(torch.bfloat16), "dense": torch.randn(7, generator=g),
               "zeros": torch.zeros(3, 5, 2, 2), "count": torch.tensor(3), "empty": torch.zeros(0, 4),
               "turned": sparse.T}
    save_sparse(tensors, tmp_path / "x.zip")
    back = load_sparse(tmp_path / "x.zip")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor), name


def test_more_zeros_make_it_smaller_than_zipping_alone(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    weight, order = torch.randn(200, 200, generator=g), torch.rand(200, 200, generator=g)
    sizes = [save_sparse({"w": weight * (order < kept)}, tmp_path / "x.zip") for kept in (1.0, 0.5, 0.1, 0.02)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 200 * 200 * 4 / 20
    assert sizes[-1] < zipped_bytes((weight * (order < 0.02)).numpy().tobytes())


@pytest.mark.parametrize("content", [b"", b"not a zip"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="holds no sparse weights"):
        load_sparse(path)
    with pytest.raises(ConfigError, match="holds no sparse weights"):
        load_sparse(tmp_path / "missing.zip")
