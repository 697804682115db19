"""`autoprune search`."""

from __future__ import annotations

import contextlib
import signal
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoprune.cli.output import TableOrJson, note, print_json, result
from autoprune.config import Settings, load_settings
from autoprune.errors import BudgetError
from autoprune.interrupts import INTERRUPTS, noted_interrupts

if TYPE_CHECKING:
    from autoprune.front.front import Front, Point

__all__ = ["search"]


def search(
    model: Annotated[str | None, typer.Option(help="hf:ORG/NAME, timm:NAME, torchvision:NAME, pkg.mod:factory or "
                                                   "path/file.py:factory. Your code is run.")] = None,
    data: Annotated[str | None, typer.Option(help="folder:PATH, sklearn:digits, pkg.mod:loaders or "
                                                  "path/file.py:loaders.")] = None,
    metric: Annotated[str | None, typer.Option(help="Name or module:function (higher is better, unless it "
                                                   "has higher_is_better = False); accuracy by default.")] = None,
    loss: Annotated[str | None, typer.Option(help="Name or module:function; cross_entropy by default.")] = None,
    device: Annotated[str | None, typer.Option(help="Name, device file or ssh://user@host; cpu by default.")] = None,
    budget: Annotated[str | None, typer.Option(help="20ms, 1500us, 50fps, 0.5x (of dense), optionally @p90; several "
                                                      "with commas.")] = None,
    max_drop: Annotated[str | None, typer.Option(help="Allowed loss of the metric, such as 1pp.")] = None,
    space: Annotated[str | None, typer.Option(help="Search space: a name or a TOML file.")] = None,
    methods: Annotated[str | None, typer.Option(help="In place of the space's, with commas: names of autoprune methods "
                                                     "list, or path/file.py:Class.")] = None,
    trials: Annotated[int | None, typer.Option(help="Candidates in total, over resumed runs too.")] = None,
    timeout: Annotated[str | None, typer.Option(help="Stop after this long: 90s, 30m, 2h.")] = None,
    run: Annotated[str | None, typer.Option(help="Run folder; runs/TASK-DEVICE-BUDGET by default.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of proposals and fine-tuning.")] = None,
    sampler: Annotated[str | None, typer.Option(help="auto, knapsack, tpe, nsga2, gp or random.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the runtime on the device.")] = None,
    steps: Annotated[int | None, typer.Option(help="Fine-tuning steps per candidate.")] = None,
    reuse: Annotated[str | None, typer.Option(help="Run folder of a search of the same model on another device, whose "
                                                   "scores are taken over.")] = None,
    workers: Annotated[int | None, typer.Option(help="Candidates at a time, each in a process of one thread; "
                                                     "as many as cores and memory allow by default. 0: in this "
                                                     "process.")] = None,
    candidate_timeout: Annotated[str | None, typer.Option(help="Give up a candidate after this long: 90s, 30m; by "
                                                               "default 20 times the longest so far, on a cluster "
                                                               "never.")] = None,
    storage: Annotated[str | None, typer.Option(help="postgresql://user@host/database for the study, which others may "
                                                     "watch there; a file in the run folder by default.")] = None,
    cluster: Annotated[str | None, typer.Option(help="Evaluate on a Ray cluster: ray://host:10001, auto (the one that "
                                                     "this machine is in) or local.")] = None,
    candidate_gpus: Annotated[str | None, typer.Option(help="GPUs of the cluster for each candidate, such as 1 or "
                                                            "0.5.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw away what the run folder holds.")] = False,
    config: Annotated[str | None, typer.Option("-c", "--config", help="Settings file; autoprune.toml if it is "
                                                                      "there.")] = None,
    output: Annotated[TableOrJson, typer.Option("--format", help="table, or json: the front.")] = TableOrJson.table,
) -> int:
    """Search for pruned models that are fast on a device. The same command again resumes.

    Without a model, data and autoprune.toml the built-in example runs: a residual CNN on handwritten digits.

    \b
    autoprune search --device raspberrypi --budget 20ms
    autoprune search --device cpu --budget 0.5x --max-drop 1pp
    autoprune search --device rpi4 --budget 20ms,10ms,5ms
    autoprune search --model nets.py:make --data folder:photos --device rpi5 --budget 50fps --trials 100
    autoprune search --device rpi5 --budget 5ms --reuse runs/digits_example-raspberrypi-20ms
    """
    given = {name: value for name, value in locals().items() if name not in ("fresh", "config", "output")}
    return _search(load_settings(config, given), fresh, output)


def _search(settings: Settings, fresh: bool, output: TableOrJson) -> int:
    """Search, tell, and return the exit code."""
    _announce(settings)
    from autoprune.api import run_settings
    from autoprune.cli.progress import ProgressLine

    for number in INTERRUPTS[1:]:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup says of a terminal that closes
            signal.signal(number, _as_interrupt)
    with noted_interrupts() as seen:
        try:
            with ProgressLine() as line, contextlib.redirect_stdout(sys.stderr):  # what the user's code prints
                front, interrupted = run_settings(settings, fresh=fresh, on_progress=line.update, on_stage=line.stage)
        except (KeyboardInterrupt, ImportError, SystemError) as problem:  # what an import in C makes of an interrupt
            if not seen and not isinstance(problem, KeyboardInterrupt):
                raise
            note("interrupted; the same command resumes")
            return 130
    if output is TableOrJson.json:
        print_json(front.to_json())
    else:
        _close(front, interrupted)
    if interrupted:
        return 130
    return 0 if front.met else BudgetError.exit_code


def _as_interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _announce(settings: Settings) -> None:
    """The first lines: what is searched, before anything slow is imported."""
    if settings.model is None and settings.data is None:
        note("autoprune: built-in example, a residual CNN on scikit-learn's handwritten digits "
             "(your own: --model … --data …)")
    from autoprune.devices.device import load_device

    device = load_device(settings.device)
    if device.announce:
        note(f"autoprune: {device.announce}")


def _close(front: Front, interrupted: bool) -> None:
    """The closing lines: what is recommended for each budget, notes, the files and what to do next."""
    from autoprune.front.words import faster_sentence, gap_sentence, latency_notes

    chosen = [_chosen(front, budget, number) for budget, number in
              ((front.budget, front.recommended), *front.further.items())]
    points = [p for p in chosen if p is not None]
    for text in (*front.notes, *latency_notes(p.candidate for p in points or front.points)):
        note(f"note: {text}")
    if not points:
        result(f"files: {front.run} (report.html, front.json)")
        result(f"next:  autoprune front {front.run}")
        return
    if (gap := gap_sentence(front)) is not None:
        note(f"note: {gap}")
    for point in {p.number: p for p in points}.values():
        if (faster := faster_sentence(front, point.candidate)) is not None:
            note(f"note: {faster}")
    if interrupted:
        result(f"files: {front.run} (report.html, front.json); interrupted, the same command resumes")
        result(f"next:  autoprune pick {front.run} --trial {points[0].number}")
        return
    report = f", {front.run}/report.html"
    for point in {p.number: p for p in points}.values():
        files = ["model.onnx", "model.pt2", "weights.safetensors"]
        files = [*([point.int8.name] if point.int8 else []), *files,
                 *(["weights.sparse.zip"] if point.candidate.plan.masks else [])]
        result(f"files: {front.run}/picked/{point.number:04d} ({', '.join(files)}){report}")
        report = ""
    result(f"next:  autoprune pick {front.run} --trial {points[0].number} --finetune")


def _chosen(front: Front, budget: str | None, number: int | None) -> Point | None:
    """Tell what is recommended for a budget, or why nothing is."""
    from autoprune.front.words import again_sentence, difference, size

    if number is None:
        try:
            front.pick(budget, front.max_drop)
        except BudgetError as problem:
            sys.stdout.flush()
            note(f"error: {problem}")
        else:
            note("error: no candidate held the budget when it was measured again")
        return None
    point = front.pick(trial=number)
    c = point.candidate
    drop = front.test_drop(c)
    change = f"{difference(point.score, abs(drop))} {'worse' if drop >= 0 else 'better'} than dense"
    precision = "" if c.plan.precision == "fp32" else f"{c.plan.precision}, "
    result(f"recommended{f' for {budget}' if front.further else ''}: trial {c.number}, {precision}{c.latency}, "
           f"{point.score}, {change}, {front.dense.ms / c.ms:.2f}x faster than dense ({front.dense.latency})")
    if (again := again_sentence(c, front.budgets_ms.get(budget or ""))) is not None:
        result(f"time:  {again}")
    if c.compressed_bytes:
        result(f"size:  {size(c.compressed_bytes)} without zeros and zipped; dense "
               f"{size(front.dense.compressed_bytes)}")
    return point
