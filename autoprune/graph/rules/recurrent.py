"""Recurrent cells: the hidden units of all layers and directions that share a state tensor."""

from __future__ import annotations

from torch import fx

from autoprune.graph.dims import Concat, Expr
from autoprune.graph.typing import Call, NodeType, TensorType, Typing, rule

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@rule(*_GATES)
def recurrent(t: Typing, node: fx.Node, call: Call) -> NodeType:
    """`weight_ih [gates × hidden, input]`, `weight_hh [gates × hidden, hidden]`, in torch's order of parameters."""
    name = str(node.target).split(".")[1]
    if call.get("data") is not None:  # packed sequences
        return t.fallback(node)
    x = t.of(call["input"])
    states = [t.of(n) for n in (call["hx"] if isinstance(call["hx"], list | tuple) else [call["hx"]])]
    weights = [t.of(n) for n in call["params"]]
    directions = 2 if call["bidirectional"] else 1
    per_cell = len(weights) // (int(call["num_layers"]) * directions)
    projected = per_cell == (5 if call["has_biases"] else 3)
    if not projected and per_cell != (4 if call["has_biases"] else 2):
        return t.fallback(node)
    hidden: Expr = states[0][-1]
    cell_width: Expr = states[-1][-1]  # differs from the hidden width only where that is a projection of it
    if projected:  # torch tells a projection by the widths: with as many cells as outputs it would see none
        t.freeze(cell_width)
    layer_input: Expr = x[-1]
    for layer in range(int(call["num_layers"])):
        for direction in range(directions):
            first = (layer * directions + direction) * per_cell
            own = weights[first : first + per_cell]
            if projected:
                projection = own.pop()
                t.unify(projection[0], hidden)
                t.unify(projection[1], cell_width)
            _cell(t, own, layer_input, hidden, cell_width if projected else hidden, _GATES[name])
        layer_input = Concat([hidden] * directions) if directions > 1 else hidden
    for state in states:
        t.freeze(state[0])
        t.unify(state[-1], cell_width if projected and state is states[-1] else hidden)
    batch = x[0] if call["batch_first"] else x[-2]
    for state in states:
        t.unify(state[1], batch)
    output: TensorType = [*x[:-1], layer_input]
    return [output, *[[state[0], state[1], state[-1]] for state in states]]


def _cell(t: Typing, weights: list[TensorType], x: Expr, hidden: Expr, width: Expr, gates: int) -> None:
    t.unify(weights[0][1], x)
    t.unify(weights[1][1], hidden)
    for w in weights:
        t.unify(w[0], Concat([width] * gates) if gates > 1 else width)


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cell(t: Typing, node: fx.Node, call: Call) -> NodeType:
    name = str(node.target).split(".")[1].removesuffix("_cell")
    states = [t.of(n) for n in (call["hx"] if isinstance(call["hx"], list | tuple) else [call["hx"]])]
    weights = [t.of(call[k]) for k in ("w_ih", "w_hh")]
    weights += [t.of(call[k]) for k in ("b_ih", "b_hh") if call.get(k) is not None]
    hidden = states[0][-1]
    x = t.of(call["input"])
    _cell(t, weights, x[-1], hidden, hidden, _GATES[name])
    for state in states:
        t.unify(state[-1], hidden)
    out: TensorType = [*x[:-1], hidden]
    return [list(out) for _ in states] if isinstance(node.meta["val"], tuple | list) else out


