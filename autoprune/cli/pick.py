"""`autoprune pick`."""

from __future__ import annotations

from typing import Annotated

import typer

from autoprune.cli.output import TableOrJson, note, print_json, result
from autoprune.errors import ConfigError

__all__ = ["pick"]


def pick(
    run: Annotated[str, typer.Argument(help="Run folder of a search.")],
    budget: Annotated[str | None, typer.Option(help="Best metric within this latency: 20ms, 0.5x.")] = None,
    max_drop: Annotated[str | None, typer.Option(help="Fastest that loses at most this: 1pp.")] = None,
    knee: Annotated[bool, typer.Option("--knee", help="The knee of the front.")] = False,
    trial: Annotated[int | None, typer.Option(help="This trial.")] = None,
    finetune: Annotated[bool, typer.Option("--finetune", help="Fine-tune it for longer first.")] = False,
    steps: Annotated[int, typer.Option(help="Optimiser steps of --finetune.", min=1)] = 300,
    folder: Annotated[str | None, typer.Option("--output", help="Where the files go; RUN/picked/TRIAL by "
                                                                "default, TRIAL-finetuned of a fine-tuned one.")
                     ] = None,
    output: Annotated[TableOrJson, typer.Option("--format", help="table or json.")] = TableOrJson.table,
) -> None:
    """Choose a point and write its files: model.onnx, model.pt2, weights.safetensors, plan.json, card.md; of a point in
    int8 also model_int8.onnx, which is the one to deploy (the others are the same model in fp32).

    With no choice given: the budget of the search.

    \b
    autoprune pick runs/x
    autoprune pick runs/x --max-drop 1pp --finetune
    autoprune pick runs/x --trial 17 --output deploy/
    """
    from autoprune import api
    from autoprune.front.front import load_front
    from autoprune.front.words import faster_sentence, latency_notes
    from autoprune.tasks.build import load_task

    found = load_front(run)
    point = found.pick(budget, max_drop, knee=knee, trial=trial)
    note(f"trial {point.number}: {point.candidate.plan.precision}, {point.latency}, {point.score}")
    for text in latency_notes([point.candidate]):
        note(f"note: {text}")
    if (faster := faster_sentence(found, point.candidate)) is not None:
        note(f"note: {faster}")
    s = found.settings
    task = load_task(s.get("model"), s.get("data"), s.get("metric"), s.get("loss"))
    if task.name != found.task:
        raise ConfigError("this search was made from Python, with a task that the command line cannot load",
                          given=f"task {found.task!r}", allowed="runs of `autoprune search`",
                          fix=f"in Python: autoprune.api.export(front, front.pick(), task.example_inputs) with front = "
                              f"autoprune.load_front({run!r})")
    model = int8 = None
    if finetune:
        if s.get("task_fingerprint") not in (None, task.fingerprint()):
            raise ConfigError("the model or the data is not what the search had",
                              given=f"{s.get('model')}, {s.get('data')}",
                              fix="the files and the folder of then; without --finetune it is exported as it was")
        note(f"fine-tuning for {steps} steps …")
        model, int8, point = api.finetune_point(found, point, task, steps)
        folder = folder or str(found.run / "picked" / f"{point.number:04d}-finetuned")
    note("exporting …")
    target = api.export(found, point, task.example_inputs, folder, model, int8)
    if output is TableOrJson.json:
        print_json({"candidate": point.candidate.to_json(), "folder": str(target)})
        return
    result(f"picked: trial {point.number}, {point.latency}, {point.score}")
    onnx_file = "model.onnx" if int8 is None and point.int8 is None else "model_int8.onnx, model.onnx"
    result(f"files:  {target} ({onnx_file}, model.pt2, weights.safetensors, plan.json, graph.json, card.md)")
    result(f"next:   python -c \"import autoprune; print(autoprune.load('{target}'))\"")
