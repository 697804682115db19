"""The device file that the documentation explains is a device file, and no key is left out."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path

from autoprune.devices.device import ErrorFigures, ProfileConstants, load_device

PAGE = Path(__file__).parents[2] / "docs" / "add-a-device.md"


def test_the_example_loads_and_has_every_key(tmp_path):
    found = re.search(r"<!-- device -->\n```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert found is not None
    path = tmp_path / "orangepi.toml"
    path.write_text(found.group(1), encoding="utf-8")
    device, data = load_device(str(path)), tomllib.loads(found.group(1))
    assert device.name == "orangepi"
    for table, kind in (("profile", ProfileConstants), ("error", ErrorFigures)):
        assert set(data[table]) == {f.name for f in fields(kind)} | {"source"}
