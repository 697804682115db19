"""`autoprune mask` and `autoprune ticket`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoprune.cli.output import TableOrJson, note, print_json, print_table, result

if TYPE_CHECKING:
    from autoprune.front.masked import MaskReport

__all__ = ["mask", "ticket"]

Model = Annotated[str | None, typer.Option(help="As for search; the built-in example by default.")]
Data = Annotated[str | None, typer.Option(help="As for search.")]
Metric = Annotated[str | None, typer.Option(help="As for search.")]
Loss = Annotated[str | None, typer.Option(help="As for search.")]
Sparsity = Annotated[float | None, typer.Option(help="Share of the weights that goes: 0.9. Not with N:M.")]
PatternOption = Annotated[str, typer.Option(help="weight, 2:4, block:4x4, kernel or row.")]
Method = Annotated[str, typer.Option(help="magnitude, lamp, snip, movement, obd, obs, wanda or random.")]
Scope = Annotated[str, typer.Option(help="layer: the same share everywhere; global: one ranking, of a pattern's "
                                    "cells, of which small ones count as much as large.")]
Skip = Annotated[list[str] | None, typer.Option(help="A weight that stays dense: a name or stem.*; repeatable.")]
SkipUnfit = Annotated[bool, typer.Option("--skip-unfit", help="Leave dense what the pattern or method does not fit.")]
Cycles = Annotated[int, typer.Option(help="Number of cuts, but for one-shot.", min=1)]
Rate = Annotated[float, typer.Option("--lr", help="Peak learning rate.")]
Seed = Annotated[int, typer.Option(help="Seed of training and of random masks.", min=0)]
Output = Annotated[TableOrJson, typer.Option("--format", help="table or json.")]


def mask(
    model: Model = None, data: Data = None, metric: Metric = None, loss: Loss = None,
    pruned: Annotated[str | None, typer.Option(help="Folder of a pruned model, whose weights are masked.")] = None,
    device: Annotated[str, typer.Option(help="For the note on latency.")] = "cpu",
    sparsity: Sparsity = None, pattern: PatternOption = "weight", method: Method = "magnitude", scope: Scope = "layer",
    schedule: Annotated[str, typer.Option(help="one-shot, iterative or gradual.")] = "one-shot",
    cuts: Cycles = 8,
    soft: Annotated[bool, typer.Option("--soft", help="Masked weights train on, and can come back.")] = False,
    start: Annotated[str, typer.Option(help="Weights after every cut: keep, rewind or random.")] = "keep",
    early: Annotated[str | None, typer.Option(help="Checkpoint of --start rewind.")] = None,
    skip: Skip = None,
    skip_unfit: SkipUnfit = False,
    steps: Annotated[int, typer.Option(help="Training steps in all.", min=0)] = 240,
    lr: Rate = 3e-4,
    distill: Annotated[float, typer.Option(help="Weight of the dense model's outputs in the loss, 0 to 1.")] = 0.9,
    seed: Seed = 0,
    folder: Annotated[str, typer.Option("--output", help="Where the files go.")] = "masked",
    output: Output = TableOrJson.table,
) -> None:
    """Mask single weights: smaller files, not less latency. Writes the model, weights.sparse.zip and report.json.

    \b
    autoprune mask --sparsity 0.9
    autoprune mask --model nets.py:make --data folder:photos --pattern 2:4 --method wanda --skip stem.weight
    autoprune mask --sparsity 0.95 --scope global --schedule iterative --cuts 8 --steps 800 --output small
    """
    from autoprune.api_masks import mask_model
    from autoprune.devices.device import load_device
    from autoprune.methods.schedules import Schedule
    from autoprune.recover.finetune import FineTune
    from autoprune.recover.sparsify import Recipe
    from autoprune.tasks.build import load_task

    recipe = Recipe(sparsity, pattern, method, scope, Schedule(schedule, 1 if schedule == "one-shot" else cuts), soft,
                    tuple(skip or ()), skip_unfit)
    settings = FineTune(steps=steps, lr=lr, distill=distill)
    found = load_device(device)
    report = mask_model(load_task(model, data, metric, loss), recipe, settings, Path(folder), device=found, start=start,
                        early=early, pruned=pruned, seed=seed, say=note)
    if output is TableOrJson.json:
        print_json(report.to_json())
    else:
        _show(report, folder)


def _show(report: MaskReport, folder: str) -> None:
    print_table(["weight", "of", "kept", "share"],
                [[n, of, kept, f"{kept / of:.1%}"] for n, (kept, of) in report.layers.items()])
    if report.dense:
        note(f"note: without a mask: {', '.join(report.dense)}")
    size = report.size_bytes
    result(f"score:  {report.after}; before {report.before}")
    result(f"params: {report.nonzeros:,} of {report.params:,} are not zero ({report.nonzeros / report.params:.2%})")
    result(f"bytes:  {size['sparse_zip']:,} without zeros and zipped; {size['onnx_zip']:,} the ONNX file zipped, "
           f"{size['onnx']:,} as it is; {size['weights']:,} of weights")
    result(f"note:   {report.speed}")
    result(f"files:  {folder} (model.onnx, model.pt2, weights.safetensors, weights.sparse.zip, report.json)")


def ticket(
    model: Model = None, data: Data = None, metric: Metric = None, loss: Loss = None,
    sparsity: Sparsity = None, pattern: PatternOption = "weight", method: Method = "magnitude", scope: Scope = "layer",
    cycles: Cycles = 5, skip: Skip = None,
    skip_unfit: SkipUnfit = False,
    early: Annotated[int, typer.Option(help="Steps before the weights that are gone back to.", min=0)] = 50,
    steps: Annotated[int, typer.Option(help="Steps of each training.", min=1)] = 300,
    lr: Rate = 1e-3,
    keep: Annotated[bool, typer.Option("--keep-weights", help="Begin with the model's weights, not random "
                                                              "ones.")] = False,
    seed: Seed = 0,
    run: Annotated[str, typer.Option(help="Folder of the trainings that are done.")] = "runs/ticket",
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw away what the folder holds.")] = False,
    output: Output = TableOrJson.table,
) -> int:
    """Find a lottery ticket: prune by cycles, rewind, retrain; compare with chance. The same command again resumes.

    \b
    autoprune ticket --sparsity 0.9
    autoprune ticket --model nets.py:make --data nets.py:loaders --sparsity 0.98 --cycles 12 --run runs/lenet
    """
    from autoprune.api_masks import find_ticket
    from autoprune.methods.schedules import Schedule
    from autoprune.recover.finetune import FineTune
    from autoprune.recover.sparsify import Recipe
    from autoprune.tasks.build import load_task

    recipe = Recipe(sparsity, pattern, method, scope, Schedule("iterative", cycles), skip=tuple(skip or ()),
                    skip_unfit=skip_unfit)
    settings = FineTune(steps=steps, lr=lr, distill=0.0)
    try:
        table = find_ticket(load_task(model, data, metric, loss), recipe, settings, Path(run), early_steps=early,
                            scratch=not keep, fresh=fresh, seed=seed, say=note)
    except KeyboardInterrupt:
        note(f"interrupted; finished trainings are in {run}, the same command resumes after them")
        return 130
    if output is TableOrJson.json:
        print_json({name: {"nonzeros": n, "score": score.to_json()} for name, (n, score) in table.items()})
        return 0
    print_table(["model", "nonzero parameters", "score"], [[name, n, str(s)] for name, (n, s) in table.items()])
    result(f"files: {run} (early.safetensors, ticket-{cycles:02d}.safetensors, table.json)")
    return 0
