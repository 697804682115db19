"""`autoprune dynamic`."""

from __future__ import annotations

from typing import Annotated

import typer

from autoprune.cli.output import TableOrJson, note, print_json, print_table, result

__all__ = ["dynamic"]


def dynamic(
    model: Annotated[str | None, typer.Option(help="The model; the built-in example when neither model nor data is "
                                                   "given.")] = None,
    data: Annotated[str | None, typer.Option(help="The data to train and measure on.")] = None,
    metric: Annotated[str | None, typer.Option(help="Name or module:function; accuracy by default.")] = None,
    loss: Annotated[str | None, typer.Option(help="Name or module:function; cross_entropy by default.")] = None,
    target: Annotated[float, typer.Option(help="Share of the multiply-adds to execute, on average over inputs.")] = 0.6,
    steps: Annotated[int, typer.Option(help="Training steps of net and gates.", min=1)] = 200,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    device: Annotated[str, typer.Option(help="Device to measure on: cpu, ssh://user@host.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="Threads of the runtime.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Seed of training.")] = 0,
    file: Annotated[str, typer.Option("--output", help="ONNX file to write.")] = "dynamic.onnx",
    output: Annotated[TableOrJson, typer.Option("--format", help="table or json.")] = TableOrJson.table,
) -> None:
    """Train gates that skip residual blocks input by input, and write ONNX that really skips them.

    \b
    autoprune dynamic --target 0.6
    autoprune dynamic --model nets.py:make --data folder:photos --target 0.5 --steps 1000
    """
    from pathlib import Path

    from autoprune.devices.device import load_device
    from autoprune.devices.measure import Measurer
    from autoprune.dynamic.run import skip_blocks
    from autoprune.errors import ConfigError
    from autoprune.recover.finetune import FineTune
    from autoprune.tasks.build import load_task

    path = Path(file)
    if not path.parent.is_dir():
        raise ConfigError("the folder to write to does not exist", given=file, fix="--output FILE in an existing one")
    # long: a search that holds the device when training ends should not cost the trained net
    with Measurer(load_device(device), threads, timeout_s=1200) as measurer:
        found = skip_blocks(load_task(model, data, metric, loss), measurer, target, FineTune(steps=steps, lr=lr), seed)
    path.write_bytes(found.onnx_bytes)
    if output is TableOrJson.json:
        print_json({"file": str(path), **found.to_json()})
        return
    print_table(["branch", "runs for"], [[n, f"{100 * s:.0f} % of inputs"] for n, s in found.opened.items()])
    print_table(["skipped", "inputs", "ms"], [[s.branches, f"{100 * s.share:.1f} %", f"{s.mean_ms:.3g}"]
                                              for s in found.latency.by_skipped])
    result(f"score:   {found.score}; dense {found.dense}")
    result(f"latency: {found.latency}")
    result(f"file:    {path} (one input at a time; {100 * found.share:.0f} % of the multiply-adds on average)")
    if found.latency.paths == 1:
        note("note: all inputs take the same path; dropping these blocks for good (autoprune search) is simpler")
    if found.latency.ratio >= 1:
        note("note: not faster than the dense model on this device")
