"""The pictures in the documentation are what the code draws today."""

from __future__ import annotations

import importlib.util
from pathlib import Path

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"


def test_pictures_are_those_of_this_code() -> None:
    spec = importlib.util.spec_from_file_location("draw", PICTURES / "draw.py")
    assert spec is not None
    assert spec.loader is not None
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    drawn = draw.pictures()
    assert drawn == {name: (PICTURES / name).read_text(encoding="utf-8") for name in drawn}
