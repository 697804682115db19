"""`autoprune methods`."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated

import typer

from autoprune.cli.output import Format, TableOrJson, print_json, print_table, result

if TYPE_CHECKING:
    from autoprune.methods.criterion import Criterion

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Criteria that rank the units of a group.\n\nautoprune methods list")


def _needs(method: Criterion) -> str:
    return ", ".join(sorted(method.needs)) or "weights"


@app.command("list")
def list_(output: Annotated[Format, typer.Option("--format", help="table, json or csv.")] = Format.table) -> None:
    """List the pruning methods.

    \b
    autoprune methods list
    """
    from autoprune.methods.registry import methods

    rows = [[m.name, m.summary, _needs(m), m.source] for m in methods()]
    print_table(["method", "what it keeps by", "needs", "source"], rows, output)


@app.command("show")
def show(name: Annotated[str, typer.Argument(help="Name of a method.")],
         output: Annotated[TableOrJson, typer.Option("--format", help="table or json.")] = TableOrJson.table) -> None:
    """Explain a pruning method.

    \b
    autoprune methods show taylor
    """
    from autoprune.methods.registry import criterion

    found = criterion(name)
    text = inspect.getdoc(type(found)) or found.summary
    if output is TableOrJson.json:
        print_json({"name": found.name, "summary": found.summary, "source": found.source, "text": text,
                    "needs": sorted(found.needs)})
        return
    result(f"{found.name}\n\n{text}\n\nneeds: {_needs(found)}\nsource: {found.source}")
