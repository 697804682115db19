"""The report's tables, as HTML. Every text that comes from a run is escaped here."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from autoprune.front import words
from autoprune.front.view import View, latency_of, score_of
from autoprune.search.candidate import Candidate

__all__ = ["commands", "failures_table", "front_table", "mapping_table", "seconds_table", "table"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, marked: int | None = None) -> str:
    """An HTML table of escaped cells: first `left` columns of text, then numbers; row `marked` stands out."""
    kinds = ["" if i < left else ' class="n"' for i in range(len(head))]
    top = "".join(f"<th{kind}>{cell}</th>" for kind, cell in zip(kinds, head, strict=True))
    body = "".join(f"<tr{' class=chosen' if i == marked else ''}>"
                   + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>\n"
                   for i, row in enumerate(rows))
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>\n{body}</tbody></table></div>'


def front_table(view: View) -> str:
    """One row per front point, and the dense model last when it is not among them."""
    rows = list(view.points)
    if view.dense is not None and view.dense.number not in {c.number for c in rows}:
        rows.append(view.dense)
    split = escape(view.split)
    head = ["trial", "origin", "precision", "latency", f"{split} score", "test score", "loss against dense", "MACs",
            "parameters", "weights"]
    head += ["zipped"] if _compressed(view) else []
    marked = next((i for i, c in enumerate(rows) if view.chosen is not None and c.number == view.chosen.number), None)
    return table(head, [_row(view, c) for c in rows], left=3, marked=marked)


def _row(view: View, candidate: Candidate) -> list[str]:
    latency, score, dense = latency_of(candidate), score_of(candidate), view.dense
    tag = "" if latency.percentile == "p50" else f" {latency.percentile}"
    lost = "–"
    if dense is not None and candidate.number != dense.number:
        lost = escape(words.difference(score, view.front.drop(candidate)))
    whole = dense or candidate
    zipped = _ratio(candidate.compressed_bytes, whole.compressed_bytes, words.size(candidate.compressed_bytes))
    return [
        str(candidate.number), escape(candidate.origin), escape(candidate.plan.precision),
        f"{words.milliseconds(latency.ms)}{tag}<small>{words.interval(latency)}, {words.source_word(latency)}</small>",
        words.score_text(score), "–" if candidate.test is None else words.score_text(candidate.test), lost,
        _ratio(candidate.macs, whole.macs, words.scaled(candidate.macs)),
        _ratio(candidate.params, whole.params, words.scaled(candidate.params)),
        _ratio(candidate.size_bytes, whole.size_bytes, words.size(candidate.size_bytes)),
        *([zipped] if _compressed(view) else []),
    ]


def _compressed(view: View) -> bool:
    return any(c.compressed_bytes for c in view.drawn)


def _ratio(own: float, whole: float, text: str) -> str:
    return f"{words.share(own, whole)}<small>{text}</small>" if own > 0 else "–"


def failures_table(view: View) -> str:
    """Candidates that have no place in the plane, and why."""
    rows = [[str(c.number), escape(c.origin), escape(c.reason or "no score or no latency")] for c in view.failed]
    return table(["trial", "origin", "reason"], rows, left=3) if rows else ""


def seconds_table(seconds: Mapping[str, float]) -> str:
    """Seconds by activity, longest first, with their share of the sum. A "total" is left out: it would count twice."""
    own = {k: v for k, v in seconds.items() if k != "total"}
    whole = sum(own.values())
    rows = []
    for name, value in sorted(own.items(), key=lambda item: (-item[1], item[0])):
        width = 100 * value / whole if whole > 0 else 0
        bar = f'<span class="bar" style="width:{width:.1f}%"></span>'
        rows.append([escape(str(name)), bar, words.duration(value), words.share(value, whole)])
    rows.append(["sum", "", words.duration(whole), ""])
    return table(["activity", "", "time", "share"], rows, left=2).replace("<table>", '<table class="bars">')


def mapping_table(values: Mapping[str, Any]) -> str:
    """Keys and values, nested mappings as `outer.inner`; None is left out."""
    rows = [[escape(key), f"<code>{escape(text)}</code>"] for key, text in _flat(values)]
    return table(["name", "value"], rows, left=2) if rows else "<p>Not recorded.</p>"


def _flat(values: Mapping[str, Any], outer: str = "") -> list[tuple[str, str]]:
    out: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            out += _flat(value, f"{outer}{key}.")
        elif isinstance(value, list | tuple):
            out.append((f"{outer}{key}", ", ".join(map(str, value))))
        elif value is not None:
            out.append((f"{outer}{key}", str(value)))
    return out


def commands(view: View) -> str:
    """What to type next, for the chosen point."""
    run = str(view.front.run)
    if view.chosen is None:
        return "<p>No candidate succeeded, so there is nothing to pick. The reasons are above.</p>"
    trial = view.chosen.number
    quoted = shlex.quote(run)
    shell = (f"autoprune pick {quoted} --trial {trial}       # model.onnx, model.pt2, weights, plan, card\n"
             f"autoprune front {quoted} --format csv")
    python = f"import autoprune\nmodel = autoprune.load({run!r}, trial={trial})   # torch.nn.Module"
    return f"<pre>{escape(shell)}</pre>\n<pre>{escape(python)}</pre>"
