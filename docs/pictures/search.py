"""Draws the pictures of `search.md` from a run of the knapsack sampler, into the run's folder or another that is given:
`python docs/pictures/search.py runs/RUN [FOLDER]`.

`scan.svg`: what each group of units costs and saves alone. `arms.svg`: the candidates, by who proposed them.
`widths.svg`: how much of each group the points on the front keep.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path

import optuna

from autoprune.front.front import load_front
from autoprune.front.plot import round_ticks
from autoprune.search.knapsack.past import NOTE
from autoprune.search.run_folder import RunFolder

WIDE, HIGH, LEFT, TOP, RIGHT, BOTTOM = 760, 390, 70, 30, 220, 50
COLOURS = {"control": "#9a9a9a", "start": "#4e79a7", "scan": "#76b7b2", "refit": "#f28e2b", "tpe": "#59a14f",
           "vary": "#e15759"}
WORDS = {"control": "control (dense, uniform)", "start": "decoded from the scan first", "scan": "decoded from the scan",
         "refit": "damage learnt from candidates", "tpe": "TPE over the damage", "vary": "varies the front"}
Scale = Callable[[float], float]


def text(x: float, y: float, words: str, anchor: str = "start", size: int = 12, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{more}>{escape(words)}</text>'


def picture(path: Path, parts: Iterable[str], high: int = HIGH) -> None:
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDE}" height="{high}" viewBox="0 0 {WIDE} {high}" '
            'font-family="system-ui, sans-serif" fill="#333333"><rect width="100%" height="100%" fill="#ffffff"/>')
    path.write_text("\n".join([head, *parts, "</svg>"]) + "\n", encoding="utf-8")


def linear(low: float, high: float, start: float, end: float) -> Scale:
    return lambda v: start + (end - start) * (v - low) / (high - low)


def axes(x: Scale, y: Scale, across: list[float], up: list[float], names: tuple[str, str],
         show: Callable[[float], str] = "{:g}".format) -> list[str]:
    """Lines and numbers; `names` of the two axes."""
    bottom = HIGH - BOTTOM
    out = [f'<path d="M{LEFT} {TOP}V{bottom}H{WIDE - RIGHT}" fill="none" stroke="#333333"/>']
    out += [text(x(v), bottom + 18, f"{v:g}", "middle") for v in across]
    out += [text(LEFT - 8, y(v) + 4, show(v), "end") for v in up]
    out += [f'<path d="M{LEFT} {y(v):.1f}H{WIDE - RIGHT}" stroke="#e6e6e6"/>' for v in up]
    return [*out, text((LEFT + WIDE - RIGHT) / 2, HIGH - 12, names[0], "middle"),
            text(16, TOP - 14, names[1])]


def scan(study: optuna.Study, folder: Path) -> None:
    """Damage (logarithmic) against milliseconds saved, a line per group."""
    curves = study.user_attrs["knapsack"]["curves"]
    damage = [d for c in curves.values() for d in c["damage"] if d > 0]
    most = max(s for c in curves.values() for s in c["saved"])
    low, high = math.floor(math.log10(min(damage))), math.ceil(math.log10(max(damage)))
    x = linear(0, most, LEFT, WIDE - RIGHT)
    y = linear(low, high, HIGH - BOTTOM, TOP)
    parts = axes(x, y, round_ticks(0, most), list(range(low, high + 1)),
                 ("milliseconds that pruning this group alone saves", "damage"), lambda v: f"1e{v:g}")
    hues = ["#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#e15759", "#76b7b2", "#9c755f"]
    ends = []
    for i, (name, c) in enumerate(curves.items()):
        points = [(x(s), y(math.log10(d))) for s, d in zip(c["saved"], c["damage"], strict=True) if d > 0]
        path = "L".join(f"{px:.1f} {py:.1f}" for px, py in points)
        parts.append(f'<path d="M{path}" fill="none" stroke="{hues[i % len(hues)]}" stroke-width="1.5"/>')
        ends.append((points[0][1], points[0][0], name, hues[i % len(hues)]))
    last = -math.inf
    for py, px, name, hue in sorted(ends):  # names on the right, none upon another
        last = max(py, last + 13)
        parts.append(f'<path d="M{px:.1f} {py:.1f}L{WIDE - RIGHT + 8} {last:.1f}" stroke="{hue}" opacity="0.35"/>')
        parts.append(text(WIDE - RIGHT + 12, last + 4, name, size=11))
    picture(folder / "scan.svg", parts)


def arms(front: object, study: optuna.Study, folder: Path) -> None:
    """Candidates in the plane of latency and metric, numbered in their order."""
    who = {t.number: t.system_attrs.get(NOTE, {}).get("arm", "") for t in study.trials}
    rows = [(c.number, c.ms, c.quality, who.get(c.number) or c.origin.split(":")[0])
            for c in front.candidates if c.status == "ok"]
    x = linear(0, 1.02 * max(r[1] for r in rows), LEFT, WIDE - RIGHT)
    low = min(r[2] for r in rows)
    y = linear(low - 0.05 * (1 - low), 1.0, HIGH - BOTTOM, TOP)
    parts = axes(x, y, round_ticks(0, max(r[1] for r in rows)), round_ticks(low, 1.0),
                 ("milliseconds", front.metric))
    members = sorted((p.candidate.ms, p.candidate.quality) for p in front.points)
    steps = "".join(f"H{x(ms):.1f}V{y(q):.1f}" for ms, q in members)
    parts.append(f'<path d="M{x(members[0][0]):.1f} {HIGH - BOTTOM}{steps}H{WIDE - RIGHT}" fill="none" '
                 'stroke="#333333" stroke-dasharray="2 3"/>')
    for number, ms, quality, arm in rows:
        colour = COLOURS.get(arm, COLOURS["control"])
        parts.append(f'<circle cx="{x(ms):.1f}" cy="{y(quality):.1f}" r="8" fill="{colour}" opacity="0.9"/>')
        parts.append(text(x(ms), y(quality) + 3, str(number), "middle", 9, ' fill="#ffffff"'))
    for i, arm in enumerate(a for a in COLOURS if any(r[3] == a for r in rows)):
        parts.append(f'<circle cx="{WIDE - RIGHT + 18}" cy="{TOP + 12 + 20 * i}" r="6" fill="{COLOURS[arm]}"/>')
        parts.append(text(WIDE - RIGHT + 30, TOP + 16 + 20 * i, WORDS[arm], size=11))
    picture(folder / "arms.svg", parts)


def widths(front: object, folder: Path) -> None:
    """A row per point on the front, the slowest first; a column per group, dark where much of it stays."""
    points = sorted(front.points, key=lambda p: -p.candidate.ms)
    groups, high = list(front.groups), 170 + 22 * len(front.points)
    step = (WIDE - 190) / len(groups)
    parts = []
    for row, point in enumerate(points):
        c, top = point.candidate, 20 + 22 * row
        parts.append(text(150, top + 15, f"{c.ms:.2f} ms, {100 * c.quality:.1f} %", "end"))
        for column, name in enumerate(groups):
            share = c.plan.cuts[name].keep / front.groups[name] if name in c.plan.cuts else 1.0
            left = 160 + step * column
            parts.append(f'<rect x="{left:.1f}" y="{top}" width="{step - 2:.1f}" height="20" fill="#4e79a7" '
                         f'fill-opacity="{share:.2f}"/>')
            parts.append(text(left + step / 2 - 1, top + 14, f"{100 * share:.0f}", "middle", 10,
                              ' fill="#ffffff"' if share > 0.6 else ""))
    for column, name in enumerate(groups):
        left, top = 160 + step * column + step / 2, 30 + 22 * len(points)
        parts.append(text(left, top, name, "start", 10, f' transform="rotate(60 {left:.1f} {top})"'))
    picture(folder / "widths.svg", parts, high)


def main() -> None:
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python docs/pictures/search.py runs/RUN [FOLDER]")
    folder, target = Path(sys.argv[1]), Path(sys.argv[-1])
    target.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    front = load_front(folder)
    study = optuna.load_study(study_name="autoprune", storage=RunFolder(folder).storage)
    scan(study, target)
    arms(front, study, target)
    widths(front, target)


if __name__ == "__main__":
    main()
