"""`report.html`: the whole search in one file that needs no network and says the same for the same front."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from typing import Any

from autoprune.errors import ConfigError
from autoprune.front import tables, words
from autoprune.front.figures import front_figure, hypervolume_figure, volumes, widths_figure
from autoprune.front.front import Front
from autoprune.front.view import View, latency_of, score_of, view_of, window_of

__all__ = ["write_report"]

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1100px; padding: 24px 20px 60px; background: #fff; color: #24292f;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 26px; line-height: 1.25; margin: 8px 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 38px 0 6px; border-top: 1px solid #e3e6ea; padding-top: 18px; }
p { margin: 6px 0; max-width: 82ch; }
p.note, caption, small { color: #57606a; }
p.note { font-size: 13.5px; }
small { display: block; font-size: 12px; white-space: nowrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 14px 0; }
dt { color: #57606a; } dd { margin: 0; overflow-wrap: anywhere; }
.answer { border-left: 4px solid #0b7a4b; background: #f3f9f6; padding: 8px 14px; margin: 14px 0; max-width: none; }
.answer.none { border-color: #b3261e; background: #fdf4f3; }
.wide { overflow-x: auto; margin: 10px 0; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 5px 16px 5px 0; border-bottom: 1px solid #e8eaed; }
th { color: #57606a; font-weight: 600; border-bottom-color: #8c959f; }
th.n, td.n { text-align: right; white-space: nowrap; }
tr.chosen td { background: #f3f9f6; } tr.chosen td:first-child { font-weight: 700; box-shadow: inset 3px 0 #0b7a4b; }
td:first-child, th:first-child { padding-left: 8px; }
table.bars { width: 100%; max-width: 640px; } table.bars td:nth-child(2) { width: 55%; }
.bar { display: block; height: 12px; margin-top: 5px; background: #1f5fa8; min-width: 1px; }
code, pre { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
td code { overflow-wrap: anywhere; }
pre { background: #f6f8fa; border: 1px solid #e3e6ea; padding: 10px 12px; overflow-x: auto; margin: 8px 0; }
@media (max-width: 620px) { dl { grid-template-columns: 1fr; } dd { margin-bottom: 6px; } }
@media print { body { max-width: none; padding: 0; font-size: 11pt; } h2, p.note { break-after: avoid; }
  .plotly-graph-div, tr, pre { break-inside: avoid; } .modebar { display: none; } .wide { overflow: visible; } }
"""


def write_report(front: Front, path: str | os.PathLike[str]) -> Path:
    """Write the front as one HTML file and return its path.

    Everything comes from `front`: the same front gives the same bytes. plotly.js (about 5 MB) is inside the file, so
    it opens from `file://` without a network. Latencies are in milliseconds, MACs count one per multiply-add, weights
    are in bytes (powers of 1000).

    Raises `ConfigError` when the file cannot be written.
    """
    target = Path(path)
    view = view_of(front)
    page = "\n".join(part for part in (
        "<!DOCTYPE html>", '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(front.task)} on {escape(front.device)}: autoprune</title>",
        f"<style>{_STYLE}</style></head><body>",
        _header(view), _front_section(view), _table_section(view), _widths_section(view), _volume_section(view),
        _failures_section(view), _time_section(view), _run_section(view), "</body></html>\n") if part)
    try:
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError("the report cannot be written", given=f"{target}: {error.strerror or error}",
                          fix="a path in a folder you may write to") from error
    return target


def _header(view: View) -> str:
    front = view.front
    facts = [("device", front.device), *_budgets(view)]
    if front.max_drop is not None:
        facts.append(("largest drop allowed", front.max_drop))
    facts += [("dense model", _dense_text(view)),
              ("candidates", f"{len(front.candidates):,}: {len(view.points):,} on the front, "
                             f"{len(view.failed):,} failed"),
              ("run", str(front.run))]
    shown = [*view.points, *([view.dense] if view.dense else [])]
    if notes := words.latency_notes(shown):
        facts.append(("notes on latencies", "; ".join(notes)))
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts)
    return (f"<h1>{escape(front.task)}</h1>\n{_answer(view)}\n<dl>{listed}</dl>\n"
            f"<p>{escape(words.source_sentence(front.device, view.latencies))}</p>")


def _budgets(view: View) -> list[tuple[str, str]]:
    """The budget; of several each with what is recommended for it."""
    front = view.front
    texts = [words.budget_text(text, ms) for text, ms in front.budgets_ms.items()]
    if len(texts) < 2:
        return [("budget", texts[0] if texts else "none")]
    numbers = (front.recommended, *front.further.values())
    return [("budget", text + (": nothing meets it" if number is None else f": trial {number}"))
            for text, number in zip(texts, numbers, strict=True)]


def _dense_text(view: View) -> str:
    dense = view.dense
    if dense is None:
        return f"failed: {view.front.dense.reason or 'no score or no latency'}"
    score = score_of(dense)
    test = "" if dense.test is None else f" and {words.score_text(dense.test)} (test)"
    return (f"{words.latency_text(latency_of(dense))}, {score.metric} {words.score_text(score)} ({score.split}){test}, "
            f"{words.scaled(dense.macs)} MACs, {words.scaled(dense.params)} parameters, "
            f"{words.size(dense.size_bytes)}")


def _answer(view: View) -> str:
    chosen, front = view.chosen, view.front
    if chosen is None:
        return '<p class="answer none"><b>No candidate succeeded.</b> The reasons are below.</p>'
    score, latency = score_of(chosen), latency_of(chosen)
    text = f"{words.latency_text(latency)}, {front.metric} {words.score_text(score)} ({score.split})"
    if chosen.test is not None:
        text += f" and {words.score_text(chosen.test)} (test)"
    if view.dense is not None and view.dense.number != chosen.number:
        if latency_of(view.dense).source == latency.source:
            text += f"; {words.number(view.dense.ms / chosen.ms)}× as fast as dense"
        drop = front.drop(chosen)
        side = "worse" if drop >= 0 else "better"
        text += f"; {words.difference(score, abs(drop))} {side} than dense ({score.split})"
    if front.budget_ms is not None and latency.ms <= front.budget_ms < latency.hi_ms:
        text += ". Its interval reaches above the budget"
    if (again := words.again_sentence(chosen, front.budget_ms)) is not None:
        text += f". {again[0].upper()}{again[1:]}"
    if view.why == "recommended":
        return f'<p class="answer"><b>Recommended: trial {chosen.number}.</b> {escape(text)}.</p>'
    if front.budget is None and front.max_drop is None:
        return f'<p class="answer"><b>No budget was given; the knee is trial {chosen.number}.</b> {escape(text)}.</p>'
    return ('<p class="answer none"><b>Nothing is recommended: no candidate meets what was asked.</b> '
            f"The knee of the front is trial {chosen.number}: {escape(text)}.</p>")


def _front_section(view: View) -> str:
    window = window_of(view)
    said = ["Hover for the plan; click in the legend to hide or show; drag to zoom, double-click to return."]
    if view.failed:
        said.append(f"Not drawn: {words.plural(len(view.failed), 'failed candidate')}.")
    if window is not None and window.outside:
        said.append(f"Outside this first view: {words.plural(window.outside, 'candidate')}; double-click to see all.")
    if view.tested:
        said.append("Candidates were ranked on the "
                    f"{view.split} split; the test split was read after the search, for the front.")
    gap = words.gap_sentence(view.front)
    faster = [words.faster_sentence(view.front, p) for p in view.points if p.number == view.front.recommended]
    said += [text[0].upper() + text[1:] + "." for text in (*view.front.notes, gap, *faster) if text]
    return (f"<h2>The front</h2>\n<p class=note>{escape(' '.join(said))} Bars up and down are one standard error.</p>\n"
            + _embed(front_figure(view), "front", first=True))


def _table_section(view: View) -> str:
    if not view.points and view.dense is None:
        return ""
    return (f"<h2>Points of the front</h2>\n{tables.front_table(view)}\n<p class=note>MACs count one per multiply-add. "
            "Percentages are of the dense model.</p>")


def _widths_section(view: View) -> str:
    if view.chosen is None or not view.groups:
        return ""
    kept = sum(c.keep for n, c in view.chosen.plan.cuts.items() if n in view.groups)
    kept += sum(size for n, size in view.groups.items() if n not in view.chosen.plan.cuts)
    said = (f"{kept:,} of {sum(view.groups.values()):,} units in {len(view.groups)} groups stay. A group is a set of "
            "layers that can only be cut together.")
    return (f"<h2>Widths of trial {view.chosen.number} ({escape(view.why)})</h2>\n<p class=note>{said}</p>\n"
            + _embed(widths_figure(view, view.chosen), "widths"))


def _volume_section(view: View) -> str:
    values, (worst, longest) = volumes(view)
    if len(values) < 2:
        return ""
    score = score_of(view.drawn[0])
    said = (f"Area between the front and the worst of all candidates ({words.value_text(score, worst)}, "
            f"{words.milliseconds(longest)}), in {view.front.metric} × ms. A curve that still rises at the "
            "end asks for more trials.")
    return (f"<h2>Progress of the search</h2>\n<p class=note>{escape(said)}</p>\n"
            + _embed(hypervolume_figure(view), "hypervolume"))


def _failures_section(view: View) -> str:
    return f"<h2>Failed candidates</h2>\n{tables.failures_table(view)}" if view.failed else ""


def _time_section(view: View) -> str:
    return f"<h2>Where the time went</h2>\n{tables.seconds_table(view.front.seconds)}" if view.front.seconds else ""


def _run_section(view: View) -> str:
    return (f"<h2>Next commands</h2>\n{tables.commands(view)}\n"
            f"<h2>Settings</h2>\n{tables.mapping_table(view.front.settings)}\n"
            f"<h2>Environment</h2>\n{tables.mapping_table(view.front.environment)}")


def _embed(figure: Any, name: str, first: bool = False) -> str:
    """The figure as a `<div>`; a fixed name keeps the file the same from run to run. The first brings plotly.js.

    The buttons are listed, because plotly's own list has one that sends the chart to a server.
    """
    return str(figure.to_html(full_html=False, include_plotlyjs=first, include_mathjax=False, div_id=name,
                              config={"displaylogo": False, "responsive": True, "showSendToCloud": False,
                                      "displayModeBar": "hover" if first else False,
                                      "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]]}))
