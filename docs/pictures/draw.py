"""Draws the pictures of `pruning-graph.md` from real traces: `python docs/pictures/draw.py`.

One row per operator: its name, its weight's axes, its output's axes. Equal colours are the same `Dim`: that is the
coupling. Grey is frozen. A curve on the left is an operand that does not come from the row above.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

import torch
from torch import Tensor, nn

import autoprune
from autoprune.graph.dims import Dim, Expr, Product, resolve
from autoprune.graph.typing import tensor_types

COLOURS = ["#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#e15759", "#76b7b2", "#9c755f"]
FROZEN = "#9a9a9a"
ROW, CHIP, LEFT = 34, 24, 70
COLUMNS = (LEFT, LEFT + 170, LEFT + 430)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1)
        self.conv1 = nn.Conv2d(64, 48, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(48)
        self.conv2 = nn.Conv2d(48, 64, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return (x + self.conv2(torch.relu(self.norm1(self.conv1(x))))).mean((2, 3)).sum(1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(20, 48)
        self.q, self.k, self.v, self.out = (nn.Linear(48, 48) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = (f(x).view(2, 10, 4, 12).transpose(1, 2) for f in (self.q, self.k, self.v))
        scores = (q @ k.transpose(-1, -2)).softmax(-1)
        return self.out((scores @ v).transpose(1, 2).reshape(2, 10, 48)).mean(-1)


class Flatten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.head = nn.Linear(16 * 7 * 7, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).flatten(1))


def draw(model: nn.Module, x: Tensor) -> str:
    """The SVG of a traced model."""
    graph = autoprune.trace(model.eval(), x)
    types, tensors = graph.typing.types, graph.typing.tensors
    rows = [n for n in graph.captured.graph.nodes if n.op == "call_function" and tensor_types(types[n])]
    place = {n: ROW * (i + 2) for i, n in enumerate(rows)}
    colours: dict[Dim, str] = {}
    parts = [_text(x, ROW, label, weight="bold") for x, label in
             zip(COLUMNS, ("operator", "weight", "output"), strict=True)]
    for node, y in place.items():
        weights = [a for a in node.all_input_nodes if a.op == "get_attr" and len(tensors.get(str(a.target), ())) > 1]
        layer = str(weights[0].target).rpartition(".")[0] if weights else ""
        parts.append(_text(COLUMNS[0], y, f"{node.target.__name__.split('.')[0]}" + (f"  {layer}" if layer else "")))
        parts += _axes(COLUMNS[1], y, tensors[str(weights[0].target)] if weights else [], colours)
        parts += _axes(COLUMNS[2], y, tensor_types(types[node])[0], colours)
        parts += [_curve(place[a], y) for a in node.all_input_nodes if a in place and y - place[a] > ROW]
    width, height = COLUMNS[2] + 250, ROW * (len(rows) + 2)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
            f'font-size="13"><rect width="{width}" height="{height}" fill="white"/>{"".join(parts)}</svg>\n')


def _axes(x: float, y: float, axes: list[Expr], colours: dict[Dim, str]) -> list[str]:
    parts = []
    for axis in axes:
        e = resolve(axis)
        factors = list(e) if isinstance(e, Product) else [e]
        start = x
        for i, factor in enumerate(factors):
            assert isinstance(factor, Dim)
            if i:
                parts.append(_text(x + 1, y, "×"))
                x += 11
            colour = FROZEN if factor.frozen else colours.setdefault(factor, COLOURS[len(colours) % len(COLOURS)])
            label = "batch" if factor.symbolic else str(factor.size)
            wide = 14 + 8 * len(label)
            parts.append(f'<rect x="{x}" y="{y - 17}" width="{wide}" height="{CHIP}" rx="4" fill="{colour}"/>')
            parts.append(_text(x + wide / 2, y, label, fill="white", anchor="middle"))
            x += wide
        if len(factors) > 1:
            parts.append(f'<rect x="{start - 3}" y="{y - 20}" width="{x - start + 6}" height="{CHIP + 6}" rx="6" '
                         f'fill="none" stroke="#555"/>')
        x += 8
    return parts


def _curve(above: float, below: float) -> str:
    bend = LEFT - 12 - min(50.0, (below - above) / 4)
    return (f'<path d="M {LEFT - 6} {above - 5} C {bend} {above}, {bend} {below - 10}, {LEFT - 6} {below - 5}" '
            f'fill="none" stroke="#555" stroke-width="1.5"/>')


def _text(x: float, y: float, text: str, fill: str = "#222", weight: str = "normal", anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" fill="{fill}" font-weight="{weight}" text-anchor="{anchor}">{escape(text)}</text>'


def pictures() -> dict[str, str]:
    """SVG text by file name."""
    torch.manual_seed(0)
    return {"residual.svg": draw(Residual(), torch.randn(2, 3, 32, 32)),
            "attention.svg": draw(Attention(), torch.randn(2, 10, 20)),
            "flatten.svg": draw(Flatten(), torch.randn(2, 3, 7, 7))}


if __name__ == "__main__":
    for name, svg in pictures().items():
        (Path(__file__).parent / name).write_text(svg, encoding="utf-8")
