"""What a look says of an untrained model: how far its outputs are from the dense model's, on training batches."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from tiny import CountingTask
from torch import nn

from autoprune.graph.graph import Graph, trace
from autoprune.graph.plan import Plan
from autoprune.recover.finetune import Example
from autoprune.recover.norms import recalibrate
from autoprune.search import pipeline as module
from autoprune.search.pipeline import Pipeline
from autoprune.search.space import load_space
from autoprune.tasks.batches import TensorBatches
from autoprune.tasks.task import Task


@pytest.fixture
def pipeline(task: CountingTask, tiny_graph: Graph) -> Pipeline:
    return Pipeline(task, tiny_graph, load_space("default"))


def half(graph: Graph) -> Plan:
    return Plan.uniform(graph, 0.5)


def test_it_is_minus_the_divergence(pipeline: Pipeline, tiny_graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms go by the statistics of the batch that is looked at."""
    monkeypatch.setattr(module, "_LOOK_SAMPLES", 1)
    plan = half(tiny_graph)
    model = pipeline.prune(plan)
    first = pipeline.calibration()[0]
    assert first.teacher is not None
    outputs: list[torch.Tensor] = []
    recalibrate(model, [first.inputs], lambda m, x: outputs.append(m(x)))
    expected = F.kl_div(outputs[0].log_softmax(1), first.teacher.log_softmax(1), log_target=True, reduction="batchmean")
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


def test_every_batch_is_run_once(pipeline: Pipeline, tiny_graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline.prune(half(tiny_graph))  # gathers statistics
    batches = [id(e.inputs) for e in pipeline._looked_at()]
    ran: list[int] = []
    forward = CountingTask.forward
    monkeypatch.setattr(CountingTask, "forward", lambda self, model, inputs: (
        ran.append(id(inputs)), forward(self, model, inputs))[1])
    assert math.isfinite(pipeline.look(half(tiny_graph)))
    assert ran == batches


def test_a_net_without_norms_is_looked_at_too() -> None:
    data = TensorBatches(torch.randn(16, 8), torch.randint(0, 3, (16,)), batch_size=8)
    task = Task(nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 3)),
                train=data, validation=data)
    pipeline = Pipeline(task, trace(task.model, task.example_inputs), load_space("default"))
    assert pipeline.look(Plan()) == pytest.approx(0.0, abs=1e-6)
    assert pipeline.look(half(pipeline.graph)) < -1e-4


def test_where_outputs_cannot_be_compared_the_loss_counts(pipeline: Pipeline, tiny_graph: Graph) -> None:
    model = pipeline.prune(half(tiny_graph))
    [e, *_] = pipeline.calibration()
    alone = Example(e.inputs, e.target, None)
    losses: list[float] = []
    recalibrate(model, [e.inputs], lambda m, x: losses.append(float(pipeline.task.loss(m(x), e.target))))
    assert pipeline.divergence(model, [alone, alone]) == pytest.approx(losses[0])


def test_a_search_without_training_or_calibration_still_has_a_batch(task: CountingTask, tiny_graph: Graph) -> None:
    space = load_space("default")
    pipeline = Pipeline(task, tiny_graph, type(space)(**{**vars(space), "recover": {"steps": 0,
                                                                                    "calibration_batches": 0}}))
    assert math.isfinite(pipeline.look(half(tiny_graph)))
