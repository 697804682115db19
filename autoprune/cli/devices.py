"""`autoprune devices`."""

from __future__ import annotations

from typing import Annotated

import typer

from autoprune.cli.output import Format, TableOrJson, print_json, print_table

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="The devices that latency can be told for.\n\nautoprune devices list")


@app.command("list")
def list_(output: Annotated[Format, typer.Option("--format", help="table, json or csv.")] = Format.table) -> None:
    """List the devices that ship with autoprune.

    \b
    autoprune devices list
    """
    from autoprune.devices.device import list_devices

    devices = list_devices()
    if output is Format.json:
        print_json([d.to_json() for d in devices])
        return
    rows = [[d.name + (f" → {d.alias_of}" if d.alias_of else ""), "measured" if d.is_measured else "profile",
             d.threads or "all usable", f"{100 * d.error.p50:.0f} %" if d.error else "", d.description]
            for d in devices]
    print_table(["device", "source", "threads", "typical error", "description"], rows, output)


@app.command("show")
def show(name: Annotated[str, typer.Argument(help="Name, device file or ssh://user@host.")],
         output: Annotated[TableOrJson, typer.Option("--format", help="table or json.")] = TableOrJson.table) -> None:
    """Show a device: facts with sources, error figures, runtime.

    \b
    autoprune devices show raspberrypi
    """
    from autoprune.devices.device import load_device

    device = load_device(name)
    if output is TableOrJson.json:
        print_json(device.to_json())
        return
    rows: list[list[object]] = []
    for key, value in device.to_json().items():
        if isinstance(value, dict):
            rows += [[f"{key}.{k}", v if not isinstance(v, dict) else "; ".join(f"{a}: {b}" for a, b in v.items())]
                     for k, v in value.items()]
        elif value not in (None, "", [], {}):
            rows.append([key, value])
    print_table(["what", "value"], [[a, str(b)] for a, b in rows], output)
