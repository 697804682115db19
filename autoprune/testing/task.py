"""Conformance of a `Task`."""

from __future__ import annotations

import torch

from autoprune.tasks.score import Score
from autoprune.tasks.task import Task

__all__ = ["check_task"]


def check_task(task: Task) -> None:
    """The task can be searched: batches repeat, loss and gradients are finite, scoring changes nothing and repeats."""
    task.check()
    before = {n: t.clone() for n, t in task.model.state_dict().items()}
    modes = [m.training for m in task.model.modules()]
    for split in ("train", "validation", "test"):
        counts = [sum(1 for _ in task.split(split)) for _ in range(2)]
        assert counts[0] == counts[1] > 0, f"{split} has {counts[0]} batches, then {counts[1]}"
    inputs, target = next(iter(task.split("train")))
    outputs = task.forward(task.model, inputs)
    loss = task.loss(outputs, target)
    assert loss.shape == () and bool(torch.isfinite(loss)), f"the loss is {loss}"
    logits = task.logits(outputs)
    assert logits is None or isinstance(logits, torch.Tensor), "logits() must give a tensor or None"
    first, again = task.evaluate(task.model), task.evaluate(task.model)
    assert isinstance(first, Score) and first.value == again.value, "a second evaluation gives another score"
    assert task.fingerprint() == task.fingerprint(), "the fingerprint is not stable"
    for n, t in task.model.state_dict().items():
        assert torch.equal(t, before[n]), f"scoring changed {n}"
    assert modes == [m.training for m in task.model.modules()], "scoring changed the train/eval mode"
