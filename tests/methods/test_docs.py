"""The page about criteria: its code runs, and its table names every criterion with what it needs."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from autoprune.methods import registry
from autoprune.methods.registry import methods

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def run(label: str, folder: Path) -> dict[str, Any]:
    found = re.search(rf"<!-- {label} -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert found is not None
    script = folder / f"{label}.py"
    script.write_text(found.group(1), encoding="utf-8")
    return runpy.run_path(str(script))


def test_a_criterion_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "_CRITERIA", dict(registry._CRITERIA))
    run("own", tmp_path)
    assert registry.criterion("loud").summary


def test_a_global_ranking(tmp_path: Path) -> None:
    space = run("ranked", tmp_path)
    assert sum(c.keep for c in space["plan"].cuts.values()) < 64
    assert space["small"](space["batches"][0][0]).shape == (16, 2)


def test_the_table_is_complete() -> None:
    rows = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [c.strip() for c in line.replace(r"\|", "").split("|")]
        if len(cells) == 7:
            rows.update(dict.fromkeys(re.findall(r"`(\w+)`", cells[1]), cells[4]))
    assert list(rows) == [m.name for m in methods()]
    for m in methods():
        assert rows[m.name] == ("" if m.name == "random" else ", ".join(sorted(m.needs)) or "weights")
