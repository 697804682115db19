"""How small a masked model is on disk: zeros left out, then zipped."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch

from autoprune.errors import ConfigError

__all__ = ["SPARSE_FILE", "load_sparse", "save_sparse", "sparse_zip", "zipped_bytes"]

SPARSE_FILE = "weights.sparse.zip"
_MEMBER = "weights.safetensors"
_BITS, _SHAPE = "//bits", "//shape"


def save_sparse(tensors: Mapping[str, torch.Tensor], path: str | os.PathLike[str]) -> int:
    """Write `sparse_zip` of the tensors into a file; returns its bytes."""
    return Path(path).write_bytes(sparse_zip(tensors))


def sparse_zip(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Tensors as a zipped safetensors file without their zeros.

    A tensor that gets smaller by it is stored as its values other than zero, one bit per element that says where they
    are, and its shape; others as they are. The file is an ordinary zip (deflate), and exact: no value is rounded.
    """
    from safetensors.torch import save

    out: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        t = tensor.detach().cpu().contiguous()
        nonzero = t.flatten() != 0
        if t.element_size() * int((~nonzero).sum()) > t.numel() // 8 + 8 * t.dim():
            out[name], out[name + _BITS] = t.flatten()[nonzero], _pack(nonzero)
            out[name + _SHAPE] = torch.tensor(t.shape)
        else:
            out[name] = t
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr(zipfile.ZipInfo(_MEMBER), save(out), zipfile.ZIP_DEFLATED, 9)
    return written.getvalue()


def load_sparse(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """The tensors that `save_sparse` wrote. `ConfigError` when the file is not one of its own."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        with zipfile.ZipFile(path) as archive:
            stored = load(archive.read(_MEMBER))
        out: dict[str, torch.Tensor] = {}
        for name in (n for n in stored if not n.endswith((_BITS, _SHAPE))):
            out[name] = stored[name]
            if name + _BITS in stored:
                shape = stored[name + _SHAPE].tolist()
                dense = torch.zeros(shape, dtype=stored[name].dtype).flatten()
                dense[_unpack(stored[name + _BITS], dense.numel())] = stored[name]
                out[name] = dense.reshape(shape)
        return out
    except (OSError, KeyError, zipfile.BadZipFile, SafetensorError, RuntimeError) as error:
        raise ConfigError("the file holds no sparse weights", given=f"{path}: {type(error).__name__}: {error}",
                          fix="write it again with save_sparse()") from error


def zipped_bytes(data: bytes) -> int:
    """Size of `data` under deflate, as in a zip."""
    import zlib

    return len(zlib.compress(data, 9))


def _pack(bits: torch.Tensor) -> torch.Tensor:
    import numpy as np

    return torch.from_numpy(np.packbits(bits.numpy()))


def _unpack(packed: torch.Tensor, count: int) -> torch.Tensor:
    import numpy as np

    return torch.from_numpy(np.unpackbits(packed.numpy(), count=count).astype(bool))
