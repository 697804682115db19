"""Peepholes on exporter's graphs, each against onnxruntime on the untouched graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from autoprune.graph.onnx_tidy import drop_unused, settle_casts, settle_shapes, skip_repeats, split_directly

X = np.arange(24, dtype=np.float32).reshape(2, 12)


def model(nodes: list[Any], constants: dict[str, Any]) -> Any:
    graph = helper.make_graph(nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 12])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(proto: Any) -> Any:
    return ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]


def copied(proto: Any) -> Any:
    return onnx.ModelProto.FromString(proto.SerializeToString())


def test_a_cast_to_the_type_of_an_input_names_the_type() -> None:
    proto = model([helper.make_node("CastLike", ["c", "x"], ["d"]), helper.make_node("Add", ["x", "d"], ["y"])],
                  {"c": np.int64(3)})
    tidy = copied(proto)
    settle_casts(tidy.graph)
    assert [n.op_type for n in tidy.graph.node] == ["Cast", "Add"]
    assert np.array_equal(run(tidy), run(proto))


def test_types_are_followed_through_operators_that_keep_them() -> None:
    proto = model([helper.make_node("Transpose", ["x"], ["t"]), helper.make_node("CastLike", ["c", "t"], ["d"]),
                   helper.make_node("Mul", ["x", "d"], ["y"])], {"c": np.float64(0.5)})
    tidy = copied(proto)
    settle_casts(tidy.graph)
    assert "CastLike" not in {n.op_type for n in tidy.graph.node}
    assert np.array_equal(run(tidy), run(proto))


def test_a_cast_to_an_unknown_type_stays() -> None:
    proto = model([helper.make_node("Cast", ["x"], ["k"], to=TensorProto.INT32),
                   helper.make_node("CastLike", ["x", "k"], ["d"]), helper.make_node("CastLike", ["d", "x"], ["y"])],
                  {})
    settle_casts(proto.graph)
    assert [n.op_type for n in proto.graph.node] == ["Cast", "CastLike", "Cast"]


def test_sizes_that_never_change_are_written_down() -> None:
    nodes = [helper.make_node("Shape", ["x"], ["s"], start=1), helper.make_node("Shape", ["x"], ["b"], end=1),
             helper.make_node("Concat", ["b", "s"], ["shape"], axis=0),
             helper.make_node("Expand", ["c", "shape"], ["y"])]
    proto = model(nodes, {"c": np.float32(2)})
    tidy = copied(proto)
    settle_shapes(tidy.graph, lambda name: [None, 12] if name == "x" else [], lambda *_: False)
    assert [n.op_type for n in tidy.graph.node] == ["Constant", "Shape", "Concat", "Expand"]
    assert np.array_equal(run(tidy), run(proto))


def test_sizes_that_pruning_changes_are_left_to_be_written() -> None:
    proto = model([helper.make_node("Shape", ["x"], ["s"], start=1), helper.make_node("Shape", ["x"], ["b"], end=1),
                   helper.make_node("Concat", ["b", "s"], ["shape"], axis=0),
                   helper.make_node("Expand", ["c", "shape"], ["y"])], {"c": np.float32(2)})
    tidy, asked = copied(proto), []

    def closed(name: str, part: slice, output: str) -> bool:
        asked.append((name, part, output))
        return part.start == 1

    settle_shapes(tidy.graph, lambda name: [None, None], closed)
    assert asked == [("x", slice(1, 2), "s"), ("x", slice(0, 1), "b")]
    assert [n.op_type for n in tidy.graph.node] == ["Identity", "Shape", "Concat", "Expand"]
    tidy.graph.node[0].input.append("sizes")
    tidy.graph.initializer.append(numpy_helper.from_array(np.array([12]), "sizes"))
    assert np.array_equal(run(tidy), run(proto))


def sequence(split: Any, parts: list[int]) -> Any:
    nodes = [helper.make_node("SplitToSequence", ["x", "sizes"], ["parts"], axis=1)]
    nodes += [helper.make_node("SequenceAt", ["parts", f"i{i}"], [f"p{i}"]) for i in range(len(parts))]
    nodes += [helper.make_node("Concat", [f"p{i}" for i in range(len(parts))], ["y"], axis=1)]
    return model(nodes, {"sizes": split, **{f"i{i}": np.int64(p) for i, p in enumerate(parts)}})


def test_parts_of_a_sequence_become_outputs_of_a_split() -> None:
    proto = sequence(np.array([3, 4, 5]), [2, 0, -2])
    tidy = copied(proto)
    constants = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
    split_directly(tidy.graph, constants, lambda name: 3)
    [split] = [n for n in tidy.graph.node if n.op_type == "Split"]
    split.input.append("sizes")
    assert np.array_equal(run(tidy), run(proto))


def test_a_sequence_that_is_used_as_one_stays() -> None:
    nodes = [helper.make_node("SplitToSequence", ["x", "sizes"], ["parts"], axis=1),
             helper.make_node("ConcatFromSequence", ["parts"], ["y"], axis=1)]
    proto = model(nodes, {"sizes": np.array([3, 4, 5])})
    split_directly(proto.graph, {"sizes": np.array([3, 4, 5])}, lambda name: 3)
    assert [n.op_type for n in proto.graph.node] == ["SplitToSequence", "ConcatFromSequence"]


def test_unused_nodes_go_and_values_are_replaced() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Neg", ["a"], ["b"]),
             helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Abs", ["sum"], ["y"]),
             helper.make_node("Exp", ["b"], ["nobody"])]
    proto = model(nodes, {})
    needed = drop_unused(proto.graph, {"sum": "a"})
    assert [n.op_type for n in proto.graph.node] == ["Relu", "Abs"]
    assert needed == {"x", "a", "y"}
    assert np.array_equal(run(proto), np.abs(np.maximum(X, 0)))


def test_what_is_clamped_already_is_not_clamped_again() -> None:
    """A repeated ReLU goes, across a sum that is left out too; other bounds stay, and so do computed ones."""
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Relu", ["a"], ["b"]),
             helper.make_node("Add", ["b", "b"], ["sum"]), helper.make_node("Relu", ["sum"], ["c"]),
             helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0)]
    for index, (zero, top) in enumerate((("zero", "six"), ("zero2", "six"), ("zero", "one"), ("zero", "top"))):
        nodes.append(helper.make_node("Clip", ["cdefg"[index], zero, top], ["defg"[index]]))
    nodes.append(helper.make_node("Clip", ["g", "zero", "top"], ["y"]))
    constants = {"zero": np.float32(0), "zero2": np.float32(0), "six": np.float32(6), "one": np.float32(1)}
    proto = model(nodes, constants)
    tidy = copied(proto)
    drop_unused(tidy.graph, skip_repeats(tidy.graph, constants, {"sum": "b"}))
    assert [n.op_type for n in tidy.graph.node] == ["Relu", "ReduceMax", "Clip", "Clip", "Clip", "Clip"]
    assert np.array_equal(run(tidy), np.clip(X, 0, 1))
    whole = copied(proto)
    drop_unused(whole.graph, skip_repeats(whole.graph, constants, {}))
    assert [n.op_type for n in whole.graph.node][:3] == ["Relu", "Add", "Relu"]
    assert np.array_equal(run(whole), run(proto))


def test_an_output_keeps_the_node_that_makes_it() -> None:
    proto = model([helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Relu", ["a"], ["y"])], {})
    drop_unused(proto.graph, skip_repeats(proto.graph, {}, {}))
    assert np.array_equal(run(proto), np.maximum(X, 0))
