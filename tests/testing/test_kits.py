"""The kits accept what ships, and find what is wrong in what does not keep the contract."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny import CountingTask, batches, tiny_task, trained
from torch import Tensor, nn

from autoprune.devices.device import load_device
from autoprune.devices.latency import Latency
from autoprune.devices.profiler import Profiler, open_profiler
from autoprune.errors import DeviceError, TaskError
from autoprune.graph.onnx import export_onnx
from autoprune.methods.criterion import Criterion, GroupView
from autoprune.methods.registry import methods
from autoprune.tasks.score import Score
from autoprune.tasks.task import Task
from autoprune.testing import check_criterion, check_profiler, check_task

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def onnx_bytes() -> bytes:
    return export_onnx(trained(), (torch.zeros(1, 1, 8, 8),))


# -- criteria ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("criterion", methods(), ids=lambda c: c.name)
def test_shipped_criteria_pass(criterion: Criterion) -> None:
    check_criterion(criterion)


class _Good(Criterion):
    name, summary, source = "mine", "mine", "me"

    def score(self, group: GroupView) -> Tensor:
        return torch.arange(group.units, dtype=torch.float32)


class _NoName(_Good):
    name = ""


class _WrongShape(_Good):
    def score(self, group: GroupView) -> Tensor:
        return torch.zeros(group.units, 1)


class _OneTooMany(_Good):
    def score(self, group: GroupView) -> Tensor:
        return torch.zeros(group.units + 1)


class _NotFinite(_Good):
    def score(self, group: GroupView) -> Tensor:
        return torch.full((group.units,), float("nan"))


class _Restless(_Good):
    def score(self, group: GroupView) -> Tensor:
        return torch.rand(group.units)


class _Careless(_Good):
    def score(self, group: GroupView) -> Tensor:
        for part in group.weights:
            part.values.mul_(2.0)
        return torch.zeros(group.units)


class _Peeking(_Good):
    """Whether it applies depends on data."""

    needs = frozenset({"activations"})

    def applies(self, group: GroupView) -> bool:
        return bool(group.statistics.units)


class _Never(_Good):
    def applies(self, group: GroupView) -> bool:
        return False


class _UnknownNeed(_Good):
    needs = frozenset({"everything"})


def test_a_good_criterion_passes() -> None:
    check_criterion(_Good())


@pytest.mark.parametrize(("kind", "message"), [
    (_Peeking, "must not depend on data"), (_Never, "applies to no group"), (_UnknownNeed, "needs must be among"),
    (_NoName, "must be set"), (_WrongShape, "shape"), (_OneTooMany, "shape"), (_NotFinite, "not finite"),
    (_Restless, "other scores"), (_Careless, "changed")])
def test_broken_criteria_are_found(kind: type[Criterion], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_criterion(kind())


# -- profilers --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("device", ["cpu", "rpi4", "raspberrypi", "rpi5", "rpi3bplus", "rpizero2w"])
def test_shipped_profilers_pass(device: str, onnx_bytes: bytes) -> None:
    check_profiler(open_profiler(device, threads=1), onnx_bytes)


class _Fixed(Profiler):
    """Says 1 ms for everything that is a model."""

    def __init__(self) -> None:
        self.device = load_device("rpi4")
        self.calls = 0
        self.closed = 0

    def latency(self, onnx_bytes: bytes) -> Latency:
        self.calls += 1
        if not self.accepts(onnx_bytes):
            raise self.refusal()
        return self.answer()

    def accepts(self, onnx_bytes: bytes) -> bool:
        return len(onnx_bytes) > 100

    def refusal(self) -> Exception:
        return DeviceError("not a model")

    def answer(self, **values: Any) -> Latency:
        return Latency(**{"ms": 1.0, "lo_ms": 1.0, "hi_ms": 1.0, "percentile": "p50", "source": "profile",
                          "device": "rpi4", "runtime": "mine", "runtime_version": "1", "threads": 1, "n": 1, **values})


class _Number(_Fixed):
    def latency(self, onnx_bytes: bytes) -> Any:
        return 1.0


class _OtherDevice(_Fixed):
    def answer(self, **values: Any) -> Latency:
        return super().answer(device="rpi5")


class _ChangesItsMind(_Fixed):
    def answer(self, **values: Any) -> Latency:
        return super().answer(threads=self.calls)


class _TakesAnything(_Fixed):
    def accepts(self, onnx_bytes: bytes) -> bool:
        return True


class _Sulks(_Fixed):
    """One bad model ends it."""

    def accepts(self, onnx_bytes: bytes) -> bool:
        return self.calls < 3


class _RaisesItsOwn(_Fixed):
    def refusal(self) -> Exception:
        return KeyError("x")


class _ClosesOnce(_Fixed):
    def close(self) -> None:
        self.closed += 1
        if self.closed > 1:
            raise RuntimeError("closed already")


def test_a_good_profiler_passes(onnx_bytes: bytes) -> None:
    check_profiler(_Fixed(), onnx_bytes)


@pytest.mark.parametrize(("kind", "message"), [
    (_Number, "returned a float"), (_OtherDevice, "is of rpi5"), (_ChangesItsMind, "threads changed"),
    (_TakesAnything, "rubbish was given a latency"),
    (_Sulks, "ended the profiler"), (_RaisesItsOwn, "raised a KeyError"),
    (_ClosesOnce, "twice")])
def test_broken_profilers_are_found(kind: type[_Fixed], message: str, onnx_bytes: bytes) -> None:
    with pytest.raises(AssertionError, match=message):
        check_profiler(kind(), onnx_bytes)


# -- tasks ------------------------------------------------------------------------------------------------------------

def test_a_task_passes() -> None:
    check_task(tiny_task())


@pytest.mark.slow
def test_the_built_in_example_passes() -> None:
    from autoprune.tasks.digits import digits_task

    check_task(digits_task())


class _Once:
    """An iterator, not an iterable: empty on the second pass."""

    def __init__(self) -> None:
        self._left = iter(batches(2, 0))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self._left


class _Trains(CountingTask):
    def evaluate(self, model: nn.Module, split: str = "validation", limit: int | None = None) -> Score:
        with torch.no_grad():
            next(model.parameters()).add_(1e-3)
        return super().evaluate(model, split, limit)


class _ForgetsTheMode(CountingTask):
    def evaluate(self, model: nn.Module, split: str = "validation", limit: int | None = None) -> Score:
        found = super().evaluate(model, split, limit)
        model.train()
        return found


class _Unstable(CountingTask):
    def evaluate(self, model: nn.Module, split: str = "validation", limit: int | None = None) -> Score:
        found = super().evaluate(model, split, limit)
        return Score(found.metric, self.evaluations[split] / 10, found.split, found.n, 0.0)


class _OtherFingerprint(CountingTask):
    def fingerprint(self) -> str:
        self.evaluations["fingerprint"] = self.evaluations.get("fingerprint", 0) + 1
        return str(self.evaluations["fingerprint"])


class _LogitsAsList(CountingTask):
    def logits(self, outputs: Any) -> Any:
        return [outputs]


@pytest.mark.parametrize(("kind", "message"), [
    (_Trains, "changed|another score"), (_ForgetsTheMode, "mode"), (_Unstable, "another score"),
    (_OtherFingerprint, "fingerprint"), (_LogitsAsList, "logits")])
def test_broken_tasks_are_found(kind: type[CountingTask], message: str) -> None:
    task = kind(trained(), train=batches(2, 2), validation=batches(1, 3), test=batches(1, 4))
    with pytest.raises(AssertionError, match=message):
        check_task(task)


def test_data_that_can_be_read_only_once_is_found() -> None:
    with pytest.raises((AssertionError, TaskError)):
        check_task(Task(trained(), train=_Once(), validation=batches(1, 3), test=batches(1, 4)))
    with pytest.raises((AssertionError, TaskError)):
        check_task(Task(trained(), train=batches(1, 0), validation=_Once(), test=batches(1, 4)))


def test_a_task_with_wrong_labels_is_found() -> None:
    wrong = [(torch.randn(4, 1, 8, 8), torch.tensor([1, 2, 3, 4]))]
    with pytest.raises(TaskError, match="out of range"):
        check_task(Task(trained(), train=wrong, validation=wrong, test=wrong))
