"""`autoprune methods`."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated

import typer

from autoprune.cli.output import Format, TableOrJson, print_json, print_table, result

if TYPE_CHECKING:
    from autoprune.methods.criterion import Criterion
    from autoprune.methods.masks.criterion import ElementCriterion

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True,
                  help="Criteria that rank the units of a group, or single weights.\n\nautoprune methods list")


def _needs(method: Criterion | ElementCriterion) -> str:
    return ", ".join(sorted(method.needs)) or "weights"


@app.command("list")
def list_(output: Annotated[Format, typer.Option("--format", help="table, json or csv.")] = Format.table) -> None:
    """List the pruning methods.

    \b
    autoprune methods list
    """
    from autoprune.methods.masks.registry import element_methods
    from autoprune.methods.registry import methods

    found: list[Criterion | ElementCriterion] = [*methods(), *element_methods()]
    ranks = ["units"] * len(methods()) + ["weights"] * len(element_methods())
    rows = [[m.name, what, m.summary, _needs(m), m.source] for m, what in zip(found, ranks, strict=True)]
    print_table(["method", "ranks", "what it keeps by", "needs", "source"], rows, output)


@app.command("show")
def show(name: Annotated[str, typer.Argument(help="Name of a method, or path/file.py:Class.")],
         weights: Annotated[bool, typer.Option("--weights", help="The one of this name that ranks single "
                                                                 "weights.")] = False,
         output: Annotated[TableOrJson, typer.Option("--format", help="table or json.")] = TableOrJson.table) -> None:
    """Explain a pruning method.

    \b
    autoprune methods show taylor
    autoprune methods show snip --weights
    """
    from autoprune.methods.masks.registry import element_criterion, element_methods
    from autoprune.methods.registry import criterion, method_names, registered

    only = {m.name for m in element_methods()} - set(method_names())
    found: Criterion | ElementCriterion = (element_criterion(name) if weights or name in only
                                           else criterion(registered(name)))
    text = inspect.getdoc(type(found)) or found.summary
    if output is TableOrJson.json:
        print_json({"name": found.name, "summary": found.summary, "source": found.source, "text": text,
                    "needs": sorted(found.needs)})
        return
    result(f"{found.name}\n\n{text}\n\nneeds: {_needs(found)}\nsource: {found.source}")
