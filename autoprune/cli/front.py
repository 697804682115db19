"""`autoprune front`."""

from __future__ import annotations

from typing import Annotated

import typer

from autoprune.cli.output import Format, note, print_json, print_table

__all__ = ["front"]


def front(
    run: Annotated[str, typer.Argument(help="Run folder of a search.")],
    output: Annotated[Format, typer.Option("--format", help="table, json or csv.")] = Format.table,
) -> None:
    """Show the Pareto front of a search.

    \b
    autoprune front runs/digits_example-raspberrypi-20ms
    autoprune front runs/x --format json
    """
    from autoprune.front.front import load_front
    from autoprune.front.words import faster_sentence, gap_sentence, latency_notes, size

    found = load_front(run)
    if output is Format.json:
        print_json(found.to_json())
        return
    rows, zipped = [], any(c.compressed_bytes for c in found.candidates)
    for point in [*found.points]:
        c = point.candidate
        assert c.latency is not None
        assert c.score is not None
        fits = "" if found.budget_ms is None else "yes" if c.ms <= found.budget_ms else "no"
        rows.append([c.number, c.origin, c.plan.precision, str(c.latency), fits, _short(c.score.value),
                     _short(c.test.value) if c.test else "", f"{found.dense.ms / c.ms:.2f}x",
                     f"{100 * c.macs / max(found.dense.macs, 1):.0f} %",
                     f"{100 * c.params / max(found.dense.params, 1):.0f} %",
                     *([size(c.compressed_bytes)] if zipped else []),
                     "recommended" if c.number == found.recommended else ""])
    metric = found.metric
    print_table(["trial", "origin", "precision", "latency", "in budget", f"{metric} (search)", f"{metric} (test)",
                 "faster", "MACs", "params", *(["zipped"] if zipped else []), ""], rows, output)
    failed = sum(c.status != "ok" for c in found.candidates)
    note(f"dense: {found.dense.latency}, {found.dense.score}; {len(found.candidates)} candidates, {failed} failed")
    for text in latency_notes(p.candidate for p in found.points):
        note(f"note: {text}")
    if (gap := gap_sentence(found)) is not None:
        note(f"note: {gap}")
    for point in found.points:
        if point.number == found.recommended and (faster := faster_sentence(found, point.candidate)) is not None:
            note(f"note: {faster}")


def _short(value: float) -> float:
    """With five digits that count: a squared error may be small."""
    return float(f"{value:.5g}")
