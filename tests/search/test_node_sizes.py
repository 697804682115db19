"""Sizes found again as functions of groups' widths, on nodes made by a rule that the tests know."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from autoprune.devices.node import Node
from autoprune.search.node_rules import rule_of
from autoprune.search.node_sizes import CannotFollow, NodeSizes

WIDTHS = np.array([[16, 24, 6, 4], [7, 13, 5, 3], [11, 5, 3, 2], [13, 22, 2, 4], [4, 9, 4, 1]])
"""Four groups: the dense model's widths, and four probes."""
NEW = ([9, 17, 1, 3], [1, 1, 6, 2], [16, 2, 3, 1])

Make = Callable[[Sequence[int]], Node]


def conv(c_in: int, c_out: int, kernel: int = 3, side: int = 8) -> Node:
    cls = "stem" if c_in <= 4 else "conv3x3" if kernel == 3 else "pointwise"
    gather = 0 if cls == "pointwise" else c_in * kernel * kernel * side * side
    return Node("conv", "FusedConv", cls, macs=c_in * c_out * kernel * kernel * side * side,
                in_elems=c_in * side * side, out_elems=c_out * side * side,
                weights=c_out * (c_in * kernel * kernel + 1), in_shapes=((1, c_in, side, side),),
                out_shapes=((1, c_out, side, side),), kernel=(kernel, kernel), gather=gather, rows=gather // side,
                activation="relu")


def plain(op: str, cls: str, ins: Sequence[tuple[int, ...]], out: tuple[int, ...], **values: int) -> Node:
    return Node(op, op, cls, in_elems=sum(math.prod(s) for s in ins), out_elems=math.prod(out), in_shapes=tuple(ins),
                out_shapes=(out,), **values)


def concat(*parts: int) -> Node:
    return plain("Concat", "copy", [(1, p, 4, 4) for p in parts], (1, sum(parts), 4, 4), run=16 * min(parts))


MADE: dict[str, Make] = {
    "one group": lambda w: plain("Relu", "relu", [(1, w[0], 4, 4)], (1, w[0], 4, 4)),
    "two groups": lambda w: conv(w[0], w[1]),
    "few channels have another class": lambda w: conv(w[2], w[0]),
    "pointwise, and a stem below five": lambda w: conv(w[2], w[1], 1),
    "product": lambda w: plain("Reshape", "free", [(1, 5, w[3] * w[2])], (1, 5, w[3], w[2])),
    "flattened": lambda w: plain("Flatten", "free", [(1, w[0], 3, 3)], (1, 9 * w[0])),
    "concatenation": lambda w: concat(w[0], w[1], w[2]),
    "concatenation with a constant": lambda w: concat(w[0], 10, w[0]),
    "heads to the front": lambda w: plain(
        "Transpose", "copy" if w[3] == 1 else "transpose_pairs" if w[2] <= 2 else "transpose_rows",
        [(1, 5, w[3], w[2])], (1, w[3], 5, w[2]), run=5 * w[2] if w[3] == 1 else w[2]),
    "an input of many groups": lambda w: conv(w[0] + w[1], w[2])}


def followed(make: Make) -> NodeSizes:
    """With the concatenations that the sums come from in front, as in a graph."""
    front: list[Make] = [lambda w: concat(w[0], w[1])]
    return NodeSizes(WIDTHS, [[f(list(w)) for f in [*front, make]] for w in WIDTHS])


@pytest.mark.parametrize("name", MADE)
def test_nodes_of_new_widths(name: str) -> None:
    make = MADE[name]
    if name == "heads to the front":  # one head: the run is all of the tensor
        new: Sequence[list[int]] = [w for w in NEW if w[3] > 1 and w[2] > 2] + [[9, 17, 5, 4]]
    else:
        new = NEW
    sizes = followed(make)
    for widths in (*WIDTHS.tolist(), *new):
        assert sizes.node(1, widths) == make(widths), widths


def test_groups_that_a_node_touches() -> None:
    for name, groups in (("one group", [0]), ("two groups", [0, 1]), ("product", [2, 3]), ("flattened", [0]),
                         ("concatenation", [0, 1, 2])):
        assert followed(MADE[name]).groups == [[0, 1], groups]


def test_what_does_not_change_touches_nothing() -> None:
    sizes = followed(lambda w: conv(3, 8))
    assert sizes.groups[1] == []
    assert sizes.node(1, NEW[0]) == conv(3, 8)


def test_graphs_of_different_structure() -> None:
    nodes = [[conv(w[0], w[1])] for w in WIDTHS.tolist()]
    nodes[2] = [*nodes[2], plain("Relu", "relu", [(1, 5)], (1, 5))]
    with pytest.raises(CannotFollow, match="different graphs"):
        NodeSizes(WIDTHS, nodes)


def test_tensors_of_different_rank() -> None:
    nodes = [[plain("Relu", "relu", [(1, w[0])], (1, w[0]))] for w in WIDTHS.tolist()]
    nodes[1] = [plain("Relu", "relu", [(1, 1, WIDTHS[1][0])], (1, 1, WIDTHS[1][0]))]
    with pytest.raises(CannotFollow, match="different rank"):
        NodeSizes(WIDTHS, nodes)


def test_a_size_that_no_group_explains() -> None:
    nodes = [[plain("Relu", "relu", [(1, n)], (1, n))] for n in (100, 31, 47, 18, 77)]
    with pytest.raises(CannotFollow, match="no group explains"):
        NodeSizes(WIDTHS, nodes)


def test_a_concatenation_that_its_parts_do_not_explain() -> None:
    nodes = [[replace(concat(w[0], w[1]), out_shapes=((1, n, 4, 4),))]
             for w, n in zip(WIDTHS.tolist(), (40, 31, 47, 18, 77), strict=True)]
    with pytest.raises(CannotFollow, match="do not explain"):
        NodeSizes(WIDTHS, nodes)


def test_rules_hold_for_all_or_are_none() -> None:
    made = [conv(c, 8) for c in (3, 4, 5, 16)]
    rule = rule_of(made)
    assert rule is not None
    assert rule(replace(made[0], cls="", gather=1, rows=1)) == made[0]
    assert rule_of([*made, replace(made[0], cls="conv")]) is None
    assert rule_of([Node("x", "Strange", "unknown")]) is None


def test_a_permutation_is_found_where_one_shape_leaves_it_open() -> None:
    square = plain("Transpose", "transpose", [(1, 4, 4, 8)], (1, 8, 4, 4), run=1)
    other = plain("Transpose", "transpose", [(1, 4, 6, 8)], (1, 8, 4, 6), run=1)
    rule = rule_of([square, other])
    assert rule is not None
    assert rule(plain("Transpose", "", [(1, 5, 7, 1)], (1, 1, 5, 7))).cls == "copy"
