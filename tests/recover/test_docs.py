"""docs/recovery.md names every key of a space's tables with the default that it has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from autoprune.recover.recovery import Recovery
from autoprune.search.space_problems import RECOVER, SCHEDULE

PAGE = (Path(__file__).parents[2] / "docs" / "recovery.md").read_text(encoding="utf-8")


def defaults() -> dict[str, object]:
    r = Recovery()
    return {**vars(r.tune), **vars(r), "kind": r.schedule.kind, "cycles": r.schedule.cuts,
            "penalty_steps": r.penalty.steps, "l1_norms": r.penalty.l1_norms, "group_lasso": r.penalty.group_lasso}


@pytest.mark.parametrize(("heading", "keys"), [("[recover]", RECOVER), ("[schedule]", SCHEDULE)])
def test_every_key_is_there_with_its_default(heading: str, keys: dict[str, type]) -> None:
    section = PAGE.split(f"## `{heading}`")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", section, flags=re.MULTILINE))
    assert set(rows) == set(keys)
    for key, text in rows.items():
        value = defaults()[key]
        if isinstance(value, bool) or value is None:
            assert text == {True: "true", False: "false", None: "none"}[value]
        else:
            assert type(value)(text) == value
