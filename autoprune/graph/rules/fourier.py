"""Fourier transforms: positions of the transformed axes have a meaning, those of the others pass."""

from __future__ import annotations

from torch import fx

from autoprune.graph.dims import Dim
from autoprune.graph.typing import Call, NodeType, Typing, is_dynamic, rule

_KINDS = ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")


@rule(*(f"fft_{kind}{rank}" for kind in _KINDS for rank in ("", "2", "n")), "fft_fftshift", "fft_ifftshift",
      "_fft_c2c", "_fft_r2c", "_fft_c2r")
def transform(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x, shape = list(t.of(call["self"])), node.meta["val"].shape
    dims = call.get("dim")
    if dims is None:
        count = len(call["s"]) if call.get("s") is not None else len(x)
        dims = range(len(x) - count, len(x))
    for d in [dims] if isinstance(dims, int) else dims:
        t.freeze(x[d])
        x[d] = Dim(t.shape(node)[d], t.why, symbolic=is_dynamic(shape[d]))
    return x
