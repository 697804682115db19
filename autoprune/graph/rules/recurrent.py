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
    if (per_cell not in (2, 4)) or call["has_biases"] != (per_cell == 4):
        return t.fallback(node)  # projections
    hidden: Expr = states[0][-1]
    layer_input: Expr = x[-1]
    for layer in range(int(call["num_layers"])):
        for direction in range(directions):
            first = (layer * directions + direction) * per_cell
            _cell(t, weights[first : first + per_cell], layer_input, hidden, _GATES[name])
        layer_input = Concat([hidden] * directions) if directions > 1 else hidden
    for state in states:
        t.freeze(state[0])
        t.unify(state[-1], hidden)
    batch = x[0] if call["batch_first"] else x[-2]
    for state in states:
        t.unify(state[1], batch)
    output: TensorType = [*x[:-1], layer_input]
    return [output, *[[state[0], state[1], hidden] for state in states]]


def _cell(t: Typing, weights: list[TensorType], x: Expr, hidden: Expr, gates: int) -> None:
    t.unify(weights[0][1], x)
    t.unify(weights[1][1], hidden)
    for w in weights:
        t.unify(w[0], Concat([hidden] * gates) if gates > 1 else hidden)


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cell(t: Typing, node: fx.Node, call: Call) -> NodeType:
    name = str(node.target).split(".")[1].removesuffix("_cell")
    states = [t.of(n) for n in (call["hx"] if isinstance(call["hx"], list | tuple) else [call["hx"]])]
    weights = [t.of(call[k]) for k in ("w_ih", "w_hh")]
    weights += [t.of(call[k]) for k in ("b_ih", "b_hh") if call.get(k) is not None]
    hidden = states[0][-1]
    x = t.of(call["input"])
    _cell(t, weights, x[-1], hidden, _GATES[name])
    for state in states:
        t.unify(state[-1], hidden)
    out: TensorType = [*x[:-1], hidden]
    return [list(out) for _ in states] if isinstance(node.meta["val"], tuple | list) else out


