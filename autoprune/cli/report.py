"""`autoprune report`."""

from __future__ import annotations

from typing import Annotated

import typer

from autoprune.cli.output import result
from autoprune.errors import ConfigError

__all__ = ["report"]


def report(
    run: Annotated[str, typer.Argument(help="Run folder of a search.")],
    output: Annotated[str | None, typer.Option(help="File to write; RUN/report.html by default.")] = None,
) -> None:
    """Write report.html: one offline file with the front, the widths and the figures.

    \b
    autoprune report runs/x
    """
    from pathlib import Path

    from autoprune.front.front import load_front
    from autoprune.front.report import write_report

    found = load_front(run)
    target = Path(output) if output else Path(run) / "report.html"
    try:
        result(str(write_report(found, target)))
    except OSError as error:
        raise ConfigError("the report cannot be written", given=f"{target}: {error.strerror or error}",
                          fix="--output FILE in a folder you may write to") from error
