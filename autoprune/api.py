"""The Python interface: `autoprune.search` and `autoprune.load`. The command line calls the same functions."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.config import Settings
from autoprune.errors import ConfigError, first_line
from autoprune.units import parse_budgets, parse_drop, parse_duration_s

if TYPE_CHECKING:
    from autoprune.devices.device import Device
    from autoprune.front.front import Front, Point
    from autoprune.graph.graph import Graph
    from autoprune.graph.module import PrunedModule
    from autoprune.search.outcome import Outcome, Progress
    from autoprune.search.reuse import Reused
    from autoprune.search.run import Search
    from autoprune.search.space import Space
    from autoprune.tasks.task import Task

__all__ = ["export", "finetune_point", "load", "run_settings", "search"]


def search(task: Task | None = None, device: str | Device = "cpu", budget: str | None = None, *,
           max_drop: str | None = None, space: str = "default", methods: str | list[str] | None = None,
           trials: int | None = None, timeout: str | None = None, run: str | None = None, seed: int = 0,
           sampler: str = "auto", threads: int | None = None, steps: int | None = None, reuse: str | None = None,
           workers: int | None = None, candidate_timeout: str | None = None, storage: str | None = None,
           cluster: str | None = None, candidate_gpus: str | None = None, fresh: bool = False,
           on_progress: Callable[[Progress], None] | None = None) -> Front:
    """Search for pruned versions of `task`'s model that are fast on `device`; None is the built-in example.

    budget: latency with a unit (`20ms`, `50fps`, `0.5x`), or several with commas between, each of which gets a point;
    max_drop: allowed loss of the metric (`1pp`); space: a name or a TOML file; methods: in place of the space's, such
    as `taylor,lasso,path/file.py:Class`, or a list of them; trials: candidates in total, also over resumed runs;
    timeout: `30m`; run: folder, by default `runs/…` named after task, device and budget; sampler: `auto` is `knapsack`,
    or `tpe` in a space that has choices which that does not make (masks, int8); steps: fine-tuning steps per candidate
    (the space's own otherwise); threads: of the runtime on a measured device; reuse: run folder of a search of the same
    model and data on another device, whose scores are taken over (`trials` then is by default what was evaluated there,
    and two more where that does not come near a budget); workers: candidates at a time, each in a process of one
    thread, None for as many as cores and memory allow, 0 for this process (the only way on a machine with a GPU, which
    trains them then, and outside Linux); candidate_timeout: `30m`, after which a candidate is given up; storage:
    `postgresql://…` for the study, a file in the run folder otherwise; cluster: of Ray, `ray://host:10001`, `auto` or
    `local`, on which candidates are evaluated, each with `candidate_gpus` GPUs.

    The same call again resumes. KeyboardInterrupt ends the search early with the front so far.
    Raises `ConfigError`, `ModelError`, `DeviceError`. Whether the budgets were met: `front.met`.
    """
    if isinstance(methods, list):
        methods = ",".join(map(str, methods))
    settings = Settings(device=device, budget=budget, max_drop=max_drop, space=space, methods=methods, trials=trials,
                        timeout=timeout, run=run, seed=seed, sampler=sampler, threads=threads, steps=steps,
                        reuse=reuse, workers=workers, candidate_timeout=candidate_timeout, storage=storage,
                        cluster=cluster, candidate_gpus=candidate_gpus)
    front, _ = run_settings(settings, task, fresh=fresh, on_progress=on_progress)
    return front


def run_settings(settings: Settings, task: Task | None = None, *, fresh: bool = False,
                 on_progress: Callable[[Progress], None] | None = None,
                 on_stage: Callable[[str], None] | None = None) -> tuple[Front, bool]:
    """Run or resume the search that `settings` describe; returns its front and whether it was interrupted.

    Everything that can be wrong with the settings is found before the model is loaded. `on_stage` is told what goes on
    before and after the candidates.
    """
    from autoprune.devices.device import load_device
    from autoprune.front.front import load_front
    from autoprune.search.configuration import run_configuration
    from autoprune.search.run_folder import RunFolder
    from autoprune.search.space import space_for
    from autoprune.search.storage import check_storage, storage_errors
    from autoprune.search.workers.choose import choose_workers

    say = on_stage or (lambda _: None)
    if task is not None:
        _require_task(task)
    budgets = parse_budgets(settings.budget) if settings.budget is not None else ()
    timeout_s = parse_duration_s(settings.timeout) if settings.timeout is not None else None
    if settings.max_drop is not None:
        parse_drop(settings.max_drop)
    _check_numbers(settings)
    if settings.storage is not None:
        check_storage(settings.storage)
    workers = choose_workers(settings, task)
    device = load_device(settings.device)
    space = space_for(settings.space, settings.methods, settings.steps)
    other = load_front(settings.reuse) if settings.reuse is not None else None
    settings = replace(settings, sampler=_sampler(settings.sampler, space, other))
    task, graph = _prepare(settings, task, say)
    configuration = run_configuration(settings, task, device, space, graph)
    reused = _reused(other, configuration, space) if other is not None else None
    trials = settings.trials or (space.trials if reused is None else None)
    configuration["trials"] = trials
    path = settings.run or default_run(task.name, device.name, settings.budget)
    with RunFolder(path, settings.storage).open(configuration, fresh=fresh) as folder, storage_errors(folder.storage):
        from autoprune.search.run import Search
        from autoprune.search.study import forget

        if fresh and settings.storage is not None:
            forget(folder.storage, folder.study, folder.place)
        runner = Search(task, graph, device, space, folder, budgets=budgets, trials=trials, timeout_s=timeout_s,
                        seed=settings.seed, sampler=settings.sampler, threads=settings.threads, reused=reused,
                        workers=workers)
        try:
            choices = runner.proposer.choices.values()
            for method, groups in Counter(m for c in choices for m in c.left_out).items():
                say(f"{method} does not apply to {groups} of {len(choices)} groups and is left out there")
            if space.drop and not runner.proposer.branches:
                say("no residual branch is dropped: the model has none")
            for pattern in runner.proposer.patterns:
                say(device.mask_note(pattern))
            say("exporting and profiling the dense model")
            outcome = runner.run(on_progress)
            return _finish(runner, outcome, configuration, settings, say), outcome.interrupted
        finally:
            runner.close()


def _require_task(task: object) -> None:
    from autoprune.tasks.task import Task

    if not isinstance(task, Task):
        raise ConfigError("what is searched is not a task", given=f"a {type(task).__name__}",
                          allowed="an autoprune.Task, which knows the data and the metric too",
                          fix="autoprune.search(autoprune.Task(model, train=batches), …)")


def _check_numbers(settings: Settings) -> None:
    for name, least in (("trials", 1), ("threads", 1), ("steps", 0), ("seed", 0), ("workers", 0)):
        value = getattr(settings, name)
        if value is not None and (not isinstance(value, Integral) or isinstance(value, bool)):
            raise ConfigError(f"{name} must be a whole number", given=repr(value),
                              fix=f"{name}={value if str(value).isdigit() else max(least, 1)}")
        if value is not None and value < least:
            raise ConfigError(f"{name} must be at least {least}", given=value, fix=f"--{name} {max(least, 1)}")


def _sampler(name: str, space: Space, reused: Front | None) -> str:
    """The sampler that is asked for; `auto` is the best one that makes all choices of the space, and of the plans that
    are taken over.
    """
    from autoprune.errors import did_you_mean
    from autoprune.search.study import SAMPLERS

    if name == "auto":
        plans = [c.plan for c in reused.candidates] if reused is not None else []
        more = any(p.masks or p.precision != "fp32" for p in plans)
        return "tpe" if more or space.masks or "int8" in space.precisions else "knapsack"
    if name not in SAMPLERS:
        raise ConfigError("unknown sampler", given=name, allowed=did_you_mean(name, ("auto", *SAMPLERS)),
                          fix="--sampler auto")
    return name


def _prepare(settings: Settings, task: Task | None, say: Callable[[str], None]) -> tuple[Task, Graph]:
    from autoprune.graph.graph import trace
    from autoprune.tasks.build import load_task
    from autoprune.tasks.check import check_traced

    if task is None:
        say("loading model and data")
        task = load_task(settings.model, settings.data, settings.metric, settings.loss)
    task.check()
    for text in task.notes:
        say(text)
    say("tracing the model")
    graph = trace(task.model, task.example_inputs)
    check_traced(task, graph.dense(), graph.captured.note)
    return task, graph


def default_run(task: str, device: str, budget: str | None) -> str:
    """`runs/TASK-DEVICE-BUDGET` with everything but letters, digits, dot and dash replaced."""
    text = "-".join(x for x in (task, device, budget or "nobudget") if x)
    return "runs/" + "".join(c if c.isalnum() or c in ".-" else "_" for c in text)


def _reused(front: Front, configuration: Mapping[str, Any], space: Space) -> Reused:
    """What another run evaluated; `ConfigError` when its scores would not be those of this one."""
    from autoprune.search.reuse import Reused, require_same

    require_same(front.run, front.settings, configuration)
    return Reused.of(front.candidates, front.run / "candidates", space.precisions)


def _finish(runner: Search, outcome: Outcome, configuration: dict[str, Any], settings: Settings,
            say: Callable[[str], None]) -> Front:
    """Test scores, the recommended points with their files, `front.json` and `report.html`."""
    from autoprune.search.failures import CANDIDATE_ERRORS, is_everyones
    from autoprune.search.finish import current, damaged, recommended, score_on_test, tune

    if outcome.interrupted and (outcome.dense is None or len(outcome.budgets_ms) < len(runner.budgets)):
        raise KeyboardInterrupt  # before anything was asked
    if outcome.dense is None:
        raise ConfigError("the time was up before the dense model was evaluated",
                          given=f"--timeout {settings.timeout}", fix="a longer --timeout; the same command resumes")
    front = _front(runner, outcome, configuration, settings)  # scores after as many steps each: none is tuned here
    if lost := damaged(front):
        say(f"the weights of trial {', '.join(map(str, lost))} are damaged: not recommended, whatever the score")
    first, *others = recommended(runner, front)
    chosen = {n for n in (first, *others) if n is not None}
    outcome = current(runner, outcome)
    _save(runner, replace(_front(runner, outcome, configuration, settings), recommended=first,
                          further=dict(zip(front.further, others, strict=True))))
    if not outcome.interrupted:
        for number in sorted(chosen):
            try:
                outcome = tune(runner, outcome, number, say)
            except CANDIDATE_ERRORS as error:
                if is_everyones(error):
                    raise  # of a disk that is full, say
                say(f"it stays as it was: {first_line(error)}")
        if runner.task.has_test:
            outcome = score_on_test(runner, outcome, say)
    front = _front(runner, outcome, configuration, settings)
    if runner.budgets or settings.max_drop:  # of all that are tuned, now or before, and for whichever budget
        chosen |= {c.number for c in front.candidates if c.steps > runner.pipeline.settings.steps}
    first, *others = recommended(runner, replace(front, candidates=[c for c in front.candidates if c.number in chosen]))
    front = replace(_front(runner, current(runner, outcome), configuration, settings),
                    recommended=first, further=dict(zip(front.further, others, strict=True)))
    _write(runner, front)  # what an export that fails does not take away
    for number in sorted({n for n in (first, *others) if n is not None}) if not outcome.interrupted else ():
        say("exporting the recommended model")
        with runner.pipeline.clock.time("export"):
            point = front.pick(trial=number)
            model = point.load()
            export(front, point, runner.graph.example_inputs, model=model, onnx=runner.pipeline.maker.optimized(model))
    return _write(runner, front)


def _write(runner: Search, front: Front) -> Front:
    """`front.json` and `report.html`; the front, with what the time went to so far."""
    from autoprune.front.report import write_report

    front = _save(runner, front)
    write_report(front, runner.folder.path / "report.html")
    return front


def _save(runner: Search, front: Front) -> Front:
    import json

    front = replace(front, seconds=runner.total_seconds())
    runner.folder.write("front.json", json.dumps(front.to_json()))
    return front


def _front(runner: Search, outcome: Outcome, configuration: dict[str, Any], settings: Settings) -> Front:
    from autoprune.front.front import Front
    from autoprune.search.run_folder import environment

    assert outcome.dense is not None
    texts = [budget.text for budget in runner.budgets]
    return Front(
        run=runner.folder.path, task=runner.task.name, metric=runner.task.metric,
        higher_is_better=runner.task.higher_is_better, device=runner.device.resolved, budget=next(iter(texts), None),
        budget_ms=next(iter(outcome.budgets_ms), None), further=dict.fromkeys(texts[1:]),
        max_drop=settings.max_drop, dense=outcome.dense, candidates=outcome.candidates,
        environment=environment(), settings=configuration,
        groups={n: g.size for n, g in runner.graph.groups.items()}, notes=runner.task.notes)


def export(front: Front, point: Point, example_inputs: Any, folder: str | os.PathLike[str] | None = None,
           model: PrunedModule | None = None, int8: bytes | None = None, onnx: bytes | None = None) -> Path:
    """Write the files of a point into `folder` (by default `RUN/picked/NUMBER`) and return it.

    model, int8: what `finetune_point` made, in the place of what the search kept; onnx: of that model, where it is at
    hand.
    """
    from autoprune.front.export import export_point

    target = Path(folder) if folder is not None else front.run / "picked" / f"{point.number:04d}"
    if int8 is None and point.int8 is not None:
        int8 = point.int8.read_bytes()
    export_point(front, point, model or point.load(), example_inputs, target, int8, onnx)
    return target


def finetune_point(front: Front, point: Point, task: Task, steps: int) -> tuple[PrunedModule, bytes | None, Point]:
    """Fine-tune a point for longer, with distillation from the dense model; returns the model, its ONNX in int8 where
    that is the point's precision, and the point with its new scores on both splits.
    """
    from autoprune.front.front import Point
    from autoprune.graph.onnx import export_onnx
    from autoprune.graph.onnx_int8 import quantize
    from autoprune.graph.onnx_module import OnnxModule
    from autoprune.methods.masks.apply import zeros_kept
    from autoprune.recover.finetune import Example, examples, finetune
    from autoprune.recover.recovery import Recovery
    from autoprune.search.configuration import recovery_digest
    from autoprune.search.space import space_for

    space = space_for(front.settings.get("space", "default"), steps=front.settings.get("steps"))
    if front.settings.get("recovery_digest") not in (None, recovery_digest(space)):
        raise ConfigError("the space file is not what the search had: candidates recover in another way",
                          given=str(front.settings.get("space")),
                          fix="the file of then; without --finetune the point is exported as it was")
    recovery = Recovery.of(space.recover, space.schedule)
    settings = replace(recovery.tune, steps=steps)
    model = point.load()
    batches: list[Example] = []
    while len(batches) < min(steps, 512):
        batches += examples(task, task.model, task.split("train"), min(steps, 512) - len(batches))
    with zeros_kept(model, point.candidate.plan.masks):
        finetune(model, task, batches, settings, int(front.settings.get("seed", 0)))
    int8: bytes | None = None
    deployed: PrunedModule | OnnxModule = model
    if point.int8 is not None:
        seen = (e.inputs for e in batches[: max(1, recovery.calibration_batches)])
        int8 = quantize(export_onnx(model, task.example_inputs), task.example_inputs, seen)
        deployed = OnnxModule(int8, model, task.example_inputs)
    candidate = replace(point.candidate, steps=point.candidate.steps + steps,
                        score=task.evaluate(deployed, "validation"),
                        test=task.evaluate(deployed, "test") if task.has_test else None)
    return model, int8, Point(candidate, point.run)


def load(folder: str | os.PathLike[str], trial: int | None = None) -> PrunedModule:
    """A model from a folder that `save` or `pick` wrote, or from a run folder (its recommended point, or `trial`).

    Returns a `torch.nn.Module` in evaluation mode. Nothing is unpickled.
    """
    from autoprune.front.front import load_front
    from autoprune.graph.module import load_module

    path = Path(folder)
    if trial is None and (path / "graph.json").is_file():
        return load_module(path)
    if not (path / "front.json").is_file() and not (path / "candidates").is_dir():
        return load_module(path)  # raises with the files that are missing
    front = load_front(path)
    return front.pick(trial=trial if trial is not None else front.recommended).load()
