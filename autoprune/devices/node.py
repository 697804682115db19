"""`Node`: one operator of the graph after onnxruntime's own optimisation, and the price class it belongs to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Node"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """One operator of the optimised graph.

    Units: elements (not bytes) for `in_elems` (activations read), `out_elems`, `weights` (parameters read);
    multiply-adds for `macs`. `cls` is the price class ("conv3x3", "pointwise", "stem", "conv", "grouped",
    "depthwise", "depthwise_other", "gemm", an elementwise class, "free" or "unknown"; see `classes.py`). `activation`
    is the operator fused into this node as its activation, or "". `gather` is the number of elements that im2col lays
    out, `rows` the number of contiguous runs they come in; both 0 where there is no im2col. `run` is how many elements
    are handled at once by a broadcast, copy or transpose (`runs.py`), 0 for the length of the last axis. `since` is
    how many nodes ago one of the same operator and class ran, 0 for the first of them.
    """

    name: str
    op: str
    cls: str
    macs: int = 0
    in_elems: int = 0
    out_elems: int = 0
    weights: int = 0
    in_shapes: tuple[Shape, ...] = ()
    out_shapes: tuple[Shape, ...] = ()
    kernel: Shape = ()
    stride: int = 1
    groups: int = 1
    gather: int = 0
    rows: int = 0
    run: int = 0
    since: int = 0
    activation: str = ""
    priced: bool = True
    features: Mapping[str, float] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", _features(self))

    @property
    def weights_read(self) -> int:
        """Weights that one run reads: of a table that is looked up, the rows that are found."""
        return min(self.weights, self.out_elems) if self.op.startswith("Gather") else self.weights

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values (the derived `features` are left out)."""
        data = asdict(self)
        del data["features"]
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Node:
        """The inverse of `to_json`."""
        shapes = {k: tuple(tuple(s) for s in data.get(k, ())) for k in ("in_shapes", "out_shapes")}
        return cls(**{**data, **shapes, "kernel": tuple(data.get("kernel", ()))})


def _features(node: Node) -> dict[str, float]:
    """The quantities that a cost table multiplies its coefficients with, by name."""
    shape = node.out_shapes[0] if node.out_shapes else ()
    conv = len(shape) >= 4 and bool(node.kernel) and bool(node.macs)
    out_h = shape[-2] if len(shape) >= 4 else 1
    pixels = math.prod(shape[2:]) if conv else 1
    strided = node.stride > 1
    window = math.prod(node.kernel) if node.kernel else 1
    vector = node.cls in ("gemm", "int8_gemm", "int8_dynamic") and 0 < node.macs <= node.weights
    return {"one": 1.0, "macs": float(node.macs), "in": float(node.in_elems), "out": float(node.out_elems),
            # MLAS computes output pixels in blocks of 16 and a last one of 8 ("macs_tail"), or of 4 for one channel
            "macs8": node.macs * _padded(pixels, 8), "macs4": node.macs * _padded(pixels, 4),
            "macs_tail": node.macs * 8 / pixels if -(-pixels // 8) % 2 else 0.0,
            # x86 computes channels in blocks, of 8 with AVX2 and 16 with AVX-512
            "macs_c8": node.macs * _channels(node, 8), "macs_c16": node.macs * _channels(node, 16),
            # the pass that adds a bias, or applies an activation, or both
            "biased": float(node.out_elems) if conv and (
                node.activation or node.weights * pixels * shape[0] != node.macs) else 0.0,
            "weights": float(node.weights), "gather1": 0.0 if strided else float(node.gather),
            "gather2": float(node.gather) if strided else 0.0, "rows1": 0.0 if strided else float(node.rows),
            "rows2": float(node.rows) if strided else 0.0,
            "groups": float(node.groups), "group_rows": float(node.groups * out_h),
            "gemv_weights": float(node.weights) if vector else 0.0,
            "window": float(node.out_elems * window),
            "lines": node.out_elems / max(node.run or (shape[-1] if shape else 1), 1)}


def _padded(count: int, block: int) -> float:
    """How much is computed for one that is wanted, in blocks."""
    return -(-count // block) * block / count


def _channels(node: Node, block: int) -> float:
    """How much work a convolution does for one unit of it that is wanted, with channels rounded up to blocks."""
    if node.groups != 1 or not node.kernel or not node.in_shapes or len(node.in_shapes[0]) < 3 or not node.out_shapes:
        return 1.0
    read, made = node.in_shapes[0][1], node.out_shapes[0][1]
    return _padded(made, block) * (_padded(read, block) if read > 4 else 1.0)  # a stem's few channels stay as they are
