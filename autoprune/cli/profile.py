"""`autoprune profile`."""

from __future__ import annotations

from typing import Annotated

import typer

from autoprune.cli.output import Format, note, print_json, print_table, result

__all__ = ["profile"]


def profile(
    model: Annotated[str | None, typer.Option(help="A model, or FILE.onnx; the built-in example by default.")] = None,
    device: Annotated[str, typer.Option(help="Name, device file or ssh://user@host.")] = "cpu",
    data: Annotated[str | None, typer.Option(help="The data, for example inputs.")] = None,
    shape: Annotated[list[str] | None, typer.Option("--input", help="Shape of an input: 1x3x224x224, "
                                                                    "1x128:int.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the runtime.", min=1)] = None,
    percentile: Annotated[str, typer.Option(help="p50, p90 or p99.")] = "p50",
    output: Annotated[Format, typer.Option("--format", help="table, json or csv.")] = Format.table,
) -> None:
    """Just the latency of a model on a device, and which nodes take it (on predicted devices).

    \b
    autoprune profile --device raspberrypi
    autoprune profile --model model.onnx --device cpu --format json
    autoprune profile --model nets.py:make --input 1x3x224x224 --device rpi5
    """
    from autoprune.cli.inputs import load_model_and_inputs
    from autoprune.devices.device import load_device
    from autoprune.devices.nodes import Node
    from autoprune.nas.oracle import to_onnx_bytes
    from autoprune.devices.prices import nodes_for, predict_table
    from autoprune.devices.profiler import open_profiler

    found = load_device(device)
    if found.announce:
        note(f"autoprune: {found.announce}")
    with open_profiler(found, percentile=percentile, threads=threads) as profiler:
        if model is not None and model.endswith(".onnx"):
            onnx_bytes = to_onnx_bytes(model)
        else:
            onnx_bytes = to_onnx_bytes(*load_model_and_inputs(model, data, shape))
        latency = profiler.latency(onnx_bytes)
    table: list[tuple[Node, float]] = []
    if not found.is_measured:
        table = predict_table(nodes_for(onnx_bytes, found), found, threads=threads)
    if output is Format.json:
        nodes = [{"node": n.name, "operator": n.op, "macs": n.macs, "ms": round(ms, 4)} for n, ms in table]
        print_json({"latency": latency.to_json(), "nodes": nodes})
        return
    if table:
        total = sum(ms for _, ms in table)
        print_table(["node", "operator", "MACs", "ms", "share"],
                    [[n.name, n.op, n.macs, round(ms, 4), f"{100 * ms / total:.1f} %"] for n, ms in table], output)
    if output is Format.table:
        result(str(latency))
        for text in latency.notes:
            note(f"note: {text}")
