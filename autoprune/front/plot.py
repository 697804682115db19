"""A small static picture of a front as SVG, for a README or a terminal that can open one. Needs no drawing library."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

from autoprune.front import words
from autoprune.front.front import Front
from autoprune.front.view import COLOURS, View, Window, latency_of, score_of, view_of, window_of
from autoprune.search.candidate import Candidate
from autoprune.tasks.score import FRACTIONS

__all__ = ["front_svg", "round_ticks"]

_LETTER = 6.4  # width of a letter at 12 px, in px, on the large side
_ROW = 20  # height of a row of the legend, px


def front_svg(front: Front, width: int = 760, height: int = 420) -> str:
    """The plane of latency (milliseconds) and metric as SVG text, `width` × `height` pixels, on white.

    Drawn are the candidates, the front, dense and uniform controls, test scores, the budget, and the latency interval
    and standard error of the recommended point (else of the knee). Failed candidates are counted in the legend. Without
    a single drawable candidate the picture says so.
    """
    view = view_of(front)
    window = window_of(view)
    title = escape(f"{front.metric} against latency on {front.device}: {front.task}")
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" role="img" font-family="system-ui, -apple-system, \'Segoe UI\', Roboto, '
            f'Arial, sans-serif" font-size="12" fill="{COLOURS["text"]}"><title>{title}</title>'
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>')
    if window is None:
        return f'{head}<text x="20" y="40">No candidate succeeded ({len(view.failed)} failed).</text></svg>\n'
    entries = _legend_entries(view, window)
    rows = _legend_rows(entries, width - 92)
    plane = _Plane(window, 72, 26, width - 20, height - 48 - _ROW * len(rows))
    parts = [head, *_axes(view, plane), *_budget(view, plane), *_content(view, plane)]
    for i, row in enumerate(rows):
        x = 72.0
        for shape, colour, text in row:
            y = height - _ROW * (len(rows) - i) + 8
            parts += [_legend_mark(shape, x + 8, y, colour), _text(x + (20 if shape else 0), y + 4, text)]
            x += _entry_width(text)
    return "\n".join([*parts, "</svg>"]) + "\n"


def round_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """At most `most` multiples of 1, 2 or 5 times a power of ten in [low, high]; `low < high`, any unit."""
    raw = (high - low) / max(1, most)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [round(i * step, digits) + 0.0 for i in range(first, last + 1)]


@dataclass(frozen=True)
class _Plane:
    """Milliseconds and metric → pixels of the drawing area."""

    window: Window
    left: float
    top: float
    right: float
    bottom: float

    def x(self, ms: float) -> float:
        w = self.window
        return self.left + (ms - w.low_ms) / (w.high_ms - w.low_ms) * (self.right - self.left)

    def y(self, value: float) -> float:
        w = self.window
        return self.bottom - (value - w.low) / (w.high - w.low) * (self.bottom - self.top)

    def inside(self, ms: float, value: float) -> bool:
        w = self.window
        return w.low_ms <= ms <= w.high_ms and w.low <= value <= w.high


def _axes(view: View, plane: _Plane) -> list[str]:
    window, percent = plane.window, view.front.metric in FRACTIONS
    grid, parts = COLOURS["grid"], []
    for ms in round_ticks(window.low_ms, window.high_ms, 8):
        x = plane.x(ms)
        parts += [_line(x, plane.top, x, plane.bottom, grid), _text(x, plane.bottom + 16, _tick(ms), "middle")]
    factor = 100 if percent else 1
    for value in round_ticks(factor * window.low, factor * window.high, 8):
        y = plane.y(value / factor)
        parts += [_line(plane.left, y, plane.right, y, grid),
                  _text(plane.left - 7, y + 4, _tick(value) + ("%" if percent else ""), "end")]
    middle = (plane.top + plane.bottom) / 2
    better = "higher" if view.front.higher_is_better else "lower"
    parts += [_line(plane.left, plane.bottom, plane.right, plane.bottom, "#8c959f"),
              _line(plane.left, plane.top, plane.left, plane.bottom, "#8c959f"),
              _text((plane.left + plane.right) / 2, plane.bottom + 34, _across(view), "middle"),
              f'<g transform="translate(14 {middle:.1f}) rotate(-90)">'
              + _text(0, 0, f"{view.front.metric}, {view.split} split ({better} is better)", "middle") + "</g>"]
    return parts


def _across(view: View) -> str:
    kinds = list(dict.fromkeys(words.source_word(latency) for latency in view.latencies))
    return f"latency on {view.front.device}, ms ({' and '.join(kinds)})"


def _budget(view: View, plane: _Plane) -> list[str]:
    parts = []
    for budget, ms in view.front.budgets_ms.items():
        x, text = plane.x(ms), f"budget {words.budget_text(budget, ms)}"
        half = _LETTER * len(text) / 2
        centre = min(max(x, plane.left + half), plane.right - half)
        parts += [_line(x, plane.top, x, plane.bottom, COLOURS["budget"], 'stroke-dasharray="6 4" class="budget"'),
                  _text(centre, plane.top - 8, text, "middle", COLOURS["budget"])]
    return parts


def _content(view: View, plane: _Plane) -> list[str]:
    parts = [_mark("dot", plane, c, COLOURS["other"], "candidate") for c in view.others]
    if len(view.points) > 1:
        path = " ".join(f"{plane.x(c.ms):.1f},{plane.y(score_of(c).value):.1f}" for c in view.points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS["front"]}" stroke-width="2"/>')
    parts += [_mark("circle", plane, c, COLOURS["front"], "front") for c in view.points]
    parts += [_mark("triangle", plane, c, COLOURS["uniform"], "uniform") for c in view.uniform]
    if view.dense is not None:
        parts.append(_mark("square", plane, view.dense, COLOURS["dense"], "dense"))
    for c in view.tested:
        if c.test is not None and plane.inside(c.ms, c.test.value):
            parts.append(_shape("diamond", plane.x(c.ms), plane.y(c.test.value), COLOURS["test"], "test"))
    if view.chosen is not None:
        parts += _chosen(plane, view.chosen)
    return [part for part in parts if part]


def _chosen(plane: _Plane, candidate: Candidate) -> list[str]:
    latency, score, colour = latency_of(candidate), score_of(candidate), COLOURS["chosen"]
    x, y = plane.x(latency.ms), plane.y(score.value)
    left, right = (min(max(plane.x(ms), plane.left), plane.right) for ms in (latency.lo_ms, latency.hi_ms))
    low, high = (min(max(plane.y(score.value + side * score.standard_error), plane.top), plane.bottom)
                 for side in (-1, 1))
    return [_line(left, y, right, y, colour, 'stroke-width="2" class="interval"'),
            _line(x, low, x, high, colour, 'stroke-width="2" class="error"'),
            _shape("ring", x, y, colour, "chosen")]


def _legend_entries(view: View, window: Window) -> list[tuple[str, str, str]]:
    chosen = view.chosen
    entries = [("circle", "front", "front")] if view.points else []
    if chosen is not None:
        entries.append(("ring", "chosen", f"{view.why}: trial {chosen.number}, {words.milliseconds(chosen.ms)}"))
    if view.dense is not None:
        entries.append(("square", "dense", "dense (control)"))
    if view.uniform:
        entries.append(("triangle", "uniform", "uniform controls"))
    if view.tested:
        entries.append(("diamond", "test", "test split"))
    if view.others:
        entries.append(("dot", "other", "other candidates"))
    if window.outside:
        entries.append(("", "other", f"{window.outside} outside"))
    if view.failed:
        entries.append(("", "other", f"{len(view.failed)} failed"))
    return [(shape, COLOURS[colour], text) for shape, colour, text in entries]


def _legend_rows(entries: list[tuple[str, str, str]], room: float) -> list[list[tuple[str, str, str]]]:
    rows: list[list[tuple[str, str, str]]] = [[]]
    used = 0.0
    for entry in entries:
        own = _entry_width(entry[2])
        if used + own > room and rows[-1]:
            rows.append([])
            used = 0.0
        rows[-1].append(entry)
        used += own
    return rows


def _entry_width(text: str) -> float:
    return 34 + _LETTER * len(text)


def _legend_mark(shape: str, x: float, y: float, colour: str) -> str:
    if shape == "ring":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="none" stroke="{colour}" stroke-width="2.5" class="key"/>'
    return _shape(shape, x, y, colour, "key") if shape else ""


def _mark(shape: str, plane: _Plane, candidate: Candidate, colour: str, kind: str) -> str:
    """A candidate's mark, nothing when it lies outside the window."""
    value = score_of(candidate).value
    if not plane.inside(candidate.ms, value):
        return ""
    return _shape(shape, plane.x(candidate.ms), plane.y(value), colour, kind)


def _shape(shape: str, x: float, y: float, colour: str, kind: str) -> str:
    if shape in ("dot", "circle"):
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{3 if shape == "dot" else 4.5}" fill="{colour}" class="{kind}"/>'
    if shape == "ring":
        return (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="none" stroke="{colour}" stroke-width="2.5" '
                f'class="{kind}"/>')
    if shape == "square":
        return f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10" fill="{colour}" class="{kind}"/>'
    corners = [(0, -6), (6, 5), (-6, 5)] if shape == "triangle" else [(0, -5), (5, 0), (0, 5), (-5, 0)]
    path = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    look = f'fill="{colour}"' if shape == "triangle" else f'fill="none" stroke="{colour}" stroke-width="1.5"'
    return f'<polygon points="{path}" {look} class="{kind}"/>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
    tail = f" {more}" if more else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{tail}/>'


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = "") -> str:
    tail = f' fill="{colour}"' if colour else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{tail}>{escape(text)}</text>'


def _tick(value: float) -> str:
    return f"{value:.10g}".replace("-", "−")
