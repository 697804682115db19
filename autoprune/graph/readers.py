"""Weights that sum over units and do nothing else: what can be refitted when units go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import fx

from autoprune.graph.dims import size_of
from autoprune.graph.reads import Read
from autoprune.graph.typing import Call, Typing

__all__ = ["Reader", "find_readers"]

_WIDEST = 4096  # positions that a reader may have: a fit of twice as many takes eight times as long


@dataclass(frozen=True)
class Reader:
    """A weight that sums over units, and the bias that is added to the sum (None: none).

    axis: of the weight, the one that is summed over; out: the one that comes out, where there is a bias.
    """

    weight: str
    axis: int
    bias: str | None = None
    out: int = 0


def find_readers(graph: fx.Graph, typing: Typing, reads: Iterable[Read]) -> dict[str, Reader]:
    """Readers by the names of their weights.

    Left out are grouped and depthwise convolutions (a depthwise one passes its units on), what recurrent operators do
    with their own states, weights with a second use, such as an embedding that is the last layer, too, and weights that
    read more than 4096 positions (the first layer behind a large flatten).
    """
    uses: dict[str, list[Read]] = {}
    for read in reads:
        if read.weight is not None:
            uses.setdefault(read.weight, []).append(read)
    users: dict[str, set[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            users.setdefault(str(node.target), set()).update(node.users)
    out: dict[str, Reader] = {}
    for name, own in uses.items():
        alike = len({r.weight_axis for r in own}) == 1 and all(r.whole and r.source is not None for r in own)
        axes = typing.tensors[name]
        fits = len(axes) > 1 and size_of(axes[own[0].weight_axis]) <= _WIDEST
        if alike and fits and users[name] == {r.node for r in own}:
            out[name] = _reader(name, own, users)
    return out


def _reader(name: str, reads: list[Read], users: dict[str, set[fx.Node]]) -> Reader:
    axis = reads[0].weight_axis
    biases = {_bias(r.node, name) for r in reads}
    bias = biases.pop() if len(biases) == 1 else None
    if bias is None or users[bias] != {r.node for r in reads}:
        return Reader(name, axis)
    return Reader(name, axis, bias, 1 - axis)


def _bias(node: fx.Node, weight: str) -> str | None:
    """The parameter that the operator adds to what `weight` gives, where that is one number for each output."""
    call = Call(node)
    name = str(node.target).split(".")[1]
    if name in ("linear", "conv1d", "conv2d", "conv3d"):
        bias = call["bias"]
    elif name == "addmm":
        bias = call["self"] if call["mat2"].target == weight else None
    elif name.endswith("_cell"):
        bias = call["b_ih"] if call["w_ih"].target == weight else call["b_hh"]
    elif call.get("has_biases"):  # a recurrent operator: the second after the input's weight is its bias
        names = [str(p.target) for p in call["params"]]
        bias = call["params"][names.index(weight) + 2]
    else:
        bias = None
    return str(bias.target) if isinstance(bias, fx.Node) and bias.op == "get_attr" else None
