"""What an optimiser does to the exporter's graph that does not depend on how wide it is.

Candidates are cut from the graph before the exporter's own optimiser: that one folds widths into constants. What is
left to onnxruntime then has to be foldable there, or a candidate would run as more and slower nodes than its own
export: a bias of zeros that is computed keeps a batch norm from being merged into its convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["drop_unused", "settle_casts", "settle_shapes", "skip_repeats", "split_directly"]

_INT = 2  # AttributeProto.AttributeType
_INTS = 7
_KEEPS_TYPE = {"Add", "Concat", "Div", "Expand", "Identity", "MatMul", "Mul", "Pad", "Reshape", "Slice", "Softmax",
               "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze"}


def settle_casts(graph: Any) -> None:
    """Casts to the type of another value name the type instead: what they make of a constant is then a constant."""
    known = {i.name: i.data_type for i in graph.initializer}
    known.update((v.name, v.type.tensor_type.elem_type) for v in [*graph.input, *graph.value_info])
    for node in graph.node:
        kind = known.get(node.input[0]) if node.op_type in _KEEPS_TYPE else None
        if node.op_type == "CastLike" and (kind := known.get(node.input[1])):
            node.op_type = "Cast"
            del node.attribute[:]
            node.attribute.add(name="to", type=_INT, i=kind)
            del node.input[1:]
        if kind:
            known.setdefault(node.output[0], kind)


def settle_shapes(graph: Any, sizes: Callable[[str], list[int | None]], closed: Callable[[str, slice, str], bool]
                  ) -> None:
    """A `Shape` that asks only for sizes that never change becomes these numbers (`sizes`: by value name); one that
    asks for sizes that do not depend on the inputs becomes an `Identity` of numbers that are left to be written
    (`closed`: of a value and a part of its axes, and of the name of the numbers).
    """
    for node in graph.node:
        if node.op_type != "Shape":
            continue
        known = sizes(node.input[0])
        part = slice(_attribute(node, "start", 0), _attribute(node, "end", len(known)))
        if known[part] and None not in known[part]:
            node.op_type = "Constant"
            del node.input[:], node.attribute[:]
            node.attribute.add(name="value_ints", type=_INTS, ints=known[part])
        elif closed(node.input[0], part, node.output[0]):
            node.op_type = "Identity"
            del node.input[:], node.attribute[:]


def split_directly(graph: Any, constants: Mapping[str, Any], count: Callable[[str], int]) -> None:
    """`SplitToSequence` of which single parts are taken becomes a `Split`; the parts keep their names.

    `constants`: small constants by value name, as arrays; `count`: the number of parts of a split by its name. The
    sizes of the parts are left to be written.
    """
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    for node in graph.node:
        parts = count(node.output[0]) if node.op_type == "SplitToSequence" else 0
        takers = [(t, constants.get(t.input[1]) if t.op_type == "SequenceAt" else None)
                  for t in users.get(node.output[0], [])]
        if parts < 2 or _attribute(node, "keepdims", 1) != 1 or any(place is None for _, place in takers):
            continue
        outputs = [f"{node.output[0]}_split_{i}" for i in range(parts)]
        for taker, place in takers:
            taker.op_type = "Identity"
            del taker.input[:]
            taker.input.append(outputs[int(place.reshape(-1)[0]) % parts] if place is not None else "")
        axis = _attribute(node, "axis", 0)
        node.op_type = "Split"
        del node.input[1:], node.output[:], node.attribute[:]
        node.output.extend(outputs)
        node.attribute.add(name="axis", type=_INT, i=axis)


def skip_repeats(graph: Any, constants: Mapping[str, Any], instead: Mapping[str, str]) -> dict[str, str]:
    """`instead` (for `drop_unused`), and the results of clamping what is clamped already: by a ReLU, or to the same
    bounds by a Clip. Without a residual branch, the activation behind its sum often follows that before it.

    `constants`: small constants by value name, as arrays.
    """
    found, clamped = dict(instead), dict[str, tuple[Any, ...]]()
    for node in graph.node:
        if node.op_type not in ("Relu", "Clip"):
            continue
        bounds = [None if (value := constants.get(name)) is None else value.item() for name in node.input[1:]]
        how, source = (node.op_type, *bounds), _replaced(node.input[0], found)
        if None not in bounds and clamped.get(source) == how:
            found[node.output[0]] = source
        clamped[node.output[0]] = how
    return found


def drop_unused(graph: Any, instead: Mapping[str, str]) -> set[str]:
    """Remove the nodes that nothing uses; the names of the values that are used.

    `instead`: values that are to be replaced by others wherever they are read.
    """
    needed: set[str] = {o.name for o in graph.output}
    kept: list[Any] = []
    for node in reversed(graph.node):
        for i, name in enumerate(node.input):
            node.input[i] = _replaced(name, instead)
        if any(o in needed for o in node.output):
            needed.update(node.input)
            kept.append(type(node).FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(reversed(kept))
    return needed


def _replaced(name: str, instead: Mapping[str, str]) -> str:
    while name in instead:
        name = instead[name]
    return name


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)
