from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from plotly import graph_objects as go

from autoprune.errors import ConfigError
from autoprune.front import words
from autoprune.front.figures import volumes
from autoprune.front.front import Front
from autoprune.front.report import write_report
from autoprune.front.view import view_of, window_of
from autoprune.graph.plan import Cut, Plan
from autoprune.search.candidate import Candidate

from .build import GROUPS, candidate, dense, front_of, latency, score, usual


class Page(HTMLParser):
    """What a browser would see: tags, the text outside scripts, tables, and the figures."""

    def __init__(self, path: Path):
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(self.html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._open.pop()
        if tag in ("td", "th", "p", "dd", "h1", "h2", "dt", "small"):
            self.text += "\n"

    def handle_data(self, data: str) -> None:
        if not self._open:
            self.text += data

    def call(self, name: str) -> tuple[Any, Any, dict[str, Any]]:
        """The arguments of `Plotly.newPlot(NAME, data, layout, config)`."""
        start = next(i for i in _places(self.html, "Plotly.newPlot(") if self.html[i:].lstrip().startswith(f'"{name}"'))
        rest = self.html[start:].lstrip()[len(name) + 2:]
        out = []
        for _ in range(3):
            value, end = json.JSONDecoder().raw_decode(rest.lstrip(", \n"))
            rest = rest.lstrip(", \n")[end:]
            out.append(value)
        return out[0], out[1], out[2]

    def figure(self, name: str) -> Any:
        data, layout, _ = self.call(name)
        return go.Figure(data=data, layout=layout)

    def trace(self, name: str, start: str) -> Any:
        found = [t for t in self.figure(name).data if t.name.startswith(start)]
        assert len(found) == 1, [t.name for t in self.figure(name).data]
        return found[0]


def _places(text: str, what: str) -> list[int]:
    out, at = [], text.find(what)
    while at >= 0:
        out.append(at + len(what))
        at = text.find(what, at + 1)
    return out


def page_of(front: Front, folder: Path) -> Page:
    path = write_report(front, folder / "report.html")
    assert path == folder / "report.html"
    return Page(path)


@pytest.fixture(scope="module")
def front() -> Front:
    return usual()


@pytest.fixture(scope="module")
def page(front: Front, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(front, tmp_path_factory.mktemp("report"))


def test_needs_no_network(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base")
        assert not {"src", "href", "data", "srcset"} & set(attributes), (tag, attributes)
    styles = page.html[page.html.index("<style>"):page.html.index("</style>")]
    assert "url(" not in styles
    assert "@import" not in styles
    assert page.html.count("* plotly.js v") == 1  # the library once, for all figures


def test_no_button_sends_the_chart_away(page: Page) -> None:
    for name in ("front", "widths", "hypervolume"):
        config = page.call(name)[2]
        assert config["showSendToCloud"] is False
        assert config["modeBarButtons"] == [["toImage", "zoom2d", "pan2d", "resetScale2d"]]
        assert "plotlyServerURL" not in config


def test_same_front_same_bytes(front: Front, page: Page, tmp_path: Path) -> None:
    again = Front.from_json(json.loads(json.dumps(front.to_json())), front.run)
    assert write_report(again, tmp_path / "b.html").read_text(encoding="utf-8") == page.html


def test_front_is_drawn_with_intervals(front: Front, page: Page) -> None:
    points = [p.candidate for p in front.points]
    drawn = page.trace("front", "front, validation")
    assert list(drawn.x) == [c.ms for c in points]
    assert list(drawn.y) == [c.score.value for c in points if c.score]
    assert drawn.mode == "lines+markers"
    assert list(drawn.error_x.array) == pytest.approx([p.latency.hi_ms - p.latency.ms for p in front.points])
    assert list(drawn.error_x.arrayminus) == pytest.approx([p.latency.ms - p.latency.lo_ms for p in front.points])
    assert list(drawn.error_y.array) == [0.009] * len(points)
    tested = page.trace("front", "front and dense, test split")
    assert list(tested.y) == [c.test.value for c in points if c.test]


def test_every_candidate_is_somewhere(front: Front, page: Page) -> None:
    figure = page.figure("front")
    drawn = {n for t in figure.data for n in t.customdata}
    assert drawn == {c.number for c in front.candidates if c.status == "ok"}
    assert "Not drawn: 2 failed candidates" in page.text
    controls = [c for c in front.candidates if c.origin.startswith("control: uniform")]
    assert list(page.trace("front", "uniform controls").customdata) == [c.number for c in controls]
    assert list(page.trace("front", "dense (control)").x) == [6.0]
    assert list(page.trace("front", "recommended: trial").customdata) == [front.recommended]
    assert page.trace("front", "their intervals").visible == "legendonly"


def test_budget_line(page: Page) -> None:
    layout = page.figure("front").layout
    (line,) = layout.shapes
    assert (line.x0, line.x1, line.line.dash) == (3.0, 3.0, "dash")
    assert [a.text for a in layout.annotations] == ["budget 3ms"]


def test_hover_says_what_is_known(front: Front, page: Page) -> None:
    text = page.trace("front", "recommended").hovertext[0]
    c = front.pick(budget="3ms").candidate
    assert text.startswith(f"<b>trial {c.number}</b>, search<br>")
    assert f"latency {words.milliseconds(c.ms)} p50 (p10–p90" in text
    assert "measured)" in text
    assert "(validation, n=360)" in text
    assert "MACs" in text
    assert "parameters" in text
    for name, cut in c.plan.cuts.items():
        assert f"{name}: {cut.keep} of {GROUPS[name]}, {cut.method}" in text


def test_widths(front: Front, page: Page) -> None:
    figure = page.figure("widths")
    whole, *methods = figure.data
    assert list(whole.x) == list(GROUPS.values())
    assert list(figure.layout.yaxis.ticktext) == [f"{n} " for n in GROUPS]
    cuts = front.pick(budget="3ms").candidate.plan.cuts
    kept = {int(y): x for t in methods for x, y in zip(t.x, t.y, strict=True)}
    assert kept == {i: cuts[n].keep for i, n in enumerate(GROUPS)}
    assert {t.name for t in methods} == {"kept by l1", "kept by taylor", "kept by fpgm"}


def test_hypervolume_over_candidates(front: Front, page: Page) -> None:
    trace = page.figure("hypervolume").data[0]
    values, reference = volumes(view_of(front))
    assert list(trace.x) == list(range(1, len(front.candidates) + 1))
    assert list(trace.y) == values
    assert values == sorted(values)
    assert values[-1] == pytest.approx(front.hypervolume(reference))
    half = replace(front, candidates=front.candidates[:20])
    assert values[19] == pytest.approx(half.hypervolume(reference))
    assert "100 s" in trace.hovertext[39] or "1 min 40 s" in trace.hovertext[39]  # 40 candidates of 2.5 s


def test_tables(front: Front, page: Page) -> None:
    for c in (p.candidate for p in front.points):
        assert c.score is not None
        assert words.milliseconds(c.ms) in page.text
        assert words.score_text(c.score) in page.text
        if c.plan.cuts:
            assert words.difference(c.score, front.drop(c)) in page.text
    assert page.text.count("ModelError: the <loss> became NaN") == 2
    assert "143" not in page.text  # seconds are written for people
    assert "2 min 23 s\n62 %" in page.text  # train, with its share of 232 s
    for expected in ("packages.torch\n2.13.0", "trials\n42", "digits", "Latencies were measured on this machine"):
        assert expected in page.text
    assert "model\nNone" not in page.text
    assert f"autoprune pick runs/a --trial {front.recommended} " in page.text
    assert f"autoprune.load('runs/a', trial={front.recommended})" in page.text


EVIL = "</script><script>alert(\"1\")</script><img src='x'>&amp;"


def test_everything_is_escaped(page: Page, tmp_path: Path) -> None:
    tame = page
    groups = {f"a<b>{EVIL}": 8, 'quote"\'s': 16}
    cuts = {n: Cut(3, f"method<{i}>") for i, n in enumerate(groups)}
    bad = replace(candidate(1, 2.0, 0.9), plan=Plan(cuts), origin=f"search {EVIL}",
                  latency=latency(2.0, notes=(f"noisy {EVIL}",)))
    failed = Candidate(2, f"search {EVIL}", Plan({}), "failed", f"why {EVIL}")
    page = page_of(front_of(
        [dense(groups=groups), bad, failed], groups=groups, task=f"task {EVIL}", device=f"dev {EVIL}", budget=EVIL,
        run=Path(f"runs/{EVIL}"), recommended=1, seconds={f"act {EVIL}": 1.0}, environment={EVIL: {EVIL: EVIL}},
        settings={EVIL: [EVIL]}), tmp_path)
    assert not any(tag == "img" for tag, _ in page.tags)
    scripts = [sum(tag == "script" for tag, _ in p.tags) for p in (page, tame)]
    assert scripts[0] == scripts[1]
    assert "<script>alert" not in page.html
    for label in ("task", "why", "act", "noisy"):
        assert f"{label} {EVIL}" in page.text
    ticks = page.figure("widths").layout.yaxis.ticktext
    hover = page.trace("front", "recommended").hovertext[0]
    for text in (*ticks, hover.replace("<br>", "").replace("<b>", "").replace("</b>", "")):
        assert "<" not in text
    assert 'quote"\'s ' in ticks[1]
    assert "method&lt;0&gt;" in hover


def test_one_point_no_budget_nothing_recommended(tmp_path: Path) -> None:
    page = page_of(front_of([dense()], budget=None, budget_ms=None), tmp_path)
    assert "No budget was given; the knee is trial 0" in page.text
    assert not page.figure("front").layout.shapes
    assert "Failed candidates" not in page.text
    assert "Progress of the search" not in page.text
    names = [t.name for t in page.figure("front").data]
    assert names == ["front, validation split", "dense (control)", "knee of the front: trial 0"]
    low, high = page.figure("front").layout.xaxis.range
    assert low < 5.76 < 6.36 < high


def test_several_budgets_are_all_shown(tmp_path: Path) -> None:
    found = front_of([dense(), candidate(1, 2.5, 0.95), candidate(2, 1.2, 0.9)], recommended=1,
                     further={"0.25x": 2, "0.1ms": None})
    assert found.budgets_ms == pytest.approx({"3ms": 3.0, "0.25x": 1.5, "0.1ms": 0.1})
    page = page_of(found, tmp_path)
    for text in ("3ms: trial 1", "0.25x = 1.50 ms: trial 2", "0.1ms: nothing meets it"):
        assert text in page.text
    assert len(page.figure("front").layout.shapes) == 3


def test_nothing_meets_the_budget(tmp_path: Path) -> None:
    page = page_of(front_of([dense(), candidate(1, 4.0, 0.95)], budget="1ms", budget_ms=1.0), tmp_path)
    assert "Nothing is recommended: no candidate meets what was asked." in page.text
    assert page.figure("front").layout.xaxis.range[0] < 1.0  # the budget is in view


def test_only_failures_beside_dense(tmp_path: Path) -> None:
    failed = [Candidate(i, "search", Plan({}), "failed", None) for i in (1, 2, 3)]
    page = page_of(front_of([dense(), *failed]), tmp_path)
    assert "4: 1 on the front, 3 failed" in page.text
    assert page.text.count("no score or no latency") == 3
    assert list(page.figure("hypervolume").data[0].y) == [0, 0, 0, 0]


def test_even_the_dense_model_failed(tmp_path: Path) -> None:
    broken = Candidate(0, "control: dense", Plan({}), "failed", "DeviceError: unreachable")
    page = page_of(front_of([broken]), tmp_path)
    assert "No candidate succeeded." in page.text
    assert "failed: DeviceError: unreachable" in page.text
    assert "nothing to pick" in page.text


def test_lower_is_better(tmp_path: Path) -> None:
    def mse(value: float, split: str = "validation") -> Any:
        return score(value, split, metric="mse", higher_is_better=False, standard_error=0.002)
    small = replace(candidate(1, 2.0, 0.0), score=mse(0.05), test=mse(0.06, "test"))
    bad = replace(candidate(2, 3.0, 0.0), score=mse(0.9))
    whole = replace(dense(), score=mse(0.04))
    page = page_of(front_of([whole, small, bad], metric="mse", higher_is_better=False, recommended=1), tmp_path)
    assert "mse 0.05000 ± 0.0020 (validation) and 0.06000 ± 0.0020 (test)" in page.text
    assert "0.0100 worse than dense" in page.text
    figure = page.figure("front")
    assert figure.layout.yaxis.title.text == "mse (lower is better)"
    assert figure.layout.yaxis.tickformat is None
    assert list(page.trace("front", "front, validation").y) == [0.05, 0.04]


def test_both_sources(tmp_path: Path) -> None:
    found = [dense(), candidate(1, 2.0, 0.9, source="profile"), candidate(2, 4.0, 0.97)]
    page = page_of(front_of(found, recommended=1), tmp_path)
    assert "two sources: 2 measured on this machine (the one that ran the search), 1 predicted" in page.text
    assert "as fast as dense" not in page.text  # a prediction is not compared with a measurement
    assert "80 % within 1.30–3.05 ms, predicted" in page.text
    assert "Its interval reaches above the budget" in page.text


def test_predictions_say_so(tmp_path: Path) -> None:
    page = page_of(usual(12, "profile", device="rpi4"), tmp_path)
    assert "predicted from a profile – measure before you promise it" in page.text
    assert "measured on" not in page.text


def test_many_groups_get_room(tmp_path: Path) -> None:
    groups = {f"layers.{i}.a.very.long.name.that.goes.on.and.on.for.ever.conv": 64 for i in range(150)}
    page = page_of(usual(8, groups=groups), tmp_path)
    figure = page.figure("widths")
    assert figure.layout.height > 150 * 18
    assert len(figure.layout.yaxis.ticktext) == len(figure.data[0].y) == 150
    assert max(map(len, figure.layout.yaxis.ticktext)) <= 46
    assert page.trace("front", "recommended").hovertext[0].endswith("… and 138 more")


def test_outliers_do_not_squash_the_front(tmp_path: Path) -> None:
    front = usual()
    lost = [candidate(90 + i, 5.0 + i / 10, 0.1) for i in range(3)]
    front = replace(front, candidates=[*front.candidates, *lost])
    window = window_of(view_of(front))
    assert window is not None
    assert window.outside == 3
    assert window.low > 0.8
    page = page_of(front, tmp_path)
    assert "Outside this first view: 3 candidates" in page.text
    assert page.figure("front").layout.yaxis.range[0] == window.low


def test_a_folder_that_is_not_there(front: Front, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="report cannot be written"):
        write_report(front, tmp_path / "none" / "report.html")


@pytest.mark.parametrize(("text", "expected"), [
    (words.number(0.04213), "0.0421"), (words.number(1234.5), "1234"), (words.number(-2.5), "−2.50"),
    (words.number(0), "0"), (words.scaled(4_200_000), "4.20 M"), (words.scaled(999), "999"),
    (words.size(480_000), "480 kB"), (words.size(12), "12 B"), (words.duration(0.031), "0.03 s"),
    (words.duration(143), "2 min 23 s"), (words.duration(4330), "1 h 12 min"), (words.share(1, 3), "33 %"),
    (words.share(1, 0), "–"), (words.score_text(score(0.973)), "97.3 % ± 0.9"),
    (words.score_text(score(0.97314, n=10_000, standard_error=0.0016)), "97.31 % ± 0.16"),
    (words.difference(score(0.9), -0.0001), "0.0 pp"), (words.difference(score(0.9), -0.012), "−1.2 pp"),
    (words.shortened("a" * 60, 11), "aaaaa…aaaaa"), (words.plural(1, "trial"), "1 trial"),
    (words.budget_text("0.5x", 3.0), "0.5x = 3.00 ms"), (words.budget_text("3ms@p90", 3.0), "3ms@p90"),
])
def test_numbers_for_people(text: str, expected: str) -> None:
    assert text == expected
