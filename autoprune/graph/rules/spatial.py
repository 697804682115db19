"""Pooling and interpolation: channels pass, spatial axes are fresh and frozen."""

from __future__ import annotations

from typing import Any

from torch import fx

from autoprune.graph.typing import Call, NodeType, Typing, rule

_RANK = {"1d": 1, "2d": 2, "3d": 3}
_POOLS = tuple(f"{kind}_pool{d}" for kind in ("max", "avg", "lp", "adaptive_avg", "adaptive_max", "_adaptive_avg")
               for d in _RANK)


def _spatial_rank(name: str) -> int | None:
    return next((n for suffix, n in _RANK.items() if suffix in name), None)


@rule(*_POOLS, *(f"max_pool{d}_with_indices" for d in _RANK), "upsample_nearest1d", "upsample_nearest2d",
      "upsample_nearest3d", "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d",
      "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "_upsample_nearest_exact2d", "_upsample_nearest_exact1d",
      "upsample_linear1d", "fractional_max_pool2d")
def resample(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x = t.of(node.args[0])
    rank = _spatial_rank(str(node.target)) or len(x) - 2
    t.freeze(*x[len(x) - rank :])

    def one(value: Any) -> list[Any]:
        from autoprune.graph.typing import shape_of

        return [*x[: len(x) - rank], *[t.frozen(n) for n in shape_of(value)[len(x) - rank :]]]

    value = node.meta["val"]
    return [one(v) for v in value] if isinstance(value, tuple | list) else one(value)


@rule("max_unpool2d", "max_unpool3d")
def max_unpool(t: Typing, node: fx.Node, call: Call) -> NodeType:
    """Indices are positions on the spatial axes of their own channel, so channels pass."""
    x, indices, shape = t.of(call["self"]), t.of(call["indices"]), t.shape(node)
    rank = 2 if "2d" in str(node.target) else 3
    t.freeze(*x[-rank:], *indices[-rank:])
    for a, b in zip(x[:-rank], indices[:-rank], strict=True):
        t.unify(a, b)
    return [*x[:-rank], *[t.frozen(n) for n in shape[-rank:]]]


@rule("grid_sampler", "grid_sampler_2d", "grid_sampler_3d", "grid_sample")
def grid_sampler(t: Typing, node: fx.Node, call: Call) -> NodeType:
    x, grid = t.of(call["input"]), t.of(call["grid"])
    t.freeze(*grid, *x[2:])
    return [*x[:2], *[t.frozen(n) for n in t.shape(node)[2:]]]
