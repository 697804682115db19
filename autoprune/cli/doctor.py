"""`autoprune doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from autoprune.cli.output import TableOrJson, note, print_json, print_table
from autoprune.errors import DeviceError

__all__ = ["doctor"]


def doctor(
    device: Annotated[str, typer.Option(help="Name, device file or ssh://user@host.")] = "cpu",
    output: Annotated[TableOrJson, typer.Option("--format", help="table or json.")] = TableOrJson.table,
) -> int:
    """Check versions, cores, governor and providers, and how noisy measurements are, here or on a device.

    Exits with 4 when the machine is too noisy to measure on.

    \b
    autoprune doctor
    autoprune doctor --device rpi4
    autoprune doctor --device ssh://pi@raspberrypi.local
    """
    from autoprune.devices.device import load_device
    from autoprune.devices.doctor import examine, noise_test

    found = load_device(device)
    if found.announce:
        note(f"autoprune: {found.announce}")
    rows = examine(found)
    noise = noise_test(found) if found.is_measured else None
    if noise is not None:
        medians = ", ".join(f"{ms:.3g}" for ms in noise["medians_ms"])
        rows.append(("noise test", f"{medians} ms, spread {100 * noise['spread']:.1f} %", noise["verdict"]))
    if output is TableOrJson.json:
        print_json({"checks": [dict(zip(("what", "value", "verdict"), r, strict=True)) for r in rows], "noise": noise})
    else:
        print_table(["what", "value", "verdict"], rows, output)
    return DeviceError.exit_code if noise is not None and not noise["quiet"] else 0
