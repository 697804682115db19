"""What a device's kernels cost, learnt from timed nodes: `KernelModel.fit(samples)`, then `ms(nodes)`.

One Gaussian process per kind of operator, on the logarithm of the time. Its mean is a power law of the node's work
and memory traffic, with exponents from 0 up, so that it extrapolates; its kernel is Matérn 5/2 with a length per
feature (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, eq. 4.17 and ch. 5). What a smooth
function of sizes cannot see, such as the part of a vector block that is padding, is a feature of its own. A kind that
was hardly ever timed is priced as its class is (arithmetic, moving, …); what was never seen at all, as any node.

What this is not: it knows one thread count, one runtime version and an otherwise idle device.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoprune.devices.node import Node

__all__ = ["KernelModel", "kind_of"]

_TICK_MS = 0.0015  # added to what a node costs; keeps the logarithm of a node of no size finite
_LEAST_MS = 1e-5  # of a price: where the profiler saw no time at all, some went by
_ENOUGH = 24  # nodes of a kind from which what its power law leaves over is learnt too
_ANY = 300  # nodes of whatever kind that price what was never seen
_MOST, _TUNE = 2500, 300  # nodes that a model keeps, and that its length scales are fitted to
_CLIMB = 12  # steps towards the most likely length scales
_SMALL = 64
_COLD = 64  # nodes after which a kernel's code has left the caches
_BLOCK, _TILE = 16, 6  # channels in a block and pixels in a tile of onnxruntime's AVX-512 convolution
_OTHER = "other"
_FEATURES = 5  # raise it when kinds, classes or features change: what was learnt before fits no more


def kind_of(node: Node) -> str:
    """Which kernel runs a node: nodes of one kind share a model."""
    op = node.op.removeprefix("nchwc.")
    if op in ("Conv", "FusedConv"):
        cls = "depthwise" if node.cls.startswith("depthwise") else "conv" if node.cls == "conv3x3" else node.cls
        if math.prod(node.out_shapes[0][2:]) == 1:
            cls = f"{cls} of one pixel"  # what it takes is to read the weights
        if node.op == op:
            return cls
        few = node.groups == 1 and node.in_shapes[0][1] < _BLOCK  # read unblocked: another kernel
        return f"nchwc.{'stem' if few else cls}"
    if node.cls == "gemm" and op not in ("LSTM", "GRU", "RNN", "ConvTranspose"):
        if node.weights and node.macs <= node.out_elems * node.weights / max(1, _last(node)) and _rows(node) == 1:
            return "gemv"
        return "gemm of weights" if node.weights > _last(node) else "gemm of activations"
    if _is_small(node):
        return f"small {node.op}"
    if node.cls.startswith("reduce"):  # along the last axis, or along others
        return f"{node.op} {node.cls}"
    return node.cls if op == "Transpose" else node.op


def _is_small(node: Node) -> bool:
    """Arithmetic on sizes: what it takes has nothing to do with them."""
    return not node.macs and max(node.in_elems, node.out_elems) <= _SMALL


def _class_of(node: Node) -> str:
    """What a kind falls back to."""
    if node.macs:
        return f"work {node.cls}" if node.cls == "gemm" else "work convolution"
    if _is_small(node) or node.cls in ("free", "unknown"):
        return "small" if _is_small(node) else "free"
    return "moving" if node.cls.startswith(("copy", "transpose", "resize")) else "arithmetic"


def _last(node: Node) -> int:
    return node.out_shapes[0][-1] if node.out_shapes and node.out_shapes[0] else 1


def _rows(node: Node) -> int:
    return max(1, node.out_elems // max(1, _last(node)))


def _log(value: float) -> float:
    return math.log(max(value, 1.0))


def _padding(size: int, step: int) -> float:
    """Logarithm of how much larger `size` is when rounded up to a multiple of `step`."""
    return math.log(-(-size // step) * step / size) if size > 0 else 0.0


def _base(node: Node) -> list[float]:
    """Work and traffic (the mean sees these two), what the traffic is made of, and how cold the kernel's code is."""
    traffic = node.in_elems + node.out_elems + node.weights_read
    return [_log(node.macs), _log(traffic), _log(node.in_elems), _log(node.out_elems), _log(node.weights_read),
            _log(min(node.since or _COLD, _COLD))]


def _conv(node: Node) -> list[float]:
    out, first = node.out_shapes[0], node.in_shapes[0] if node.in_shapes else ()
    channels, width = out[1] if len(out) > 1 else 1, out[-1]
    act = node.activation  # the kernel itself stops at zero; what else follows is a pass of its own over the output
    return [_log(first[1] if len(first) > 1 else 1), _log(channels), _log(math.prod(out[2:])),
            _log(math.prod(node.kernel)), float(node.stride > 1), _log(node.groups), _log(width),
            _padding(channels, _BLOCK), _padding(-(-channels // _BLOCK), 4), _padding(width, _TILE),
            float(len(node.in_shapes) > 1), float(act == "Clip"), float(act not in ("", "Relu", "Clip"))]


def _gemm(node: Node) -> list[float]:
    out = node.out_shapes[0] if node.out_shapes else ()
    rows, columns = out[-2] if len(out) > 1 else 1, _last(node)
    inner = node.macs // max(1, node.out_elems)
    return [_log(rows), _log(columns), _log(inner), _log(math.prod(out[:-2])), _padding(columns, _BLOCK),
            _padding(rows, 12), float("Gemm" in node.op), float(node.op.startswith("Fused"))]


def _rest(node: Node) -> list[float]:
    out, first = node.out_shapes[0] if node.out_shapes else (), node.in_shapes[0] if node.in_shapes else ()
    sizes = [math.prod(s) for s in node.in_shapes]
    return [_log(node.run or _last(node)), _log(out[-2] if len(out) > 1 else 1), _log(_last(node)),
            _log(out[1] if len(out) > 1 else 1), float(len(out)), float(len(sizes)),
            _log(min(sizes, default=1)), _log(math.prod(out[-2:])), _log(first[-1] if first else 1),
            _log(math.prod(node.kernel))]


def _net(nodes: Sequence[Node]) -> list[float]:
    """What all nodes of a net share: how much memory one run of it goes through, weights and activations; and in
    activations of what size, the mean weighted by size: many small ones push less out of the caches.
    """
    outs = [n.out_elems for n in nodes]
    typical = sum(o * o for o in outs) / max(1, sum(outs))
    return [_log(sum(n.weights_read for n in nodes)), _log(sum(outs)), _log(typical)]


def _features_of(kind: str, node: Node) -> list[float]:
    more: Callable[[Node], list[float]] = _rest
    if node.out_shapes and node.op.endswith("Conv") and len(node.out_shapes[0]) >= 3:
        more = _conv
    elif node.cls == "gemm":
        more = _gemm
    return _base(node) if kind == _OTHER or kind.startswith("work ") else [*_base(node), *more(node)]


def _key(kind: str, node: Node) -> str:
    """Name of a process: nodes of one kind may have different features."""
    return f"{kind}/{len(_features_of(kind, node))}"


@dataclass(frozen=True)
class _Process:
    """A fitted process of one kind: `points` (n, features), standardised; `weights` (n,); `line` (3,), the mean's
    exponents of work and traffic, and a constant.
    """

    points: np.ndarray
    weights: np.ndarray
    line: np.ndarray
    centre: np.ndarray
    scale: np.ndarray
    lengths: np.ndarray
    amplitude: float
    noise: float

    def log_ms(self, features: np.ndarray) -> np.ndarray:
        """Expected logarithm of milliseconds (plus `_TICK_MS`) of nodes; `features` is (nodes, features)."""
        mean = features[:, :2] @ self.line[:2] + self.line[2]
        if not len(self.points):
            return np.asarray(mean)
        scaled = (features - self.centre) / self.scale / self.lengths
        return np.asarray(mean + _matern(scaled, self.points / self.lengths, self.amplitude) @ self.weights)

    @classmethod
    def fit(cls, features: np.ndarray, log_ms: np.ndarray, rng: np.random.Generator,
            like: _Process | None = None) -> _Process:
        """Fit the mean, the length scales (or take those of `like`, which is fast) and the weights."""
        line = _line(features[:, :2], log_ms)
        residual = log_ms - features[:, :2] @ line[:2] - line[2]
        centre, spread = features.mean(0), features.std(0)
        scale = np.where(spread > 1e-6, spread, 1.0)
        empty = np.zeros((0, features.shape[1]))
        if len(features) < _ENOUGH:
            return cls(empty, np.zeros(0), line, centre, scale, np.ones(features.shape[1]), 0.0, 0.0)
        points, order = (features - centre) / scale, rng.permutation(len(features))
        points = points.astype(np.float32).astype(float)  # as they are written, so that a model read back is the same
        if like is not None and len(like.points):
            lengths, amplitude, noise = like.lengths, like.amplitude, like.noise
        else:
            lengths, amplitude, noise = _tune(points[order[:_TUNE]], residual[order[:_TUNE]])
        kept = order[:_MOST]
        gram = _matern(points[kept] / lengths, points[kept] / lengths, amplitude)
        weights = np.linalg.solve(gram + noise * np.eye(len(kept)), residual[kept])
        return cls(points[kept], weights, line, centre, scale, lengths, amplitude, noise)


def _matern(a: np.ndarray, b: np.ndarray, amplitude: float) -> np.ndarray:
    """Matérn 5/2 covariance of points (n, f) and (m, f), already divided by their lengths: (n, m)."""
    square = (a ** 2).sum(1)[:, None] + (b ** 2).sum(1)[None] - 2 * a @ b.T
    distance = np.sqrt(5 * np.maximum(square, 0))
    return np.asarray(amplitude * (1 + distance + distance ** 2 / 3) * np.exp(-distance))


def _tune(points: np.ndarray, residual: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Length scales (features,), amplitude and noise of most likelihood; one common length where points are few."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    width = points.shape[1]
    lengths = 3.0 if len(points) < _TUNE else np.full(width, 2.0)
    prior = ConstantKernel(0.1) * Matern(lengths, (0.3, 100.0), nu=2.5) + WhiteKernel(0.003, (1e-4, 1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a length at its bound is a feature that does not matter
        found = GaussianProcessRegressor(prior, optimizer=_climb).fit(points, residual).kernel_
    return (np.broadcast_to(found.k1.k2.length_scale, (width,)).astype(float), float(found.k1.k1.constant_value),
            float(found.k2.noise_level))


def _climb(cost: Callable[..., Any], start: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, float]:
    """A few steps of L-BFGS: to go on until nothing changes takes three times as long, and prices nets no better."""
    from scipy.optimize import minimize

    found = minimize(cost, start, method="L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": _CLIMB})
    return found.x, float(found.fun)


def _line(base: np.ndarray, log_ms: np.ndarray) -> np.ndarray:
    """Least squares with exponents from 0 up: (3,), the constant last. Half a sample pulls each exponent towards 0."""
    from scipy.optimize import nnls

    centre = base.mean(0)
    rows = np.vstack([base - centre, np.sqrt(0.5) * np.eye(base.shape[1])])
    slope = nnls(rows, np.append(log_ms - log_ms.mean(), np.zeros(base.shape[1])))[0]
    return np.append(slope, log_ms.mean() - slope @ centre)


class KernelModel:
    """Prices nodes by what nodes like them took. Made by `fit` or `from_arrays`."""

    def __init__(self, kinds: Mapping[str, _Process], least_ms: float):
        self._kinds, self._least_ms = dict(kinds), least_ms

    @classmethod
    def fit(cls, nets: Sequence[Sequence[tuple[Node, float]]], seed: int = 0,
            like: KernelModel | None = None) -> KernelModel:
        """Learn from nets, each a sequence of `(node, milliseconds)`; with `like` at that model's length scales, which
        is much faster. Raises `ValueError` for fewer than 3 nodes.
        """
        if sum(len(net) for net in nets) < 3:
            raise ValueError("fewer than 3 timed nodes are too few to learn from")
        rng, rows = np.random.default_rng(seed), defaultdict(list)
        share = max(0.1, _ANY / sum(len(net) for net in nets))
        for net in nets:
            shared = _net([node for node, _ in net])
            for node, ms in net:
                for kind in (kind_of(node), _class_of(node), *([_OTHER] if rng.random() < share else [])):
                    features = [*_features_of(kind, node), *shared]
                    rows[_key(kind, node)].append((features, math.log(ms + _TICK_MS)))
        fitted = {}
        for key, found in rows.items():
            if len(found) >= 3:
                fitted[key] = _Process.fit(np.array([f for f, _ in found]), np.array([y for _, y in found]), rng,
                                           None if like is None else like._kinds.get(key))
        return cls(fitted, max(_LEAST_MS, float(np.quantile([ms for net in nets for _, ms in net], 0.02))))

    def ms(self, nodes: Sequence[Node], net: Sequence[Node] | None = None) -> np.ndarray:
        """Milliseconds (above 0) of each node of one net, as a profiler would see them: (nodes,). `net` is the whole
        net, where `nodes` are a part of it.
        """
        out, groups, shared = np.zeros(len(nodes)), defaultdict(list), _net(nodes if net is None else net)
        for index, node in enumerate(nodes):
            kind = self._priced_as(node)
            groups[kind, _key(kind, node)].append(index)
        for (kind, key), places in groups.items():
            features = np.array([[*_features_of(kind, nodes[i]), *shared] for i in places])
            out[places] = np.exp(self._kinds[key].log_ms(features)) - _TICK_MS
        return np.maximum(out, self._least_ms)

    def knows(self, node: Node) -> bool:
        """Whether nodes of this kind were timed often enough (3 times) to have a model of their own."""
        return self._priced_as(node) == kind_of(node)

    def _priced_as(self, node: Node) -> str:
        """The most particular kind of this node that was learnt."""
        return next((k for k in (kind_of(node), _class_of(node)) if _key(k, node) in self._kinds), _OTHER)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Arrays by name, for `numpy.savez`."""
        fields = ("points", "weights", "line", "centre", "scale", "lengths")
        out = {"least_ms": np.array(self._least_ms), "features": np.array(_FEATURES)}
        for key, process in self._kinds.items():
            for name in fields:
                out[f"{key}|{name}"] = np.asarray(getattr(process, name), np.float32 if name == "points" else float)
            out[f"{key}|amplitude"], out[f"{key}|noise"] = np.array(process.amplitude), np.array(process.noise)
        return out

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> KernelModel:
        """The inverse of `to_arrays`. Raises `KeyError` or `ValueError` for arrays that are not from there, or from an
        autoprune that told nodes apart in another way.
        """
        if int(arrays["features"]) != _FEATURES:
            raise ValueError(f"made for version {int(arrays['features'])} of the nodes' features, not {_FEATURES}")
        parts: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
        for name, value in arrays.items():
            if name in ("least_ms", "features"):
                continue
            key, _, part = name.rpartition("|")
            parts[key][part] = np.asarray(value, float)
        kinds = {key: _Process(p["points"], p["weights"], p["line"], p["centre"], p["scale"], p["lengths"],
                               float(p["amplitude"]), float(p["noise"])) for key, p in parts.items()}
        return cls(kinds, float(arrays["least_ms"]))
