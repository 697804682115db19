"""The task: a model, its data, and what counts as good."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from autoprune.accelerator import on_accelerator
from autoprune.errors import TaskError, did_you_mean
from autoprune.tasks.batches import Halved
from autoprune.tasks.check import check_task
from autoprune.tasks.fingerprint import fingerprint
from autoprune.tasks.gather import Gather, UserMetric
from autoprune.tasks.losses import LOSSES, Loss, class_axis, load_loss
from autoprune.tasks.metrics import load_metric, metric_and_loss
from autoprune.tasks.score import Score
from autoprune.tasks.splits import Batches, first_batch, hold_out, read, require_batches
from autoprune.tasks.tensors import call, evaluating, first_rows, has_several, main_tensor, map_tensors, sample_count

__all__ = ["NotFinite", "Task"]

_SPLITS = ("train", "validation", "test")
_FORGOTTEN: list[Any] = []


class NotFinite(TaskError):
    """A metric is NaN or infinite: of the dense model the task is unusable, of a candidate that one is."""


class Task:
    """What is to be pruned, on which data, and by which metric.

    train, validation, test: iterables of `(inputs, target)` batches that start anew on every pass (a list, a
    `DataLoader`). inputs: a tensor, a tuple of tensors, or a dict of tensors that become keyword arguments; the batch
    is the first dimension. target: a tensor or a dict of tensors. The search ranks candidates on `validation`; when it
    is None, about 15 % of `train` is held out. When `test` is None, `validation` stands in for it, and `has_test` is
    False. Both are said in `notes`. metric, loss: a name, `module:function`, or a function of `(outputs, target)`; of
    None the one follows from the other: `loss="mse"` is scored by mse, `metric="mae"` trained with l1, and accuracy and
    cross_entropy go together. early: a state dict of the model from early in its training, for spaces that rewind to
    it.

    Life cycle: made once, read by every process of a search. It never changes the model it was given; `evaluate`
    restores the train/eval mode of every submodule. Nothing is run at construction except reading first batches.
    `TaskError` when the arguments are unusable; `check` finds what only running the model shows.
    """

    def __init__(self, model: nn.Module, *, train: Any, validation: Any = None, test: Any = None,
                 metric: str | UserMetric | None = None, loss: str | Loss | None = None, name: str | None = None,
                 example_inputs: tuple[Any, ...] | dict[str, Any] | None = None,
                 early: Mapping[str, Tensor] | None = None) -> None:
        if not isinstance(model, nn.Module):
            raise TaskError("the model is not a torch.nn.Module", given=_what(model),
                            allowed="an instance of torch.nn.Module",
                            fix="call the class or factory: Task(make_model(), …)" if callable(model)
                            else "pass the module itself")
        self.model = model
        metric, loss = metric_and_loss(metric, loss)
        self.loss_name, self._loss = load_loss(loss)
        self._metric = load_metric(metric, loss=self.loss_name)
        self.metric = self._metric.name
        self.higher_is_better = self._metric.higher_is_better
        self.name = name or type(model).__name__
        notes: list[str] = []
        self._splits = self._make_splits(train, validation, test, notes)
        self.has_test = test is not None
        self.notes: tuple[str, ...] = tuple(notes)
        self.early = early
        self.example_inputs = self._example() if example_inputs is None else _as_arguments(example_inputs)

    def __repr__(self) -> str:
        return f"Task({self.name!r}, metric={self.metric!r}, loss={self.loss_name!r})"

    @staticmethod
    def _make_splits(train: Any, validation: Any, test: Any, notes: list[str]) -> dict[str, Batches]:
        splits = {"train": require_batches(train, "train")}
        if validation is None:
            first_batch(splits["train"], "train")
            splits["train"], splits["validation"], note = hold_out(splits["train"])
            notes.append(note)
        else:
            splits["validation"] = require_batches(validation, "validation")
        if test is None:
            splits["test"] = splits["validation"]
            notes.append("no test data given: all scores are of the validation data, by which the search chooses, so "
                         "they are too good")
        else:
            splits["test"] = require_batches(test, "test")
        return splits

    def _example(self) -> tuple[Any, ...] | dict[str, Any]:
        inputs, _ = first_batch(self._splits["train"], "train")
        if self.loss_name == "model" and isinstance(inputs, Mapping):
            # labels in the inputs are for the model's own loss; an exported model takes none
            inputs = {key: value for key, value in inputs.items() if key != "labels"}
        return _as_arguments(map_tensors(lambda leaf: leaf.detach().clone(), first_rows(inputs, 1)))

    def split(self, name: str) -> Batches:
        """The batches of "train", "validation" or "test"; `TaskError` for another name."""
        if name not in self._splits:
            raise TaskError("unknown split", given=repr(name), allowed=did_you_mean(name, _SPLITS), fix='"validation"')
        return self._splits[name]

    def with_half_batches(self) -> Task:
        """The same task in twice as many batches of half the size."""
        out = copy.copy(self)
        out._splits = {name: Halved(batches) for name, batches in self._splits.items()}
        return out

    def functions(self) -> list[Any]:
        """Those that its metric and loss are made of, the user's own or ours."""
        return [f for f in (self._loss, self._metric.function) if f is not None]

    def forget_loader_workers(self) -> None:
        """In a fork: let a `DataLoader` with persistent workers start its own, and not talk to the ones it shares."""
        for batches in self._splits.values():
            while hasattr(batches, "batches"):  # parts of others
                batches = batches.batches
            if isinstance(batches, DataLoader) and batches._iterator is not None:
                _FORGOTTEN.append(batches._iterator)  # not collected: that would end the other process's workers
                batches._iterator = None

    @staticmethod
    def call(model: nn.Module, inputs: Any) -> Any:
        """`model(**inputs)` for a dict, `model(*inputs)` for a tuple or list, `model(inputs)` otherwise."""
        return call(model, inputs)

    def forward(self, model: nn.Module, inputs: Any) -> Any:
        """The model's outputs for a batch of inputs, moved to the model's device. Mode and grad are the caller's."""
        return call(model, _to_device_of(model, inputs))

    @staticmethod
    def to_device(outputs: Any, target: Any) -> Any:
        """The target on the device of the outputs."""
        tensor = main_tensor(outputs)
        return target if tensor is None else map_tensors(lambda leaf: leaf.to(tensor.device), target)

    def gather(self) -> Gather:
        """A fresh gathering of the metric: `update` it with batches, then read `result`."""
        return self._metric.start()

    def loss(self, outputs: Any, target: Any) -> Tensor:
        """Scalar loss on the outputs' device. NaN outputs give NaN; shapes that do not fit are a `TaskError`."""
        value = self._loss(outputs, self.to_device(outputs, target))
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise TaskError("the loss is not a scalar tensor", given=f"{self.loss_name}: {_what(value)}",
                            allowed="a tensor with one element", fix="end the loss function with .mean()")
        return value.reshape(())

    def logits(self, outputs: Any) -> Tensor | None:
        """The tensor to distil: a tensor itself, `.logits`, `["logits"]`, the first of a tuple; or None. Of several
        outputs only where a built-in loss takes it for the prediction: what the user's own makes of them, only it
        knows.
        """
        return None if self.loss_name not in LOSSES and has_several(outputs) else main_tensor(outputs)

    def class_axis(self, logits: Tensor, target: Any) -> int | None:
        """The axis of the classes of what is distilled; None where there are none."""
        return class_axis(logits, target, self.loss_name)

    def evaluate(self, model: nn.Module, split: str = "validation", limit: int | None = None) -> Score:
        """The metric of `model` on a split, in eval mode and without gradients; the modes are restored. On a GPU where
        there is one (`autoprune.accelerator`). A score on the validation data says so, also where it stands in for
        test data.

        limit: at most so many samples, from the start of the split; None for all. `TaskError` when the split is empty,
        the metric does not fit, or its value is NaN or infinite (a diverged model, or NaN in the data).
        """
        if limit is not None and limit < 1:
            raise TaskError("the limit must be at least 1 sample", given=limit, fix="limit=None for all samples")
        split = "validation" if split == "test" and not self.has_test else split
        gather, seen = self.gather(), 0
        with evaluating(model), torch.no_grad(), on_accelerator(model):
            for inputs, target in read(self.split(split), split):
                count = sample_count(inputs)
                if limit is not None and seen + count > limit:
                    inputs, target = (first_rows(part, limit - seen, count) for part in (inputs, target))
                    count = limit - seen
                outputs = self.forward(model, inputs)
                gather.update(outputs, self.to_device(outputs, target), count)
                seen += count
                if limit is not None and seen >= limit:
                    break
        if seen == 0:
            raise TaskError(f"the {split} data is empty", given=type(self.split(split)).__name__,
                            fix="check the path or the filter that the data is made with")
        value, error = gather.result()
        if not torch.isfinite(torch.tensor([value, error])).all():
            raise NotFinite(f"{self.metric} is not finite on the {split} split", given=f"{value} ± {error}",
                            allowed="a finite value", fix="look for NaN in the model's outputs and in the data")
        return Score(self.metric, value, split, seen, error, self.higher_is_better)

    def check(self) -> None:
        """Run one training batch through model, loss and metric, and look at the labels of all splits.

        The first thing that is wrong is raised as one `TaskError` that names it and the fix. Labels and inputs are read
        for at most 5 seconds per split.
        """
        check_task(self)

    def fingerprint(self) -> str:
        """16 hex digits that change with the model (names, shapes, values), metric, loss (their names,
        and the text of functions of the user's own) and data.

        Data enters by the number of batches, by the first batch where that repeats (not shuffled or augmented), and by
        the tensors that it is made of where they lie in memory; of larger tensors a million elements count.
        """
        return fingerprint(self)


def _to_device_of(model: nn.Module, value: Any) -> Any:
    weight = next(model.parameters(), None)
    return value if weight is None else map_tensors(lambda leaf: leaf.to(weight.device), value)


def _as_arguments(inputs: Any) -> tuple[Any, ...] | dict[str, Any]:
    if isinstance(inputs, Mapping):
        return dict(inputs)
    return tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)


def _what(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
