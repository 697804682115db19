from __future__ import annotations

import itertools
import warnings
from collections import Counter

import pytest

from autoprune.devices.device import load_device
from autoprune.devices.measure import Measurer
from autoprune.devices.measurement import NodeTime
from autoprune.devices.node import Node
from autoprune.devices.nodes import read_nodes
from autoprune.errors import DeviceError


def test_fused_nodes_with_their_classes_and_sizes(cnn):
    nodes = {n.name.removesuffix("_0"): n for n in read_nodes(cnn(32))}
    classes = [n.cls for n in nodes.values()]
    assert classes == ["stem", "conv3x3", "depthwise", "depthwise_other", "pointwise", "reduce", "free", "gemm"]
    stem, mid, *_ = nodes.values()
    assert stem.activation == mid.activation == "Relu"
    assert mid.macs == 16 * 16 * 32 * 32 * 9
    assert (mid.in_elems, mid.out_elems, mid.weights) == (32 * 256, 32 * 256, 32 * 32 * 9)
    assert mid.gather == 32 * 9 * 256
    assert list(nodes.values())[-1].macs == 64 * 10


def test_a_symbolic_batch_counts_as_one(cnn):
    assert [n.macs for n in read_nodes(cnn(32, "batch"))] == [n.macs for n in read_nodes(cnn(32, 1))]
    assert sum(n.macs for n in read_nodes(cnn(32, 2))) == 2 * sum(n.macs for n in read_nodes(cnn(32, 1)))


def test_json_round_trip(cnn):
    for node in read_nodes(cnn(16)):
        again = Node.from_json(node.to_json())
        assert again == node
        assert again.features == node.features


def test_a_torch_export_is_read_completely():
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Sequential(
                torch.nn.Conv2d(3, 8, 3, padding=1, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
                torch.nn.Conv2d(8, 8, 3, padding=1, groups=8), torch.nn.SiLU())
            self.norm = torch.nn.LayerNorm(8)
            self.one, self.two = torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)

        def forward(self, x):
            tokens = self.norm(self.conv(x).flatten(2).transpose(1, 2))
            attention = torch.softmax(tokens @ tokens.transpose(1, 2), dim=-1) @ tokens
            return self.two(torch.nn.functional.gelu(self.one(attention))).mean(1)

    import io

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(Net().eval(), (torch.randn(1, 3, 8, 8),), dynamo=True, verbose=False)
        program.save(buffer)
    nodes = read_nodes(buffer.getvalue())
    wanted = {"stem", "depthwise", "layernorm", "gemm", "softmax", "gelu", "transpose", "matmul", "reduce_middle"}
    assert wanted <= {n.cls for n in nodes}
    assert all(n.priced for n in nodes)
    dense = 8 * 27 * 64 + 8 * 9 * 64 + 64 * (8 * 16 + 16 * 4)
    attention = 2 * 64 * 64 * 8
    assert sum(n.macs for n in nodes) == dense + attention


@pytest.mark.parametrize("data", [b"", b"not onnx at all", b"\x00" * 64, "text", None])
def test_garbage_is_a_device_error(data):
    with pytest.raises(DeviceError):
        read_nodes(data)


def test_weights_elsewhere_are_refused(external):
    with pytest.raises(DeviceError, match="outside"):
        read_nodes(external)


def test_what_nobody_counted_is_marked(unpriced):
    assert [(n.op, n.priced) for n in read_nodes(unpriced)] == [("Add", True), ("CumSum", False)]


def test_a_shape_that_depends_on_data_is_found_by_running(hidden_shape):
    nodes = read_nodes(hidden_shape)
    assert [n.op for n in nodes] == ["NonZero", "Cast"]
    assert all(len(n.out_shapes[0]) == 2 for n in nodes)


def test_multiply_adds_of_einsum_and_int8(einsum, int8):
    assert [(n.cls, n.macs, n.priced) for n in read_nodes(einsum)] == [("gemm", 2 * 3 * 5 * 7, False)]
    conv = next(n for n in read_nodes(int8) if n.op == "QLinearConv")
    assert (conv.cls, conv.macs, conv.priced) == ("int8_conv", 36 * 16 * 8 * 9, True)


@pytest.fixture(scope="module")
def blocked() -> list[tuple[list[Node], list[NodeTime]]]:
    """Nets of blocks: their nodes as read here, and as the runtime's own profiler lists them."""
    from autoprune.devices.calibration.nets import calibration_nets

    models = list(itertools.islice(calibration_nets(1), 12))
    found = [read_nodes(model, layout=True) for model in models]
    if not any(n.op.startswith("nchwc.") for nodes in found for n in nodes):
        pytest.skip("this machine's onnxruntime has no layout with blocked channels")
    with Measurer(load_device("cpu"), 1) as measurer:
        return [(nodes, list(measurer.measure(model, min_runs=1, min_s=0.0, warmup_runs=0, warmup_s=0.0, repeats=0,
                                              profile_runs=1).nodes))
                for nodes, model in zip(found, models, strict=True)]


def test_with_its_layout_a_graph_is_the_one_that_the_profiler_sees(blocked) -> None:
    """Moves between layouts are numbered anew in every session, so they are compared by operator and shape only."""
    right = total = 0
    for nodes, times in blocked:
        assert len(nodes) == pytest.approx(len(times), rel=0.03, abs=1)
        known = {(n.name, n.out_shapes[0] if n.out_shapes else ()) for n in nodes}
        moves = Counter(n.out_shapes[0] for n in nodes if "Reorder" in n.op)
        for timed in times:
            total += 1
            if "Reorder" in timed.op:
                right += moves[timed.shape] > 0
                moves[timed.shape] -= 1
            else:
                right += (timed.name, timed.shape) in known
    assert total > 100
    assert right >= 0.97 * total


def test_blocked_convolutions_have_the_classes_of_plain_ones(blocked) -> None:
    convs = Counter(n.cls for nodes, _ in blocked for n in nodes if n.op == "nchwc.Conv")
    assert {"conv3x3", "pointwise", "stem"} <= set(convs)
    assert any(cls.startswith("depthwise") for cls in convs)
    assert "unknown" not in convs
    assert all(n.macs > 0 for nodes, _ in blocked for n in nodes if n.op == "nchwc.Conv")


def test_how_long_ago_a_node_like_it_ran(cnn):
    nodes = read_nodes(cnn(32))
    assert all(n.since == 0 for n in nodes)  # eight classes, each once

    def like(node: Node, index: int) -> int:
        before = [i for i, n in enumerate(nodes[:index]) if (n.op, n.cls) == (node.op, node.cls)]
        return index - before[-1] if before else 0

    nodes = read_nodes(_chain())
    assert [n.since for n in nodes] == [like(n, i) for i, n in enumerate(nodes)]
    assert max(n.since for n in nodes) > 1


def _chain() -> bytes:
    from onnx import TensorProto, helper

    kinds = ["Relu", "Sin", "Relu", "Relu", "Cos", "Sin"]
    made = [helper.make_node(k, [f"t{i}"], [f"t{i + 1}"]) for i, k in enumerate(kinds)]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4, 4]) for n in ("t0", f"t{len(kinds)}")]
    graph = helper.make_graph(made, "chain", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
