"""`autoprune spaces`."""

from __future__ import annotations

from typing import Annotated

import typer

from autoprune.cli.output import Format, TableOrJson, print_json, print_table, result

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Search spaces: which widths and methods may be tried.\n\n"
                                             "autoprune spaces list")


@app.command("list")
def list_(output: Annotated[Format, typer.Option("--format", help="table, json or csv.")] = Format.table) -> None:
    """List the search spaces that ship with autoprune.

    \b
    autoprune spaces list
    """
    from autoprune.search.space import list_spaces, load_space

    spaces = [load_space(name) for name in list_spaces()]
    if output is Format.json:
        print_json([s.to_json() for s in spaces])
        return
    print_table(["space", "min keep", "methods", "trials", "description"],
                [[s.name, s.min_keep, ", ".join(s.methods), s.trials, s.description] for s in spaces], output)


@app.command("show")
def show(name: Annotated[str, typer.Argument(help="Name or TOML file.")],
         output: Annotated[TableOrJson, typer.Option("--format", help="table (the file itself) or json.")
                           ] = TableOrJson.table) -> None:
    """Show a search space; the output is a space file.

    \b
    autoprune spaces show default > mine.toml
    """
    from pathlib import Path

    from autoprune.resources import folder
    from autoprune.search.space import load_space

    space = load_space(name)
    if output is TableOrJson.json:
        print_json(space.to_json())
        return
    path = Path(name) if name.endswith(".toml") else folder("search_spaces") / f"{name}.toml"
    result(path.read_text(encoding="utf-8").rstrip("\n"))
