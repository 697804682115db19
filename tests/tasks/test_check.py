"""Each bad input gives exactly one clear error: what happened, what was given, what to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from autoprune.errors import ModelError, TaskError
from autoprune.graph.graph import trace
from autoprune.tasks.check import check_traced
from autoprune.tasks.task import Task

from .conftest import SmallNet, make_batches

X, Y = torch.linspace(-1, 1, 32).reshape(8, 4), torch.arange(8) % 3
GOOD = [(X, Y), (X, Y)]


class Exploding:
    def __iter__(self) -> Iterator[Any]:
        yield X, Y
        raise RuntimeError("disk is gone")


class NoPair:
    def __iter__(self) -> Iterator[Any]:
        yield X


def nan_net() -> nn.Module:
    net = SmallNet()
    nn.init.constant_(net.head.bias, float("nan"))
    return net


def detached(outputs: Any, target: Any) -> torch.Tensor:
    return outputs.detach().sum()


def bad_metric(outputs: Any, target: Any) -> float:
    raise ZeroDivisionError("no hits")


CASES: dict[str, tuple[Callable[[], Task], str]] = {
    "class instead of instance": (lambda: Task(SmallNet, train=GOOD), "not a torch.nn.Module"),  # type: ignore[arg-type]
    "not a model": (lambda: Task({"a": 1}, train=GOOD), "not a torch.nn.Module"),  # type: ignore[arg-type]
    "generator": (lambda: Task(SmallNet(), train=(batch for batch in GOOD), validation=GOOD), "only once"),
    "tensor as data": (lambda: Task(SmallNet(), train=X, validation=GOOD), "not an iterable of batches"),
    "number as data": (lambda: Task(SmallNet(), train=3, validation=GOOD), "not an iterable of batches"),
    "empty": (lambda: Task(SmallNet(), train=[], validation=GOOD), "train data is empty"),
    "empty validation": (lambda: Task(SmallNet(), train=GOOD, validation=[]), "validation data is empty"),
    "empty batch": (lambda: Task(SmallNet(), train=[(X[:0], Y[:0])], validation=GOOD), "holds no sample"),
    "one batch, no validation": (lambda: Task(SmallNet(), train=GOOD[:1]), "only one training batch"),
    "no pair": (lambda: Task(SmallNet(), train=NoPair(), validation=GOOD), "not a pair"),
    "unreadable": (lambda: Task(SmallNet(), train=GOOD, validation=Exploding()), "disk is gone"),
    "wrong shape": (lambda: Task(SmallNet(5), train=GOOD, validation=GOOD), "does not run on the first training batch"),
    "double inputs": (lambda: Task(SmallNet(), train=[(X.double(), Y)], validation=GOOD), "does not run on the first"),
    "labels too large": (lambda: Task(SmallNet(4, 2), train=[(X, Y * 0 + 2)], validation=GOOD),
                         "labels of the train data are out of range"),
    "negative labels": (lambda: Task(SmallNet(), train=GOOD, validation=[(X, Y - 1)]), "labels of the validation"),
    "labels too large in test": (lambda: Task(SmallNet(), train=GOOD, validation=GOOD, test=[(X, Y + 9)]),
                                 "labels of the test data are out of range"),
    "float labels": (lambda: Task(SmallNet(), train=[(X, Y.float())], validation=GOOD), "not whole numbers"),
    "bce targets": (lambda: Task(nn.Linear(4, 1), train=[(X, Y.float() * 5 + 1)], validation=GOOD, loss="bce"),
                    "targets of the train data are out of range"),
    "nan inputs": (lambda: Task(SmallNet(), train=[(X / 0, Y)], validation=GOOD), "inputs of the train data hold NaN"),
    "nan targets": (lambda: Task(SmallNet(), train=[(X, X[:, :3] * float("nan"))], validation=GOOD, loss="mse",
                                 metric="mse"), "target of the train data hold NaN"),
    "nan outputs": (lambda: Task(nan_net(), train=GOOD, validation=GOOD), "outputs hold NaN"),
    "loss shapes": (lambda: Task(SmallNet(), train=GOOD, validation=GOOD, loss="mse", metric="mse"),
                    "different shapes"),
    "loss without gradient": (lambda: Task(SmallNet(), train=GOOD, validation=GOOD, loss=detached), "no gradient"),
    "loss not scalar": (lambda: Task(SmallNet(), train=GOOD, validation=GOOD, loss=lambda outputs, target: outputs),
                        "not a scalar"),
    "metric fails": (lambda: Task(SmallNet(), train=GOOD, validation=GOOD, metric=bad_metric), "your metric raised"),
    "metric is nan": (lambda: Task(SmallNet(), train=GOOD, validation=GOOD, metric=lambda *_: float("nan")),
                      "your metric is NaN"),
    "top5 of 3": (lambda: Task(SmallNet(), train=GOOD, validation=GOOD, metric="top5"), "more than 5 classes"),
    "unknown metric": (lambda: Task(SmallNet(), train=GOOD, metric="acc"), "unknown metric"),
    "unknown loss": (lambda: Task(SmallNet(), train=GOOD, loss="hinge"), "unknown loss"),
}


FIXES: dict[str, tuple[Callable[[], Task], str]] = {
    "labels of one column": (lambda: Task(SmallNet(), train=[(X, Y[:, None])] * 2), "target.squeeze(1)"),
    "one-hot labels": (lambda: Task(SmallNet(), train=[(X, nn.functional.one_hot(Y, 3))] * 2), "target.argmax(1)"),
    "one output": (lambda: Task(nn.Linear(4, 1), train=[(X, Y[:, None] % 2)] * 2), "--loss bce"),
    "list of labels": (lambda: Task(SmallNet(), train=[(X, Y.tolist())] * 2), "torch.tensor(labels)"),
    "array of labels": (lambda: Task(SmallNet(), train=[(X, Y.numpy())] * 2), "torch.from_numpy(labels)"),
    "arrays": (lambda: Task(SmallNet(), train=[(X.numpy(), Y.numpy())] * 2), "torch.from_numpy"),
    "dicts": (lambda: Task(SmallNet(), train=[{"x": X, "label": Y}] * 2),
              "train=[(b['x'], b['label']) for b in train]"),
    "dicts of several": (lambda: Task(SmallNet(), train=[{"y": Y, "a": X, "target": X}] * 2),
                         "({k: b[k] for k in ['y', 'a']}, b['target'])"),
    "two tensors": (lambda: Task(SmallNet(), train=(X, Y)), "train=DataLoader(TensorDataset(X, Y), batch_size=32)"),
    "two arrays": (lambda: Task(SmallNet(), train=(X.numpy(), Y.numpy())), "torch.from_numpy(X)"),
    "a dataset": (lambda: Task(SmallNet(), train=Indexed()), "train=DataLoader(data, batch_size=32)"),
    "samples": (lambda: Task(SmallNet(), train=[*zip(X, Y.tolist(), strict=True)]), "DataLoader(samples"),
    "samples of tensors": (lambda: Task(SmallNet(), train=[*zip(X, Y, strict=True)]), "DataLoader(samples"),
    "metric is None": (lambda: Task(SmallNet(), train=GOOD, metric=lambda *_: None), "return the value"),  # type: ignore[arg-type,return-value]
    "metric is a vector": (lambda: Task(SmallNet(), train=GOOD, metric=lambda outputs, target: outputs), ".mean()"),
}


class Indexed(Dataset[Any]):
    def __getitem__(self, index: int) -> Any:
        return X[index], Y[index]


@pytest.mark.parametrize("case", sorted(FIXES))
def test_the_fix_fits_what_was_given(case: str) -> None:
    make, fix = FIXES[case]
    with pytest.raises(TaskError) as caught:
        make().check()
    assert fix in str(caught.value.fix)
    assert caught.value.given


@pytest.mark.parametrize("case", sorted(CASES))
def test_one_clear_error(case: str) -> None:
    make, match = CASES[case]
    with pytest.raises(TaskError, match=match) as caught:
        make().check()
    assert caught.value.fix
    assert caught.value.given


def test_the_users_line_is_shown() -> None:
    with pytest.raises(TaskError) as caught:
        Task(SmallNet(), train=GOOD, validation=GOOD, metric=bad_metric).check()
    assert "ZeroDivisionError: no hits" in str(caught.value)
    assert 'raise ZeroDivisionError("no hits")' in str(caught.value)


def test_ignored_labels_are_no_error() -> None:
    labels = Y.clone()
    labels[0] = -100
    Task(SmallNet(), train=[(X, labels)], validation=GOOD).check()


def test_regression_is_no_error() -> None:
    batches = [(x, x[:, :1]) for x, _ in make_batches()]
    for metric in ("mse", "mae", "r2"):
        task = Task(nn.Linear(4, 1), train=batches, validation=batches, metric=metric, loss="mse")
        task.check()
        assert task.evaluate(task.model).higher_is_better == (metric == "r2")


class Loop(nn.Module):
    """A number of rows that becomes a constant of the trace."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.head(row) for row in x])


class Mixes(Loop):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x) / float(len([*x]))
        return out


@pytest.mark.parametrize(("model", "problem"), [(Loop(), r"float32\[1, 3\] instead of float32\[8, 3\]"),
                                                (Mixes(), "outputs differ by")])
def test_a_trace_that_counts_on_the_examples_batch_is_found(model: nn.Module, problem: str) -> None:
    data = [(torch.randn(8, 4), torch.randint(0, 3, (8,)))]
    task = Task(model, train=data, validation=data, test=data)
    graph = trace(model, task.example_inputs)
    with pytest.raises(ModelError, match=problem) as caught:
        check_traced(task, graph.dense(), graph.captured.note)
    assert "fixed batch" in str(caught.value)
    assert "x.shape[0]" in str(caught.value.fix)


def test_a_trace_of_what_is_drawn_anew_is_let_be() -> None:
    class Noisy(Loop):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(x) + torch.randn(x.shape[0], 3)
            return out
    data = [(torch.randn(8, 4), torch.randint(0, 3, (8,)))]
    task = Task(Noisy(), train=data, validation=data, test=data)
    graph = trace(task.model, task.example_inputs)
    check_traced(task, graph.dense(), graph.captured.note)


class OfLength(nn.Module):
    """Divides by the length of the sequence: a number in a trace."""

    def __init__(self, counts: bool) -> None:
        super().__init__()
        self.head, self.counts = nn.Linear(4, 3), counts

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x.sum(1) / x.shape[1] if self.counts else x.amax(1))
        return out


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("counts", [True, False])
def test_a_trace_is_tried_with_inputs_of_every_size(split: str, counts: bool) -> None:
    usual = [(torch.randn(8, 5, 4), torch.randint(0, 3, (8,)))]
    splits = dict.fromkeys(("train", "validation", "test"), usual)
    splits[split] = [*usual, (torch.randn(8, 9, 4), torch.randint(0, 3, (8,)))]
    task = Task(OfLength(counts), **splits)
    graph = trace(task.model, task.example_inputs)
    if not counts:
        check_traced(task, graph.dense(), graph.captured.note)
        return
    with pytest.raises(ModelError, match=r"on inputs float32\[8, 9, 4\] the traced model is not the model") as caught:
        check_traced(task, graph.dense(), graph.captured.note)
    assert "max_length" in str(caught.value.fix)


@pytest.mark.parametrize(("loss", "fix"), [("model", "--loss cross_entropy"), ("cross_entropy", "example_inputs")])
def test_inputs_that_a_trace_does_not_take(loss: str, fix: str) -> None:
    class OwnLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
            logits = self.head(x)
            loss = {} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)}
            return {"logits": logits} | loss
    data = [({"x": x, "labels": y}, y) for x, y in make_batches()]
    task = Task(OwnLoss(), train=data, validation=data, test=data, loss=loss, example_inputs={"x": X[:1]})
    graph = trace(task.model, task.example_inputs)
    with pytest.raises(TaskError, match="does not take all inputs") as caught:
        check_traced(task, graph.dense(), graph.captured.note)
    assert caught.value.given == "labels"
    assert fix in str(caught.value.fix)


class Counts(nn.Module):
    """Writes what it has seen into a buffer, in either mode."""

    def __init__(self, detached: bool) -> None:
        super().__init__()
        self.head, self.detached = nn.Linear(4, 3), detached
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.head(x)
        self.mean.mul_(0.9).add_(0.1 * (h.detach() if self.detached else h).mean(0))
        return h


def test_a_check_leaves_buffers_as_they_were() -> None:
    task = Task(Counts(detached=True), train=GOOD, validation=GOOD, test=GOOD)
    task.check()
    assert torch.equal(task.model.get_buffer("mean"), torch.zeros(3))


def test_a_buffer_with_gradients() -> None:
    model = Counts(detached=False)
    with pytest.raises(TaskError, match="writes a buffer with gradients") as caught:
        Task(model, train=GOOD, validation=GOOD, test=GOOD).check()
    assert caught.value.given == "mean"
    assert not model.get_buffer("mean").requires_grad
    assert torch.equal(model.get_buffer("mean"), torch.zeros(3))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_another_precision_than_float32_is_refused(kind: torch.dtype) -> None:
    data = [(torch.randn(8, 4).to(kind), torch.randint(0, 3, (8,)))]
    with pytest.raises(TaskError, match="not in float32") as caught:
        Task(nn.Linear(4, 3).to(kind), train=data, validation=data, test=data).check()
    assert "model.float()" in str(caught.value.fix)
