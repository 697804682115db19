"""What of a node follows from the shapes that it reads and writes: its price class, im2col, the runs it moves.

These jump with a size (4 input channels have another kernel than 5 do), so they are asked of the rule anew for each
width and never fitted. The rules are those of `devices/nodes.py`, for what a `Node` still tells of its operator.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from autoprune.devices.classes import OPERATOR_CLASS, classify
from autoprune.devices.node import Node
from autoprune.devices.runs import broadcast_run, copied_run, transpose_kind

__all__ = ["Rule", "rule_of"]

Rule = Callable[[Node], Node]


def rule_of(seen: Sequence[Node]) -> Rule | None:
    """The rule that is right for all of `seen`, the same node of several variants; None where none is known."""
    for rule in _candidates(seen[0]):
        if all(rule(node) == node for node in seen):
            return rule
    return None


def _candidates(node: Node) -> Iterator[Rule]:
    op = node.op.removeprefix("nchwc.")
    if not node.in_shapes or not node.out_shapes:
        return
    if op in ("Conv", "FusedConv") and len(node.in_shapes[0]) > 2:
        yield lambda n: _conv(n, 1)
        yield lambda n: _conv(n, 2)
    elif op == "Transpose":
        for perm in itertools.permutations(range(len(node.in_shapes[0]))):
            yield lambda n, perm=perm: _transpose(n, perm)  # type: ignore[misc]
    elif OPERATOR_CLASS.get(op) in ("add", "where", "pow"):
        yield _broadcast
    elif OPERATOR_CLASS.get(op) == "reduce":
        yield _reduce
    elif op == "Concat":
        yield lambda n: replace(n, run=min(copied_run(s, n.out_shapes[0]) for s in n.in_shapes))
    elif op in ("Split", "Slice", "Pad", "Expand", "Tile"):
        yield lambda n: replace(n, run=min(copied_run(n.in_shapes[0], s) for s in n.out_shapes))


def _conv(node: Node, dilation: int) -> Node:
    out, channels = node.out_shapes[0], node.in_shapes[0][1]
    cls = classify(node.op.removeprefix("nchwc."), channels_in=channels, channels_out=out[1], groups=node.groups,
                   kernel=node.kernel, stride=node.stride, dilation=dilation)
    plain = cls in ("pointwise", "depthwise")
    gather = 0 if plain else out[0] * channels * math.prod(node.kernel) * math.prod(out[2:])
    return replace(node, cls=cls, gather=gather, rows=gather // max(out[-1], 1))


def _transpose(node: Node, perm: Sequence[int]) -> Node:
    shape = node.in_shapes[0]
    if tuple(shape[axis] for axis in perm) != node.out_shapes[0]:
        return replace(node, cls="")  # another permutation
    cls, run = transpose_kind(shape, perm)
    return replace(node, cls=cls, run=run)


def _broadcast(node: Node) -> Node:
    out = node.out_shapes[0]
    run = broadcast_run([s for s in node.in_shapes if s], out)
    cls = OPERATOR_CLASS[node.op.removeprefix("nchwc.")]
    return replace(node, cls="broadcast" if cls == "add" and run < math.prod(out) else cls, run=run)


def _reduce(node: Node) -> Node:
    first, out = node.in_shapes[0], node.out_shapes[0]
    middle = bool(out) and first[-1] != 1 and out[-1] == first[-1]
    return replace(node, cls="reduce_middle" if middle else "reduce")
