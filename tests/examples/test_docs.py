"""The page of worked examples says what the results say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")


def section(name: str) -> str:
    return next(part for part in PAGE.split("\n## ") if f"examples/{name}.py" in part and part.count("| 0 |"))


@pytest.mark.parametrize(("name", "score"), [("alexnet", "top5"), ("alexnet", "top1"), ("text_transformer", "accuracy"),
                                             ("lstm", "accuracy")])
def test_every_seed_and_the_mean_are_the_files(name: str, score: str) -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    text = section(name)
    assert len(results["runs"]) == 3
    for row in results["runs"]:
        line = next(found for found in text.splitlines() if found.startswith(f"| {row['seed']} |"))
        for net in ("dense", "pruned"):
            assert f"{100 * row[net][score]['value']:.2f}" in line
            assert f"{row[net]['macs']:,}" in line
            assert f"{row[net]['params']:,}" in line
    suffix = f"_{score}" if name == "alexnet" else ""
    assert f"{results[f'mean_change_points{suffix}']:+.2f}".replace("-", "−") in text
    assert f"{results[f'stdev_change_points{suffix}']:.2f}" in text


@pytest.mark.parametrize("wrong", ["0", "-1", "two"])
def test_no_seeds_are_a_usage_error(example: Callable[[str], ModuleType], wrong: str,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        example("common").options(None, 1, "").parse_args(["--seeds", wrong])
    assert "at least 1" in capsys.readouterr().err
