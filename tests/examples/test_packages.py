"""The examples on the standard library's sources: what is cut, what stays, and who reads the test split."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.system


@pytest.fixture
def splits() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return {split: (torch.randint(0, 2000, (count, 32), generator=generator), torch.arange(count) % 12)
            for split, count in (("train", 128), ("validation", 24), ("test", 24))}


def test_half_of_the_lstm_s_units_go(example: Callable[[str], ModuleType], splits: Any, evaluated: list[str]) -> None:
    row = example("lstm").run(splits, seed=0, steps=1)
    assert list(row["kept"].values()) == [[128, 256]]
    assert row["dense"]["params_lstm"] == 4 * 256 * (64 + 256 + 2)
    assert row["pruned"]["params_lstm"] == 4 * 128 * (64 + 128 + 2)
    assert row["dense"]["macs"] == 32 * 4 * 256 * (64 + 256) + 256 * 12
    assert row["pruned"]["macs"] == 32 * 4 * 128 * (64 + 128) + 128 * 12
    assert evaluated == ["test", "test"]


def test_heads_and_neurons_of_the_transformer_go_and_nothing_else(
        example: Callable[[str], ModuleType], splits: Any, evaluated: list[str]) -> None:
    pytest.importorskip("transformers")
    row = example("text_transformer").run(splits, seed=0, steps=1)
    assert sorted(row["kept"].values()) == [[3, 6], [3, 6], [173, 384], [173, 384]]

    def layer(heads: int, neurons: int) -> tuple[int, int]:
        width, inner = 96, 16 * heads
        macs = 32 * (4 * width * inner + 2 * width * neurons) + 2 * 32 * 32 * inner
        return macs, 4 * width * inner + 3 * inner + width + 2 * width * neurons + neurons + width

    for net, size in (("dense", layer(6, 384)), ("pruned", layer(3, 173))):
        assert (row[net]["macs"], row[net]["params"]) == (2 * size[0], 2 * size[1])
    assert row["dense"]["macs"] > 2 * row["pruned"]["macs"]
    assert row["dense"]["params"] > 2 * row["pruned"]["params"]
    assert evaluated == ["test", "test"]


def test_windows_of_the_splits_are_of_different_parts_of_a_file(
        example: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    common: Any = example("common")
    monkeypatch.setattr(common, "PACKAGES", ("json", "urllib"))
    monkeypatch.setattr(common, "words", lambda package: [[f"{package}{i}" for i in range(1000)]])
    found = common.windows()
    assert {split: list(ids.shape) for split, (ids, _) in found.items()} == {
        "train": [42, 32], "validation": [6, 32], "test": [12, 32]}
    assert int((found["train"][0] == 0).sum()) == 0
    assert int(found["test"][0].max()) == 0  # words that the training part has not
    assert found["test"][1].bincount().tolist() == [6, 6]


def test_every_package_has_sources(example: Callable[[str], ModuleType]) -> None:
    common: Any = example("common")
    assert all(sum(map(len, common.words(package))) > 5_000 for package in common.PACKAGES)
