"""The distribution over inputs, worked out by hand for made-up times."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import onnx
import pytest
import torch

from autoprune.devices.measure import Measurer
from autoprune.dynamic.paths import Skipped, decisions, measure_paths
from autoprune.errors import ConfigError
from tests.dynamic.nets import conv, gated, undecided


class Clock:
    """Milliseconds are what the input says in its first position; the reference always takes 8."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def measure(self, onnx_bytes: bytes, *, reference: bytes, inputs: dict[str, Any]) -> Any:
        (x,) = inputs.values()
        assert x.shape[0] == 1
        self.seen.append(float(x.flat[0]))
        return SimpleNamespace(latency=SimpleNamespace(ms=self.seen[-1]), reference=SimpleNamespace(ms=8.0))


def one_input() -> bytes:
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, 2, 2]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", info[:1], info[1:])
    found: bytes = onnx.helper.make_model(graph).SerializeToString()
    return found


def test_mean_and_quantiles_weigh_inputs_by_how_many_they_stand_for() -> None:
    x = torch.zeros(5, 1, 2, 2)
    x[:, 0, 0, 0] = torch.tensor([4.0, 6.0, 6.0, 6.0, 2.0])
    opened = torch.tensor([[0, 1], [1, 1], [1, 1], [1, 1], [0, 0]]).bool()
    clock = Clock()
    found = measure_paths(cast(Measurer, clock), one_input(), b"", x, opened, each=2)
    assert found.by_skipped == (Skipped(0, 0.6, 2, 6.0), Skipped(1, 0.2, 1, 4.0), Skipped(2, 0.2, 1, 2.0))
    assert sorted(clock.seen) == [2.0, 4.0, 6.0, 6.0]
    assert found.mean_ms == pytest.approx((3 * 6 + 4 + 2) / 5)
    assert (found.p50_ms, found.p90_ms) == (6.0, 6.0)
    assert found.ratio == pytest.approx(4.8 / 8)
    assert (found.inputs, found.paths, found.reference_ms) == (5, 3, 8.0)
    assert found.to_json()["by_skipped"][1] == {"branches": 1, "share": 0.2, "timed": 1, "mean_ms": 4.0}
    assert "4.8 ms on average" in str(found)


def test_decisions_of_all_batches_in_order() -> None:
    net, x = conv()
    model = undecided(gated(net, x)).train()
    found = decisions(model, [x[:3], x[3:]])
    assert model.training
    model.eval()(x)
    assert torch.equal(found, model.opened() > 0)


def test_inputs_without_their_decisions_are_refused() -> None:
    net, x = conv()
    model = gated(net, x)
    with pytest.raises(ConfigError, match="not those of these inputs"):
        measure_paths(cast(Measurer, Clock()), b"", b"", x, decisions(model, [x[:3]]))
    with pytest.raises(ConfigError, match="no inputs"):
        decisions(model, [])
