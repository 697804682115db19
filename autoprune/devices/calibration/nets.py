"""Small nets to learn a device's kernels from: `calibration_nets(seed)`.

Most are built as real ones are (`staged_nets.py`); the others are blocks one after another in any order, for the
operators and sizes that these do not have. Blocks rather than lone operators, so that an operator is timed as it runs
in a net: fused with what follows it, its input still in the cache from what came before. Sizes are drawn log-uniformly
over what networks use (8 to 1024 channels, 4 to 112 pixels, 8 to 400 tokens). Written in ONNX directly, up to several
hundred nodes each, most of a few milliseconds on a desktop core.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np

from autoprune.devices.calibration import image_blocks as image
from autoprune.devices.calibration import token_blocks as token
from autoprune.devices.calibration.net_builder import NetBuilder
from autoprune.devices.calibration.staged_nets import encoder, staged

__all__ = ["calibration_nets", "probe"]

_BLOCKS: tuple[tuple[Callable[[NetBuilder], str], int], ...] = (
    (image.plain, 4), (image.residual, 2), (image.bottleneck, 4), (image.inverted, 5), (image.stem, 3),
    (image.modern, 2), (token.transformer, 5), (token.perceptron, 1), (image.head, 1), (image.merge, 2),
    (token.tokens, 2), (token.short, 2), (token.merging, 1), (image.flattened, 2), (image.normed, 1),
    (token.recurrent, 1))

_WHOLE, _ENCODERS = 0.6, 0.3  # how many nets are built as real ones are, and how many of these are encoders
_LARGE_OUTPUT = 4096  # elements


@cache
def probe() -> bytes:
    """ONNX bytes of two convolutions of 64 channels at 28×28: what tells whether a machine's speed has changed."""
    net = NetBuilder(np.random.default_rng(0))
    net.dynamic = False
    x = net.input(1, 64, 28, 28)
    net.output(net.conv(net.conv(x, 64, 3), 64, 3))
    return net.bytes()


def calibration_nets(seed: int = 0) -> Iterator[bytes]:
    """ONNX bytes of one random net after another; the same ones for one seed.

    The number of loose blocks differs, 1 to 12, because a node is faster in a small net, whose weights stay in the
    cache from run to run.
    """
    rng = np.random.default_rng(seed)
    weights = np.array([w for _, w in _BLOCKS], float)
    while True:
        net, made = NetBuilder(rng), []
        if rng.random() < _WHOLE:
            _end(net, (encoder if rng.random() < _ENCODERS else staged)(net))
            yield net.bytes()
            continue
        count = net.pick(2, 4, 8, 12) if net.narrow else net.pick(1, 1, 2, 3, 4, 6, 8, 10)
        for index in rng.choice(len(_BLOCKS), count, p=weights / weights.sum()):
            net.last = _BLOCKS[int(index)][0](net)
            made.append(net.last)
        for name in made:
            if name not in net.chained:
                _end(net, name)
        yield net.bytes()


def _end(net: NetBuilder, name: str) -> None:
    """An output, of no more than the mean of each row where it is large: outputs lie in memory that the runtime asks
    for anew in every run, where the first writing costs more than what a node does, and real nets end in something
    small.
    """
    if math.prod(net.shape[name]) > _LARGE_OUTPUT:
        name = net.op("ReduceMean", name, net.ints(-1), shape=(*net.shape[name][:-1], 1), keepdims=1)
    net.output(name)
