"""What a look says of an untrained model: how far its outputs are from the dense model's, on training batches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import CountingTask

from autoprune.graph.graph import Graph
from autoprune.graph.plan import Plan
from autoprune.recover.finetune import Example
from autoprune.search import pipeline as module
from autoprune.search.pipeline import Pipeline
from autoprune.search.space import load_space


@pytest.fixture
def pipeline(task: CountingTask, tiny_graph: Graph) -> Pipeline:
    return Pipeline(task, tiny_graph, load_space("default"))


def half(graph: Graph) -> Plan:
    return Plan.uniform(graph, 0.5)


def test_it_is_minus_the_divergence(pipeline: Pipeline, tiny_graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_SAMPLES", 1)
    plan = half(tiny_graph)
    model = pipeline.prune(plan)
    pipeline.recalibrate(model)
    first = pipeline.calibration()[0]
    assert first.teacher is not None
    with torch.no_grad():
        expected = F.kl_div(model(first.inputs).log_softmax(1), first.teacher.log_softmax(1), log_target=True,
                            reduction="batchmean")
    assert pipeline.look(plan) == pytest.approx(-float(expected), rel=1e-5)
    assert pipeline.look(Plan()) > pipeline.look(plan)


def test_the_search_split_is_not_asked(pipeline: Pipeline, tiny_graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search split in the order of its classes would show one class first, and what it has chosen once looks better
    on it than it is.
    """
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("evaluated")

    monkeypatch.setattr(CountingTask, "evaluate", refuse)
    assert math.isfinite(pipeline.look(half(tiny_graph)))


@pytest.mark.parametrize(("wanted", "batches"), [(1, 1), (10**9, None)])
def test_it_takes_enough_batches(pipeline: Pipeline, tiny_graph: Graph, monkeypatch: pytest.MonkeyPatch, wanted: int,
                                 batches: int | None) -> None:
    seen: list[int] = []
    monkeypatch.setattr(module, "_LOOK_SAMPLES", wanted)
    monkeypatch.setattr(Pipeline, "divergence", lambda self, model, data: seen.append(len(data)) or 0.5)
    assert pipeline.look(half(tiny_graph)) == -0.5
    assert seen == [batches or len(pipeline._fine_tuning_examples())]


def test_what_is_no_number_is_the_worst(pipeline: Pipeline, tiny_graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pipeline, "divergence", lambda *_: math.nan)
    assert pipeline.look(half(tiny_graph)) == -math.inf


def test_where_outputs_cannot_be_compared_the_loss_counts(pipeline: Pipeline, tiny_graph: Graph) -> None:
    model = pipeline.prune(half(tiny_graph))
    [e, *_] = pipeline.calibration()
    alone = Example(e.inputs, e.target, None)
    with torch.no_grad():
        loss: Any = pipeline.task.loss(model(e.inputs), e.target)
    assert pipeline.divergence(model, [alone, alone]) == pytest.approx(float(loss))


def test_a_search_without_training_or_calibration_still_has_a_batch(task: CountingTask, tiny_graph: Graph) -> None:
    space = load_space("default")
    pipeline = Pipeline(task, tiny_graph, type(space)(**{**vars(space), "recover": {"steps": 0,
                                                                                    "calibration_batches": 0}}))
    assert math.isfinite(pipeline.look(half(tiny_graph)))
