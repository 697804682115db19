"""What is learnt of a made-up device, whose times follow a formula that the tests know."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from autoprune.devices.calibration.kernels import KernelModel, kind_of
from autoprune.devices.node import Node

Nets = list[list[tuple[Node, float]]]


def conv(c_in: int, c_out: int, side: int) -> Node:
    return Node(f"conv{c_in}_{c_out}_{side}", "FusedConv", "conv3x3", macs=9 * c_in * c_out * side * side,
                in_elems=c_in * side * side, out_elems=c_out * side * side, weights=9 * c_in * c_out,
                in_shapes=((1, c_in, side, side),), out_shapes=((1, c_out, side, side),), kernel=(3, 3),
                activation="Relu")


def add(channels: int, side: int) -> Node:
    shape = (1, channels, side, side)
    count = math.prod(shape)
    return Node(f"add{channels}_{side}", "Add", "add", in_elems=2 * count, out_elems=count, in_shapes=(shape, shape),
                out_shapes=(shape,))


def true_ms(node: Node) -> float:
    """20 GMAC/s on output channels in blocks of 16; 4 Gelement/s; 2 µs for the call."""
    padded = 1.0
    if node.macs:
        channels = node.out_shapes[0][1]
        padded = -(-channels // 16) * 16 / channels
    return 0.002 + node.macs * padded / 20e6 + (node.in_elems + node.out_elems) / 4e6


def nets(count: int, seed: int, noise: float = 0.03) -> Nets:
    rng = np.random.default_rng(seed)
    found: Nets = []
    for _ in range(count):
        net = []
        for _ in range(8):
            c_in, c_out, channels = (int(np.exp(rng.uniform(np.log(8), np.log(256)))) for _ in range(3))
            for node in (conv(c_in, c_out, int(rng.integers(4, 40))), add(channels, int(rng.integers(4, 40)))):
                net.append((node, true_ms(node) * float(np.exp(noise * rng.standard_normal()))))
        found.append(net)
    return found


def context() -> list[Node]:
    """A net of the usual size, for lone nodes to be part of."""
    return [n for n, _ in nets(1, 9)[0]]


@pytest.fixture(scope="module")
def model() -> KernelModel:
    return KernelModel.fit(nets(36, 1))


def errors(model: KernelModel, kind: str) -> np.ndarray:
    """log(predicted / true) on nodes that it has not seen."""
    found = []
    for net in nets(20, 2, 0.0):
        nodes = [n for n, _ in net]
        found += [math.log(ms / true) for n, ms, (_, true) in zip(nodes, model.ms(nodes), net, strict=True)
                  if kind_of(n) == kind]
    return np.array(found)


@pytest.mark.parametrize(("kind", "typical", "most"), [("conv", 0.03, 0.12), ("Add", 0.03, 0.12)])
def test_it_recovers_a_device_from_noisy_times(model: KernelModel, kind: str, typical: float, most: float) -> None:
    off = np.abs(errors(model, kind))
    assert np.median(off) < typical
    assert np.quantile(off, 0.95) < most


def test_whole_nets_are_closer_than_their_nodes(model: KernelModel) -> None:
    off = [math.log(model.ms([n for n, _ in net]).sum() / sum(ms for _, ms in net)) for net in nets(20, 3, 0.0)]
    assert np.abs(off).max() < 0.05


def test_it_sees_the_staircase(model: KernelModel) -> None:
    """17 to 31 channels cost what 32 do; a smooth law of the work would have 17 cost half of that."""
    wide, above, below = model.ms([conv(64, channels, 28) for channels in (32, 17, 16)], context())
    assert above > 0.75 * wide
    assert below < 0.6 * wide


def test_far_outside_it_is_a_power_law(model: KernelModel) -> None:
    sizes = [1024 * 2 ** k for k in range(6)]
    ms = [model.ms([conv(size, size, 100)], context())[0] for size in sizes]
    assert ms == sorted(ms)
    slopes = np.diff(np.log(ms)) / math.log(4)  # four times the work from one to the next
    assert ((slopes > 0.5) & (slopes < 1.3)).all()
    assert np.ptp(slopes[-2:]) < 0.05  # the line alone, nothing of the correction left


def test_an_unknown_operator_is_priced_as_its_class(model: KernelModel) -> None:
    strange = replace(add(64, 28), op="Hypot")
    assert not model.knows(strange)
    assert model.knows(add(64, 28))
    assert model.ms([strange], context())[0] == pytest.approx(true_ms(add(64, 28)), rel=0.1)
    grouped = replace(conv(64, 64, 14), op="FusedConv", cls="grouped", groups=4)
    assert not model.knows(grouped)
    assert model.ms([grouped], context())[0] == pytest.approx(true_ms(conv(64, 64, 14)), rel=0.5)


@pytest.mark.parametrize("count", [1, 2, 10])
def test_a_class_that_was_never_timed_is_priced_as_any_node(count: int) -> None:
    learnt = KernelModel.fit(nets(count, 1))
    moved = Node("m", "Transpose", "transpose_blocks", in_elems=50_000, out_elems=50_000,
                 in_shapes=((1, 50, 1000),), out_shapes=((1, 1000, 50),))
    product = Node("p", "MatMul", "gemm", macs=10 ** 7, in_elems=10 ** 4, out_elems=10 ** 4, weights=10 ** 5,
                   in_shapes=((10, 1000),), out_shapes=((10, 1000),))
    assert not learnt.knows(moved)
    assert not learnt.knows(product)
    for ms in learnt.ms([moved, product]):
        assert 0.001 < ms < 50


def test_arrays_round_trip_exactly(model: KernelModel) -> None:
    again = KernelModel.from_arrays(model.to_arrays())
    nodes = [n for net in nets(5, 4) for n, _ in net] + [replace(add(8, 8), op="Hypot"), conv(4096, 4096, 50)]
    np.testing.assert_array_equal(again.ms(nodes), model.ms(nodes))
    assert [again.knows(n) for n in nodes] == [model.knows(n) for n in nodes]


@pytest.mark.parametrize("broken", ["least_ms", "|line"])
def test_arrays_that_are_not_from_there(model: KernelModel, broken: str) -> None:
    arrays = model.to_arrays()
    del arrays[next(name for name in arrays if name.endswith(broken))]
    with pytest.raises(KeyError):
        KernelModel.from_arrays(arrays)


def test_like_takes_the_length_scales_of_another(model: KernelModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoprune.devices.calibration.kernels._tune",
                        lambda *_: pytest.fail("length scales fitted anew"))
    found = KernelModel.fit(nets(50, 5), like=model)
    assert np.median(np.abs(errors(found, "conv"))) < 0.04
    names = {name for name in model.to_arrays() if name.endswith("|lengths")}
    assert names
    for name in names:
        np.testing.assert_array_equal(found.to_arrays()[name], model.to_arrays()[name])


@pytest.mark.parametrize("timed", [[], [[]], [[(add(8, 8), 0.1), (add(9, 9), 0.1)]]])
def test_too_few_nodes(timed: Nets) -> None:
    with pytest.raises(ValueError, match="too few"):
        KernelModel.fit(timed)


def test_one_seed_gives_one_model() -> None:
    few = nets(10, 6)
    first, second, other = KernelModel.fit(few, 3), KernelModel.fit(few, 3), KernelModel.fit(few, 4)
    for name, value in first.to_arrays().items():
        np.testing.assert_array_equal(second.to_arrays()[name], value)
    assert any(not np.array_equal(other.to_arrays()[name], value) for name, value in first.to_arrays().items()
               if name in other.to_arrays() and other.to_arrays()[name].shape == value.shape)


@pytest.mark.parametrize("zeros", [0.0, 0.5, 1.0])
def test_a_price_is_always_above_nothing(zeros: float) -> None:
    """Profilers count whole microseconds, so that a node may have taken none."""
    rng = np.random.default_rng(0)
    timed = [[(n, 0.0 if rng.random() < zeros else ms) for n, ms in net] for net in nets(8, 7)]
    learnt = KernelModel.fit(timed)
    empty = Node("e", "Reshape", "free", out_shapes=((1, 0, 4),), in_shapes=((0, 4),))
    lone = Node("s", "Shape", "free", out_shapes=((),), in_shapes=((1,),), in_elems=1, out_elems=1)
    everything = [conv(1, 1, 1), conv(8192, 8192, 500), add(1, 1), add(10 ** 6, 100), empty, lone,
                  Node("n", "X", "unknown")]
    ms = learnt.ms(everything)
    assert np.isfinite(ms).all()
    assert (ms > 0).all()


def test_the_order_of_nodes_does_not_matter(model: KernelModel) -> None:
    nodes = [n for n, _ in nets(1, 8)[0]]
    np.testing.assert_allclose(model.ms(nodes[::-1])[::-1], model.ms(nodes), rtol=1e-9)
    np.testing.assert_allclose(model.ms(nodes[3:5], nodes), model.ms(nodes)[3:5], rtol=1e-9)
    assert model.ms([]).shape == (0,)


def test_kernels_of_other_features_are_refused() -> None:
    net = [(Node("a", "Relu", "relu", in_elems=n, out_elems=n), 0.1) for n in (10, 100, 1000)]
    arrays = KernelModel.fit([net]).to_arrays()
    with pytest.raises(ValueError, match="version 99"):
        KernelModel.from_arrays({**arrays, "features": np.array(99)})


def test_a_clip_is_told_apart_from_what_the_kernel_does_itself() -> None:
    """On a device where clipping takes a pass of its own over the output."""
    def both(net: list[tuple[Node, float]]) -> list[tuple[Node, float]]:
        clipped = [(replace(n, activation="Clip", name=f"{n.name} clip"), ms + n.out_elems / 2e5)
                   for n, ms in net if n.macs]
        return [*net, *clipped]

    learnt, node = KernelModel.fit([both(net) for net in nets(36, 3)]), conv(64, 64, 20)
    plain, clip = learnt.ms([node, replace(node, activation="Clip")], context())
    assert clip - plain == pytest.approx(node.out_elems / 2e5, rel=0.25)


def test_a_table_that_is_looked_up_counts_by_the_rows_that_are_read(model: KernelModel) -> None:
    """A vocabulary of 50,000 words does not make a net of 96 tokens large."""
    def lookup(words: int) -> Node:
        return Node("words", "Gather", "copy", in_elems=96, out_elems=96 * 64, weights=words * 64,
                    in_shapes=((1, 96),), out_shapes=((1, 96, 64),))

    small, large = (model.ms([conv(16, 16, 8), lookup(words)]) for words in (100, 50_000))
    np.testing.assert_allclose(small, large)
