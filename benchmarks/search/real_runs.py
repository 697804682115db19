"""Runs on disk: what a run found, and its fronts' models without the values of their weights.

A model is as fast with other weights of the same shapes, so a run can be timed again later, elsewhere, on any machine.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from autoprune.files import replace_file

__all__ = ["Run", "read_runs", "run_name", "runnable", "without_weights"]

_LARGEST_KEPT = 8  # elements: shapes, limits, scales


@dataclass(frozen=True)
class Run:
    """`row`: task, way, seed, seconds, the device that predicted, the dense net's ms (as predicted) and test score, and
    every point (`score.Point`); `models`: ONNX of those points that are on a front, by their place, without weights.
    """

    row: dict[str, Any]
    models: dict[int, bytes]

    @property
    def name(self) -> str:
        return run_name(*(self.row[key] for key in ("task", "way", "seed", "seconds")))

    @property
    def digest(self) -> str:
        """Of what was run: a run of the same name made anew has another one."""
        return hashlib.sha256(json.dumps(self.row).encode()).hexdigest()[:16]

    def write(self, folder: Path) -> None:
        """Into `folder`/NAME.tar.xz; models of one net differ little, and are compressed together."""
        content = io.BytesIO()
        files = {"run.json": json.dumps(self.row).encode(), **{f"{k}.onnx": v for k, v in self.models.items()}}
        with tarfile.open(fileobj=content, mode="w:xz") as archive:
            for name, data in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / f"{self.name}.tar.xz", content.getvalue())


def run_name(task: str, way: str, seed: int, seconds: float) -> str:
    return "-".join((task, *way.replace(",", "").split(), str(seed), f"{seconds:g}s"))


def read_runs(folder: Path) -> list[Run]:
    """All runs in `folder`, by name."""
    found = []
    for file in sorted(folder.glob("*.tar.xz")):
        with tarfile.open(file) as archive:
            members = {m.name: archive.extractfile(m) for m in archive}
            files = {name: content.read() for name, content in members.items() if content is not None}  # no folders
        found.append(Run(json.loads(files.pop("run.json")),
                         {int(name.removesuffix(".onnx")): data for name, data in files.items()}))
    return found


def without_weights(onnx_bytes: bytes) -> bytes:
    """The model with the values of its larger float tensors left out."""
    model = onnx.load_from_string(onnx_bytes)
    for tensor in _weights(model):
        tensor.raw_data = b""
    return bytes(model.SerializeToString())


def runnable(onnx_bytes: bytes, seed: int = 0) -> bytes:
    """What `without_weights` made, with random weights."""
    model, random = onnx.load_from_string(onnx_bytes), np.random.default_rng(seed)
    for tensor in _weights(model):
        shape = tuple(tensor.dims)
        values = (random.uniform(0.5, 1.5, shape) if len(shape) == 1  # a variance must not be negative
                  else random.normal(0.0, 1 / math.sqrt(math.prod(shape[1:])), shape))
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    return bytes(model.SerializeToString())


def _weights(model: onnx.ModelProto) -> list[TensorProto]:
    return [t for t in model.graph.initializer
            if t.data_type == TensorProto.FLOAT and math.prod(t.dims) > _LARGEST_KEPT]
