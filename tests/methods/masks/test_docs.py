"""The page about masks: its code runs, and its tables name every method and every pattern."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

from autoprune.devices.device import list_devices
from autoprune.methods.masks.patterns import parse_pattern
from autoprune.methods.masks.registry import element_methods

PAGE = Path(__file__).parents[3] / "docs" / "masks.md"


def first_cells(heading: str) -> set[str]:
    table = PAGE.read_text(encoding="utf-8").partition(f"| `{heading}` |")[2].partition("\n\n")[0]
    return {name for line in table.splitlines() if line.startswith("| `")
            for name in re.findall(r"`([^`]+)`", line.split("|")[1])}


def test_the_code_masks_half_of_the_weights(tmp_path: Path) -> None:
    found = re.search(r"<!-- own -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert found is not None
    script = tmp_path / "own.py"
    script.write_text(found.group(1), encoding="utf-8")
    assert runpy.run_path(str(script))["zeros"] == (8 * 16 + 16 * 4) // 2


def test_the_tables_are_complete() -> None:
    assert first_cells("--method") == {m.name for m in element_methods()}
    assert first_cells("--pattern") == {parse_pattern(p).text for p in ("weight", "2:4", "block:4x4", "kernel", "row")}


def test_no_shipped_device_names_a_pattern() -> None:
    assert "None of the shipped files names a\npattern" in PAGE.read_text(encoding="utf-8")
    assert all(device.sparsity == () for device in list_devices())
