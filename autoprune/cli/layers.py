"""`autoprune layers`."""

from __future__ import annotations

from typing import Annotated

import typer

from autoprune.cli.output import Format, note, print_json, print_table

__all__ = ["layers"]


def layers(
    model: Annotated[str | None, typer.Option(help="The model; the built-in example when neither model nor data is "
                                                   "given.")] = None,
    data: Annotated[str | None, typer.Option(help="The data, for example inputs; or use --input.")] = None,
    shape: Annotated[list[str] | None, typer.Option("--input", help="Shape of an input such as 1x3x224x224 or "
                                                                    "1x128:int; repeat for several.")] = None,
    device: Annotated[str | None, typer.Option(help="Add the share of the latency on this device.")] = None,
    output: Annotated[Format, typer.Option("--format", help="table, json or csv.")] = Format.table,
) -> None:
    """List the groups that can be pruned, the residual branches that can go whole, and what is frozen and why.

    \b
    autoprune layers
    autoprune layers --model nets.py:make --input 1x3x224x224 --device rpi4
    """
    from autoprune.cli.inputs import load_traced
    from autoprune.front.layers import saved_by_group

    graph = load_traced(model, data, shape)
    saved = saved_by_group(graph, device)
    if output is Format.json:
        print_json({"model": graph.name, "params": graph.params, "free_params": graph.free_params,
                    "note": graph.captured.note,
                    "groups": [{**g.to_json(), **saved[n]} for n, g in graph.groups.items()],
                    "branches": [{"name": b.name, "params": b.params} for b in graph.branches.values()],
                    "frozen": [f._asdict() for f in graph.frozen]})
        return
    headers = ["group", "kind", "units", "parameters", "MACs saved by half"]
    rows = [[n, g.kind, g.size, g.params, f"{100 * saved[n]['macs_saved']:.1f} %"] for n, g in graph.groups.items()]
    if device is not None:
        headers.append(f"latency saved by half ({device})")
        rows = [[*row, f"{100 * saved[str(row[0])]['latency_saved']:.1f} %"] for row in rows]
    print_table(headers, rows, output)
    if output is Format.table:
        if graph.branches:
            print_table(["branch that can be dropped", "parameters"],
                        [[b.name, b.params] for b in graph.branches.values()], output)
        if graph.frozen:
            print_table(["frozen", "operator", "why"], graph.frozen, output)
        share = 100 * graph.free_params / max(graph.params, 1)
        note(f"{len(graph.groups)} groups; {share:.1f} % of {graph.params:,} parameters are in at least one"
             + (f"; {graph.captured.note}" if graph.captured.note else ""))
