"""`autoprune devices`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoprune.cli.output import Format, TableOrJson, note, print_json, print_table, result

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
    rows = [[d.name + (f" → {d.alias_of}" if d.alias_of else ""), "measured" if d.is_measured else d.kind,
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


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="What to call it; NAME.toml is written to the current folder.")],
    like: Annotated[str, typer.Option(help="The priced device that it resembles most: name or device file.")],
    clock_ghz: Annotated[float | None, typer.Option(help="Clock under load, GHz.")] = None,
    cores: Annotated[int | None, typer.Option(help="Cores of the kind that the runtime uses.", min=1)] = None,
    memcpy_gbs: Annotated[float | None, typer.Option(help="GB/s copied by one memcpy (sbc-bench's memcpy).")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the runtime; all --cores by default, else as the "
                                                     "other device.", min=1)] = None,
    issue_width: Annotated[float | None, typer.Option(help="Instructions per cycle that the core decodes.")] = None,
    fmla_per_cycle: Annotated[float | None, typer.Option(help="128-bit multiply-adds per cycle and core.")] = None,
    in_order: Annotated[bool | None, typer.Option("--in-order/--out-of-order", help="How the core executes.")] = None,
    description: Annotated[str | None, typer.Option(help="One line for `devices show`.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace NAME.toml.")] = False,
) -> None:
    """Write a device file: a shipped profile with your board's facts, and a wider interval.

    \b
    autoprune devices new orangepi --like rpi4 --clock-ghz 1.5 --memcpy-gbs 2.2
    """
    from autoprune.devices.device import load_device
    from autoprune.devices.new_device import derive, write_device

    facts = {"clock_ghz": clock_ghz, "cores": cores, "memcpy_gbs": memcpy_gbs, "issue_width": issue_width,
             "fmla_per_cycle": fmla_per_cycle, "in_order": in_order}
    path = Path(f"{name}.toml")
    device = derive(name, load_device(like), {k: v for k, v in facts.items() if v is not None}, threads=threads,
                    description=description)
    write_device(device, path, force=force)
    result(str(path))
    note(f"next: autoprune profile --device {path}")


@app.command("calibrate")
def calibrate(device: Annotated[str, typer.Argument(help="cpu (this machine) or ssh://user@host.")],
              name: Annotated[str, typer.Option(help="Name of the device: NAME.toml is written.")],
              threads: Annotated[int | None, typer.Option(help="Threads of the runtime.", min=1)] = None,
              minutes: Annotated[float, typer.Option(help="How long to time nets; fitting takes half a minute "
                                                          "more.")] = 4.0,
              model: Annotated[list[str] | None, typer.Option(help="FILE.onnx, or a model (with --data or --input) "
                                                                   "that is timed whole and pruned; may be repeated.")]
              = None,
              data: Annotated[str | None, typer.Option(help="The data, for the models' example inputs.")] = None,
              shape: Annotated[list[str] | None, typer.Option("--input", help="Shape of an input of the models: "
                                                                              "1x3x224x224, 1x128:int.")] = None,
              output: Annotated[str, typer.Option(help="Folder for NAME.toml and NAME.kernels.npz.")] = ".") -> None:
    """Time small nets on a device and write a device file that predicts by what its kernels really take.

    \b
    autoprune devices calibrate cpu --name mine --threads 1
    autoprune devices calibrate ssh://pi@raspberrypi.local --name mypi
    autoprune devices calibrate cpu --name mine --model nets.py:make --input 1x3x224x224
    autoprune search --device mypi.toml --budget 20ms
    """
    from autoprune.cli.inputs import load_variants
    from autoprune.devices.calibration.calibrate import calibrate as run
    from autoprune.devices.device import load_device

    found = load_device(device)
    models = [variant for spec in model or () for variant in load_variants(spec, data, shape, found.alignment())]
    made = run(found, name, output, threads=threads, minutes=minutes, models=models,
               on_progress=lambda text: note(f"autoprune: {text}"))
    error = made.error
    if error is not None:
        note(f"autoprune: on {error.rows} nets left out the median error is {100 * error.p50:.1f} %, and 90 % are "
             f"within {100 * error.p90:.0f} %")
    result(f"{output}/{name}.toml")
