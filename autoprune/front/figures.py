"""The report's interactive figures. Texts of users are escaped: plotly.js reads a part of HTML in labels and hovers."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from typing import Any

from plotly import graph_objects as go

from autoprune.front import words
from autoprune.front.view import COLOURS, View, Window, latency_of, score_of, window_of
from autoprune.search.candidate import Candidate
from autoprune.search.outcome import pareto
from autoprune.tasks.score import FRACTIONS

__all__ = ["front_figure", "hypervolume_figure", "volumes", "widths_figure"]

_METHODS = ("#1f5fa8", "#0b7a4b", "#c8741a", "#7b3fa0", "#a33b5c", "#4d7f8a", "#8a7a2f", "#5b5f97")
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def front_figure(view: View) -> Any:
    """The plane of latency (milliseconds) and metric (its own units) as a plotly figure."""
    figure = go.Figure()
    named = {c.number for c in view.uniform}
    if view.others:
        figure.add_trace(_markers(view, view.others, "other candidates", COLOURS["other"], size=7))
        bars = _markers(view, view.others, "their intervals", COLOURS["other"], size=1, bars=True)
        figure.add_trace(bars.update(visible="legendonly", hovertext=None, hovertemplate=None, hoverinfo="skip"))
    if view.points:
        figure.add_trace(_markers(view, view.points, f"front, {view.split} split", COLOURS["front"], size=9, bars=True,
                                  line=True))
    if view.uniform:
        figure.add_trace(_markers(view, view.uniform, "uniform controls", COLOURS["uniform"], "triangle-up", 11, True))
    if view.dense is not None:
        figure.add_trace(_markers(view, [view.dense], "dense (control)", COLOURS["dense"], "square", 11, True))
    if view.tested:
        figure.add_trace(_markers(view, view.tested, "front and dense, test split", COLOURS["test"], "diamond-open", 9,
                                  True, test=True))
    if view.chosen is not None:
        symbol = "triangle-up-open" if view.chosen.number in named else "circle-open"
        figure.add_trace(_markers(view, [view.chosen], f"{view.why}: trial {view.chosen.number}", COLOURS["chosen"],
                                  symbol, 20, width=3))
    better = "higher" if view.front.higher_is_better else "lower"
    _look(figure, 520, f"latency on {escape(view.front.device, quote=False)}, ms{_percentiles(view)}",
          f"{escape(view.front.metric, quote=False)} ({better} is better)")
    if view.front.metric in FRACTIONS:
        figure.update_yaxes(tickformat=".4~%")
    for budget, ms in view.front.budgets_ms.items():
        figure.add_vline(x=ms, line={"color": COLOURS["budget"], "dash": "dash", "width": 1.5})
        figure.add_annotation(x=ms, y=1, yref="paper", yanchor="bottom", showarrow=False,
                              text=f"budget {escape(words.budget_text(budget, ms), quote=False)}",
                              font={"color": COLOURS["budget"], "size": 12})
    window = window_of(view)
    if window is not None:
        _show(figure, window)
    return figure


def widths_figure(view: View, candidate: Candidate) -> Any:
    """Units kept per group, dense against pruned; one row per group, in the order of the model."""
    names = list(view.groups)
    rows = {name: i for i, name in enumerate(names)}
    figure = go.Figure()
    figure.add_trace(go.Bar(x=[view.groups[n] for n in names], y=list(range(len(names))), orientation="h", name="dense",
                            width=0.72, marker={"color": "#dfe3e8"}, hoverinfo="skip", textposition="outside",
                            cliponaxis=False, text=[_kept(view, candidate, n) for n in names],
                            textfont={"color": "#57606a", "size": 12}))
    methods: dict[str, list[str]] = {}
    for name in names:
        cut = candidate.plan.cuts.get(name)
        methods.setdefault(cut.method if cut else "", []).append(name)
    for i, method in enumerate(sorted(methods, key=lambda m: (m == "", m))):
        own = methods[method]
        label = f"kept by {escape(method, quote=False)}" if method else "not cut"
        colour = _METHODS[i % len(_METHODS)] if method else "#9aa3ad"
        figure.add_trace(go.Bar(
            x=[candidate.plan.cuts[n].keep if method else view.groups[n] for n in own], y=[rows[n] for n in own],
            orientation="h", width=0.72, name=label, marker={"color": colour},
            hovertemplate="%{hovertext}<extra></extra>",
            hovertext=[f"<b>{escape(words.shortened(n, 80), quote=False)}</b><br>{_kept(view, candidate, n)} units<br>"
                       f"{label}" for n in own]))
    _look(figure, 160 + 22 * len(names), "units", "")
    figure.update_layout(barmode="overlay", margin={"t": 40, "b": 60}, height=100 + 22 * len(names),
                         legend={"y": 1 + 6 / (22 * len(names))})
    figure.update_xaxes(range=[0, 1.16 * max([1, *view.groups.values()])])
    figure.update_yaxes(tickvals=list(range(len(names))), range=[len(names) - 0.4, -0.6], showgrid=False, ticks="",
                        ticktext=[escape(words.shortened(n), quote=False) + " " for n in names], fixedrange=True)
    return figure


def volumes(view: View) -> tuple[list[float], tuple[float, float]]:
    """Hypervolume (metric × ms) after each candidate, and the reference: the worst score and the longest latency."""
    drawn = view.drawn
    if not drawn:
        return [], (0.0, 0.0)
    worst = min(drawn, key=lambda c: c.quality)
    reference = (score_of(worst).value, max(c.ms for c in drawn))
    out: list[float] = []
    kept: list[Candidate] = []
    for candidate in view.front.candidates:
        kept = pareto([*kept, candidate])
        out.append(replace(view.front, candidates=kept).hypervolume(reference))
    return out, reference


def hypervolume_figure(view: View) -> Any:
    """Hypervolume over the number of candidates; seconds of evaluation, added up, in the hover."""
    values, _ = volumes(view)
    figure = go.Figure()
    seconds, hover = 0.0, []
    for i, (candidate, value) in enumerate(zip(view.front.candidates, values, strict=False)):
        own = candidate.seconds
        seconds += own.get("total", sum(own.values()))
        hover.append(f"<b>after {i + 1} candidates</b> (trial {candidate.number})<br>hypervolume "
                     f"{words.number(value, 4)}<br>{words.duration(seconds)} of evaluation")
    figure.add_trace(go.Scatter(
        x=list(range(1, len(values) + 1)), y=values, mode="lines+markers", name="hypervolume", hovertext=hover,
        line={"color": COLOURS["front"], "shape": "hv", "width": 2}, marker={"size": 5, "color": COLOURS["front"]},
        hovertemplate="%{hovertext}<extra></extra>", showlegend=False))
    _look(figure, 300, "candidates evaluated", "hypervolume")
    figure.update_layout(margin={"t": 16, "b": 60}, height=260)
    figure.update_xaxes(range=[0.5, len(values) + 0.5])
    figure.update_yaxes(rangemode="tozero")
    return figure


def hover_text(view: View, candidate: Candidate) -> str:
    """What is known about a candidate, as the lines of a hover label."""
    latency, score = latency_of(candidate), score_of(candidate)
    dense = view.dense
    lines = [f"latency {words.milliseconds(latency.ms)} {latency.percentile} ({words.interval(latency)}, "
             f"{words.source_word(latency)})"]
    lines += [f"note: {note}" for note in latency.notes]
    lines.append(f"{score.metric} {words.score_text(score)} ({score.split}, n={score.n})")
    if candidate.test is not None:
        lines.append(f"{score.metric} {words.score_text(candidate.test)} (test, n={candidate.test.n})")
    for name, own, whole in (("MACs", candidate.macs, dense.macs if dense else 0),
                             ("parameters", candidate.params, dense.params if dense else 0)):
        ratio = f" ({words.share(own, whole)} of dense)" if whole else ""
        lines.append(f"{name} {words.scaled(own)}{ratio}")
    head = f"<b>trial {candidate.number}</b>, {escape(candidate.origin, quote=False)}"
    plan = words.cut_lines(candidate, view.groups)
    body = [escape(line, quote=False) for line in [*lines, "kept units:" if candidate.plan.cuts else "", *plan]]
    return "<br>".join([head, *(line for line in body if line)])


def _kept(view: View, candidate: Candidate, name: str) -> str:
    cut = candidate.plan.cuts.get(name)
    return f"{cut.keep if cut else view.groups[name]} of {view.groups[name]}"


def _markers(view: View, candidates: list[Candidate], name: str, colour: str, symbol: str = "circle", size: int = 8,
             bars: bool = False, *, line: bool = False, test: bool = False, width: float = 1.5) -> Any:
    """One trace of candidates; `bars` adds the latency interval and the standard error."""
    times = [latency_of(c) for c in candidates]
    scores = [c.test if test and c.test is not None else score_of(c) for c in candidates]
    look: dict[str, Any] = {"color": colour, "size": size, "symbol": symbol}
    if symbol.endswith("-open"):
        look["line"] = {"width": width, "color": colour}
    error: dict[str, Any] = {"thickness": 1, "width": 3, "color": _faded(colour)}
    across = {**error, "type": "data", "symmetric": False, "array": [t.hi_ms - t.ms for t in times],
              "arrayminus": [t.ms - t.lo_ms for t in times]}
    up = {**error, "type": "data", "array": [s.standard_error for s in scores]}
    return go.Scatter(
        x=[t.ms for t in times], y=[s.value for s in scores], name=name, mode="lines+markers" if line else "markers",
        marker=look, line={"color": colour, "width": 2} if line else None,
        error_x=across if bars and not test else None, error_y=up if bars else None,
        customdata=[c.number for c in candidates], hovertext=[hover_text(view, c) for c in candidates],
        hovertemplate="%{hovertext}<extra></extra>")


def _faded(colour: str) -> str:
    red, green, blue = (int(colour[i:i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.55)"


def _percentiles(view: View) -> str:
    found = sorted({latency.percentile for latency in view.latencies})
    return "" if found in ([], ["p50"]) else f" ({', '.join(found)})"


def _show(figure: Any, window: Window) -> None:
    figure.update_xaxes(range=[window.low_ms, window.high_ms])
    figure.update_yaxes(range=[window.low, window.high])


def _look(figure: Any, height: int, across: str, up: str) -> None:
    axis = {"gridcolor": COLOURS["grid"], "zeroline": False, "linecolor": "#8c959f", "ticks": "outside",
            "tickcolor": "#8c959f", "automargin": True}
    title = {"standoff": 10, "font": {"size": 13}}
    figure.update_layout(
        template="none", height=height, margin={"l": 60, "r": 24, "t": 90, "b": 60}, hovermode="closest",
        paper_bgcolor="white", plot_bgcolor="white", font={"family": _FONT, "size": 13, "color": COLOURS["text"]},
        legend={"orientation": "h", "x": 0, "y": 1 + 24 / (height - 150), "yanchor": "bottom", "font": {"size": 12},
                "itemsizing": "constant"},
        hoverlabel={"align": "left", "bgcolor": "white", "bordercolor": "#8c959f",
                    "font": {"family": _FONT, "size": 12, "color": COLOURS["text"]}},
        xaxis={**axis, "title": {**title, "text": across}}, yaxis={**axis, "title": {**title, "text": up}})
