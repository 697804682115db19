"""Masks from a task to files: the order in which the rooms are called. The command line calls the same functions."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from autoprune.errors import ConfigError, did_you_mean
from autoprune.front.masked import MaskReport, nonzeros, sizes
from autoprune.recover.finetune import Example, FineTune, examples
from autoprune.recover.sparsify import Recipe, sparsify
from autoprune.recover.start import early_graph, read_checkpoint, reinitialise
from autoprune.recover.ticket import Checkpoints, Ticket
from autoprune.tasks.check import check_traced
from autoprune.tasks.score import Score

if TYPE_CHECKING:
    from autoprune.devices.device import Device
    from autoprune.graph.graph import Graph
    from autoprune.tasks.task import Task

__all__ = ["STARTS", "find_ticket", "mask_model"]

STARTS = ("keep", "random", "rewind")
_MOST_BATCHES = 512
_CALIBRATION_BATCHES = 6


def mask_model(task: Task, recipe: Recipe, settings: FineTune, folder: Path, *, device: Device, start: str = "keep",
               early: str | None = None, pruned: str | None = None, seed: int = 0,
               say: Callable[[str], None] | None = None) -> MaskReport:
    """Mask and fine-tune the task's model, write it and `report.json` into `folder`, and say what came out.

    start: weights that training starts from after every cut: "keep", "random", or "rewind" to the checkpoint `early`.
    pruned: folder of a model that was pruned before (`autoprune pick`); its weights are masked instead of the model's,
    and the report compares with it. Recipe, schedule, checkpoint and pattern are checked before any training.
    """
    from autoprune.front.export import export_model
    from autoprune.graph.graph import trace
    from autoprune.recover.norms import recalibrate

    tell = say or (lambda _: None)
    if start not in STARTS or (start == "rewind") != (early is not None):
        raise ConfigError("the weights to start from are not clear", given=f"start {start!r}, checkpoint {early}",
                          allowed=f"{did_you_mean(start, STARTS)}; a checkpoint with rewind, and only then",
                          fix="--start rewind --early early.safetensors")
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ConfigError("the masked model cannot be written", given=there, allowed="a folder",
                          fix="--output DIR with a folder you may write to")
    task.check()
    tell("tracing the model")
    model = task.model if pruned is None else _load(pruned)
    graph = trace(model, task.example_inputs)
    if pruned is None:
        check_traced(task, graph.dense(), graph.captured.note)
    weights = recipe.masks(graph)
    restart = _restart(graph, start, early, seed)
    data = _examples(task, graph, settings)
    before = task.evaluate(graph.dense(), "test")
    masked = graph.dense()
    masks = sparsify(masked, graph, task, data, recipe, settings, restart=restart, seed=seed,
                     on_cut=lambda n, kept: tell(f"cut {n} of {recipe.schedule.cuts}: {kept:.2%} of the weights stay"))
    masks.make_permanent()
    if settings.steps == 0:
        recalibrate(masked, [e.inputs for e in data], task.forward)
    tell("reading the test split, and writing the model")
    after = task.evaluate(masked, "test")
    export_model(masked, task.example_inputs, folder)
    counts = nonzeros(masked)
    many = [n for n, p in masked.named_parameters() if p.dim() >= 2]
    report = MaskReport(
        before, after, sum(n for _, n in counts.values()), sum(n for n, _ in counts.values()),
        {n: counts[n] for n in weights}, tuple(n for n in many if n not in weights), sizes(masked, folder),
        device.mask_note(recipe.pattern), {**asdict(recipe), "steps": settings.steps, "start": start, "seed": seed})
    (folder / "report.json").write_text(json.dumps(report.to_json(), indent=1), encoding="utf-8")
    return report


def find_ticket(task: Task, recipe: Recipe, settings: FineTune, folder: Path, *, early_steps: int, scratch: bool,
                fresh: bool = False, seed: int = 0, say: Callable[[str], None] | None = None
                ) -> dict[str, tuple[int, Score]]:
    """Dense, ticket, random mask, and the ticket's mask with random weights: name → (nonzero parameters, test score).

    Every training is written into `folder` when it is done; the same call goes on there. `ticket.safetensors` is the
    last cycle's file.
    """
    from autoprune.graph.graph import trace

    task.check()
    graph = trace(task.model, task.example_inputs)
    check_traced(task, graph.dense(), graph.captured.note)
    configuration = {**asdict(recipe), **asdict(settings), "early_steps": early_steps, "scratch": scratch, "seed": seed,
                     "skip": list(recipe.skip), "task": task.fingerprint(), "model": graph.fingerprint}
    recipe.masks(graph)
    stored = Checkpoints(folder, configuration, fresh=fresh)
    ticket = Ticket(graph, task, _examples(task, graph, settings), recipe, settings, early_steps, scratch, seed)
    out = {}
    for name, model in ticket.models(stored, say or (lambda _: None)).items():
        out[name] = sum(n for n, _ in nonzeros(model).values()), task.evaluate(model, "test")
    table = {name: {"nonzeros": n, "score": score.to_json()} for name, (n, score) in out.items()}
    (folder / "table.json").write_text(json.dumps(table, indent=1), encoding="utf-8")
    return out


def _load(folder: str) -> torch.nn.Module:
    from autoprune.api import load

    return load(folder)


def _restart(graph: Graph, start: str, early: str | None, seed: int) -> dict[str, torch.Tensor] | None:
    if start == "random":
        model = graph.dense()
        reinitialise(graph, model, seed)
        return model.tensors()
    return None if early is None else {
        n: t.detach() for n, t in early_graph(graph, read_checkpoint(early)).captured.tensors.items()}


def _examples(task: Task, graph: Graph, settings: FineTune) -> list[Example]:
    """Batches to train on, several passes of shuffled data, with the dense model's logits; a few are enough to score by
    when nothing is trained.
    """
    wanted = min(max(settings.steps, _CALIBRATION_BATCHES), _MOST_BATCHES)
    teacher, out = graph.dense(), list[Example]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        while len(out) < wanted:
            out += examples(task, teacher, task.split("train"), wanted - len(out))
    return out
