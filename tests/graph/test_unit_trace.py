"""Capturing: errors that name the user's line, dynamic batches, inputs of every form."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.graph.graph import trace
from autoprune.graph.plan import Plan
from autoprune.graph.trace import capture, split_inputs


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        if h.sum() > 0:  # the line that has to be named
            h = -h
        out: Tensor = self.b(h)
        return out


def line_of(kind: type, text: str) -> int:
    lines, start = inspect.getsourcelines(kind)
    return start + next(i for i, line in enumerate(lines) if text in line)


def test_data_dependent_control_flow_names_the_line_and_the_way_out() -> None:
    with pytest.raises(ModelError) as info:
        trace(Branch(), torch.randn(2, 4))
    text = str(info.value)
    assert f"{__file__}:{line_of(Branch, 'the line that')}, in forward" in text
    assert "if h.sum() > 0" in text
    assert "Branch cannot be exported" in text
    assert "torch.cond" in (info.value.fix or "")
    assert info.value.exit_code == 5
    assert info.value.__cause__ is not None


def test_item_is_data_dependent() -> None:
    class Item(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.max().item() > 3 else x

    with pytest.raises(ModelError, match=r"test_unit_trace\.py:\d+, in forward") as info:
        trace(Item(), torch.randn(2, 4))
    assert "torch.cond" in (info.value.fix or "")


def test_a_forward_that_raises_names_its_line() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("something is missing")

    with pytest.raises(ModelError, match="something is missing") as info:
        trace(Broken(), torch.randn(2, 4))
    assert f"{Path(__file__).name}:" in str(info.value)
    assert "does not run on the example inputs" in info.value.message
    assert "(2, 4)" in (info.value.given or "")


def test_shapes_that_do_not_fit_name_the_module() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(9, 3))
    with pytest.raises(ModelError, match="does not run on the example inputs") as info:
        trace(net, torch.randn(2, 4))
    assert "in 1 (Linear)" in (info.value.given or "")


def test_a_branch_on_data_says_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    class Condition(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(ModelError, match="cannot be exported") as info:
        trace(Condition(), torch.randn(2, 4))
    assert "x.sum() > 0" in (info.value.given or "")
    assert capfd.readouterr() == ("", "")


def test_failing_restores_the_mode() -> None:
    net = Branch().train()
    net.a.eval()
    with pytest.raises(ModelError):
        trace(net, torch.randn(2, 4))
    assert (net.training, net.a.training, net.b.training) == (True, False, True)


@pytest.mark.parametrize("model", [None, torch.relu, "resnet18", nn.Linear])
def test_only_modules_can_be_traced(model: object) -> None:
    with pytest.raises(ModelError, match=r"only a torch\.nn\.Module"):
        trace(model, torch.randn(2, 4))  # type: ignore[arg-type]


@pytest.mark.parametrize("inputs", [None, 3, "x", {1, 2}])
def test_inputs_of_another_kind_are_refused(inputs: object) -> None:
    with pytest.raises(ModelError, match="example_inputs must be"):
        trace(nn.Linear(4, 3), inputs)


def test_forms_of_inputs() -> None:
    x, y = torch.ones(2), torch.zeros(2)
    assert split_inputs(x) == ((x,), {})
    assert split_inputs([x, y]) == ((x, y), {})
    assert split_inputs((x, y)) == ((x, y), {})
    assert split_inputs({"a": x}) == ((), {"a": x})
    assert split_inputs(((x,), {"a": y})) == ((x,), {"a": y})


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(torch.relu(self.a(x)))
        return out


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_batch_is_dynamic_whatever_the_example_has(batch: int) -> None:
    torch.manual_seed(0)
    net = Net()
    graph = trace(net, torch.randn(batch, 4))
    assert graph.captured.dynamic_batch
    assert graph.captured.note is None
    for n in (1, 2, 3, 7):
        x = torch.randn(n, 4)
        assert torch.equal(graph.dense()(x), net(x))
        assert graph.cut(Plan.uniform(graph, 0.5))(x).shape == (n, 3)


def test_a_model_with_its_batch_written_down_says_so() -> None:
    class Fixed(Net):
        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.a(x))
            out: Tensor = self.b(h.reshape(2, 8))
            return out

    graph = trace(Fixed(), torch.randn(2, 4))
    assert not graph.captured.dynamic_batch
    assert "fixed batch" in (graph.captured.note or "")
    assert graph.cut(Plan.uniform(graph, 0.5))(torch.randn(2, 4)).shape == (2, 3)


class Two(Net):
    def forward(self, x: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x) * scale


class Counted(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).reshape(len(x), 3, 1).squeeze(-1)


@pytest.mark.parametrize(("net", "example", "other"), [
    (Two, (torch.randn(2, 4), torch.randn(3)), (torch.randn(5, 4), torch.randn(3))),  # one input has no batch
    (Two, (torch.randn(1, 4), torch.randn(3)), (torch.randn(5, 4), torch.randn(3))),
    (Counted, (torch.randn(1, 4),), (torch.randn(5, 4),)),  # to torch.export `len` is a number, unless it is strict
])
def test_batches_of_another_size(net: type[Net], example: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> None:
    model = net().eval()
    graph = trace(model, example)
    assert graph.captured.dynamic_batch
    assert torch.equal(graph.dense()(*other), model(*other))


def test_training_flags_read_the_mode() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3))
    captured = capture(net, torch.randn(2, 4))
    flags = [n for n in captured.graph.nodes if n.op == "get_attr" and n.target == "training"]
    assert len(flags) == 1
    assert {str(n.target) for n in flags[0].users} == {"aten.batch_norm.default", "aten.dropout.default"}


def test_dead_code_and_its_parameters_are_not_captured() -> None:
    class Dead(Net):
        def __init__(self) -> None:
            super().__init__()
            self.unused, self.dead = nn.Linear(4, 8), nn.Linear(4, 8)

        def forward(self, x: Tensor) -> Tensor:
            self.dead(x)
            return super().forward(x)

    assert set(capture(Dead(), torch.randn(2, 4)).tensors) == {"a.weight", "a.bias", "b.weight", "b.bias"}


def test_attention_scale_is_written_out() -> None:
    """head_dim may shrink; the scale stays the dense model's."""
    from tests.graph.nets import Qkv

    graph = trace(Qkv(8), torch.randn(2, 5, 8))
    node = next(n for n in graph.captured.graph.nodes if "scaled_dot" in str(n.target))
    assert node.kwargs["scale"] == pytest.approx(0.5)
    pruned = graph.cut(Plan({n: c for n, c in Plan.uniform(graph, 0.5).cuts.items() if "head_dim" in n}))
    node = next(n for n in pruned.graph.nodes if "scaled_dot" in str(n.target))
    assert node.kwargs["scale"] == pytest.approx(0.5)


class Named(Net):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        setattr(self, name, nn.Linear(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = getattr(self, self.name)(super().forward(x))
        return out


@pytest.mark.parametrize("name", ["graph", "plan", "meta", "save", "why_graph"])
def test_a_name_that_a_traced_model_cannot_use_is_refused(name: str) -> None:
    net = Named(name)
    with pytest.raises(ModelError, match="a name that a traced model cannot use") as caught:
        trace(net, torch.randn(2, 4))
    assert name in str(caught.value.given)


def test_a_name_that_is_not_used_may_be_any() -> None:
    net = Net()
    net.plan = nn.Linear(2, 2)
    assert trace(net, torch.randn(2, 4)).groups


class Normed(nn.Module):
    def __init__(self, momentum: float | None, kept: bool) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=momentum), nn.Linear(8, 3)
        self.kept = kept

    def train(self, mode: bool = True) -> None:  # type: ignore[override]  # many forget to return the module
        super().train(mode)
        if self.kept:
            self.norm.eval()

    def forward(self, x: Tensor) -> Any:
        return self.b(self.norm(self.a(x)).relu())


@pytest.mark.parametrize(("momentum", "kept", "moves"), [(0.1, False, True), (None, False, True), (0.1, True, False)])
def test_norms_learn_where_they_do_in_the_model(momentum: float | None, kept: bool, moves: bool) -> None:
    model = Normed(momentum, kept)
    model.train(False)
    dense = trace(model, torch.randn(4, 4)).dense().train()
    assert not any(m.training for m in model.modules())
    dense(3 + torch.randn(16, 4))
    assert bool(dict(dense.named_buffers())["norm.running_mean"].abs().max() > 0) == moves


@pytest.mark.parametrize("layer", [nn.Dropout(0.5, inplace=True), nn.AlphaDropout(0.5, inplace=True)])
def test_dropout_in_place_follows_the_mode(layer: nn.Module) -> None:
    x = torch.randn(8, 4)
    dense = trace(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), layer, nn.Linear(16, 3)).eval(), x).dense()
    assert torch.equal(dense(x), dense(x))
    dense.train()
    assert not torch.equal(dense(x), dense(x))


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, *gradient: Any) -> Any:
        return gradient[0]


class Rounded(Net):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(Sign.apply(self.a(x)))  # type: ignore[no-untyped-call]
        return out


def test_a_backward_of_ones_own_is_said_to_be_lost() -> None:
    before = torch.autograd.Function.apply
    with pytest.warns(UserWarning, match="the backward of Sign is not part"):
        trace(Rounded(), torch.randn(2, 4))
    assert torch.autograd.Function.apply == before


class Experts(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        rows, columns = torch.where(x > 1)
        return self.b(x).index_add(0, rows, x[rows, columns, None].expand(-1, 3))


def test_where_of_a_condition_alone_gives_places() -> None:
    torch.manual_seed(0)
    x, net = torch.randn(6, 4), Experts()
    graph = trace(net, x)
    torch.testing.assert_close(graph.dense()(2 * x), net(2 * x))


class Unique(Normed):
    def __deepcopy__(self, memo: dict[int, Any]) -> Normed:
        raise NotImplementedError("there is one of it")


def test_a_model_that_cannot_be_asked_says_that_its_norms_train() -> None:
    model = Unique(0.1, True)
    model.train(False)
    with pytest.warns(UserWarning, match="all of them train .NotImplementedError: there is one of it"):
        dense = trace(model, torch.randn(4, 4)).dense().train()
    dense(3 + torch.randn(16, 4))
    assert dict(dense.named_buffers())["norm.running_mean"].abs().max() > 0
