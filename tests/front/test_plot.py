from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any

import pytest

from autoprune.front.front import Front
from autoprune.front.plot import front_svg, round_ticks
from autoprune.graph.plan import Plan
from autoprune.search.candidate import Candidate

from .build import candidate, dense, front_of, score, usual

_NS = "{http://www.w3.org/2000/svg}"


def drawn(front: Front, **size: int) -> tuple[Any, dict[str, list[Any]], list[str]]:
    """The root, the elements by class, and the texts."""
    root = ET.fromstring(front_svg(front, **size))
    kinds: dict[str, list[Any]] = {}
    for element in root.iter():
        kinds.setdefault(element.get("class", ""), []).append(element)
    return root, kinds, [t.text or "" for t in root.iter(f"{_NS}text")]


def test_everything_is_there_once() -> None:
    front = usual()
    root, kinds, texts = drawn(front)
    assert (root.get("width"), root.get("height")) == ("760", "420")
    assert len(kinds["front"]) == len(front.points)
    assert len(kinds["uniform"]) == 3
    assert len(kinds["dense"]) == len(kinds["chosen"]) == len(kinds["budget"]) == len(kinds["interval"]) == 1
    ok = sum(c.status == "ok" for c in front.candidates)
    on_front = {p.number for p in front.points}
    uniform = {c.number for c in front.candidates if "uniform" in c.origin}
    assert len(kinds["candidate"]) == ok - len(on_front | uniform | {0})
    assert len(kinds["test"]) == len(on_front | {0})
    for text in ("budget 3ms", "2 failed", "uniform controls", "dense (control)", "latency on cpu, ms (measured)"):
        assert text in texts
    assert any(t.startswith(f"recommended: trial {front.recommended}, ") for t in texts)


def test_positions_follow_the_axes() -> None:
    front = usual()
    _, kinds, _ = drawn(front)
    marks = [(float(m.get("cx")), float(m.get("cy"))) for m in kinds["front"]]
    assert marks == sorted(marks, key=lambda m: (m[0], -m[1]))  # to the right and up
    interval, ring, budget = kinds["interval"][0], kinds["chosen"][0], kinds["budget"][0]
    assert float(interval.get("x1")) < float(ring.get("cx")) < float(interval.get("x2"))
    scale = (float(budget.get("x1")) - 72) / 3.0  # the axis starts at 0 ms here, 72 px from the left
    assert float(ring.get("cx")) == pytest.approx(72 + scale * front.pick(budget="3ms").latency.ms, abs=0.2)


@pytest.mark.parametrize("size", [{}, {"width": 420, "height": 360}, {"width": 1200, "height": 300}])
def test_everything_lies_inside(size: dict[str, int]) -> None:
    width, height = size.get("width", 760), size.get("height", 420)
    for front in (usual(), usual(30, "profile"), front_of([dense()])):
        root, _, _ = drawn(front, **size)
        for element in root.iter():
            for names, limit in ((("x", "cx", "x1", "x2"), width), (("y", "cy", "y1", "y2"), height)):
                for value in (element.get(n) for n in names):
                    assert value is None or -8 <= float(value) <= limit


def test_edges() -> None:
    _, kinds, texts = drawn(front_of([dense()], budget=None, budget_ms=None))
    assert "budget" not in kinds
    assert len(kinds["front"]) == 1
    assert "test split" not in texts
    assert "knee of the front: trial 0, 6.00 ms" in texts
    broken = Candidate(0, "control: dense", Plan({}), "failed", "x")
    assert "No candidate succeeded (1 failed)." in front_svg(front_of([broken]))


def test_both_sources_and_lower_is_better() -> None:
    found = [replace(c, score=score(v, metric="mse", higher_is_better=False)) for c, v in
             ((dense(), 0.1), (candidate(1, 2.0, 0, source="profile"), 0.3), (candidate(2, 4.0, 0), 0.15))]
    _, kinds, texts = drawn(front_of(found, metric="mse", higher_is_better=False))
    assert "latency on cpu, ms (measured and predicted)" in texts
    assert "mse, validation split (lower is better)" in texts
    heights = [float(m.get("cy")) for m in kinds["front"]]
    assert heights == sorted(heights)  # better is lower on the page
    assert not any(t.endswith("%") for t in texts)


def test_text_is_escaped() -> None:
    front = usual(10, device="<rpi> & \"co\"", task="</title><script>")
    root, _, texts = drawn(front)
    assert "latency on <rpi> & \"co\", ms (measured)" in texts
    assert not list(root.iter(f"{_NS}script"))


def test_far_outliers_are_counted_not_drawn() -> None:
    front = usual()
    front = replace(front, candidates=[*front.candidates, candidate(99, 5.0, 0.1)])
    _, _, texts = drawn(front)
    assert "1 outside" in texts


@pytest.mark.parametrize(("low", "high", "ticks"), [
    (0, 6.5, [0, 1, 2, 3, 4, 5, 6]), (0.0, 0.031, [0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03]),
    (88.1, 98.3, [90, 92, 94, 96, 98]), (-1.0, 1.0, [-1, -0.5, 0, 0.5, 1]),
    (100, 1300, [200, 400, 600, 800, 1000, 1200]),
])
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert round_ticks(low, high) == ticks
