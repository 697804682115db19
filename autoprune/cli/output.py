"""How results and errors are written: results to stdout, everything else to stderr."""

from __future__ import annotations

import csv
import enum
import io
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["Format", "TableOrJson", "error", "note", "print_json", "print_table", "result"]


class Format(enum.StrEnum):
    table = "table"
    json = "json"
    csv = "csv"


class TableOrJson(enum.StrEnum):
    """Of commands whose output is not one table."""

    table = "table"
    json = "json"


def result(text: str) -> None:
    """A line of the result."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """A line that is not the result."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def error(text: str) -> None:
    """`error: …` on stderr."""
    note("error: " + text)


def _is_unicode(stream: Any) -> bool:
    return (getattr(stream, "encoding", None) or "utf-8").lower().startswith("utf")


def print_json(value: Any) -> None:
    result(json.dumps(value, indent=1, ensure_ascii=not _is_unicode(sys.stdout)))


def print_table(headers: Sequence[str], rows: Iterable[Sequence[Any]], style: Format | TableOrJson = Format.table,
                title: str | None = None) -> None:
    """Rows as an aligned table, or as CSV or a list of JSON objects."""
    rows = [["" if cell is None else cell for cell in row] for row in rows]
    if style == Format.json:
        print_json([dict(zip(headers, row, strict=True)) for row in rows])
    elif style == Format.csv:
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([headers, *rows])
        sys.stdout.write(buffer.getvalue())
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for i, header in enumerate(headers):
            numeric = all(isinstance(row[i], int | float) or str(row[i])[:1].isdigit() for row in rows if row[i] != "")
            table.add_column(header, justify="right" if numeric and rows else "left", overflow="fold")
        for row in rows:
            table.add_row(*[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row])
        console = Console(file=sys.stdout, soft_wrap=False, width=None if sys.stdout.isatty() else 200,
                          highlight=False, markup=False)
        console.print(table)
