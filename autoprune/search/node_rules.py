"""What of a node follows from the shapes that it reads and writes: its price class, im2col, the runs it moves.

These jump with a size (4 input channels have another kernel than 5 do), so they are asked of the rule anew for each
width and never fitted. The rules are those that `devices/nodes.py` goes by, asked of what a `Node` still tells.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from autoprune.devices.classes import OPERATOR_CLASS, classify, gathered
from autoprune.devices.node import Node
from autoprune.devices.runs import broadcast_kind, copied_run, reduce_kind, transpose_kind

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
        for dilation in (1, 2):
            yield functools.partial(_conv, dilation=dilation)
    elif op == "Transpose":
        for perm in itertools.permutations(range(len(node.in_shapes[0]))):
            yield functools.partial(_transpose, perm=perm)
    elif OPERATOR_CLASS.get(op) in ("add", "where", "pow"):
        yield _broadcast
    elif OPERATOR_CLASS.get(op) == "reduce":
        yield _reduce
    elif op == "Concat":
        yield lambda n: replace(n, run=copied_run(n.in_shapes, n.out_shapes[0]))
    elif op in ("Split", "Slice", "Pad", "Expand", "Tile"):
        yield lambda n: replace(n, run=copied_run(n.out_shapes, n.in_shapes[0]))


def _conv(node: Node, dilation: int) -> Node:
    out, channels = node.out_shapes[0], node.in_shapes[0][1]
    cls = classify(node.op.removeprefix("nchwc."), channels_in=channels, channels_out=out[1], groups=node.groups,
                   kernel=node.kernel, stride=node.stride, dilation=dilation)
    gather, rows = gathered(cls, channels, node.kernel, out)
    return replace(node, cls=cls, gather=gather, rows=rows)


def _transpose(node: Node, perm: Sequence[int]) -> Node:
    shape = node.in_shapes[0]
    if tuple(shape[axis] for axis in perm) != node.out_shapes[0]:
        return replace(node, cls="")  # another permutation
    cls, run = transpose_kind(shape, perm)
    return replace(node, cls=cls, run=run)


def _broadcast(node: Node) -> Node:
    cls, run = broadcast_kind(OPERATOR_CLASS[node.op.removeprefix("nchwc.")], node.in_shapes, node.out_shapes[0])
    return replace(node, cls=cls, run=run)


def _reduce(node: Node) -> Node:
    return replace(node, cls=reduce_kind(node.in_shapes[0], node.out_shapes[0]))
