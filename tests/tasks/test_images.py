from __future__ import annotations

import sys
from itertools import chain
from pathlib import Path

import pytest
import torch

from autoprune.errors import TaskError
from autoprune.tasks.data import load_data
from autoprune.tasks.images import image_to_tensor, stratified

Image = pytest.importorskip("PIL.Image")
SHADES = {"dark": 10, "light": 240}


def write_images(folder: Path, count: int = 5) -> Path:
    for name, shade in SHADES.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (12, 10), (shade, shade, index)).save(folder / name / f"{index}.png")
    return folder


def labels_of(loader: object) -> list[int]:
    return sorted(int(label) for _, labels in loader for label in labels)  # type: ignore[attr-defined]


def test_train_val_test_folders(tmp_path: Path) -> None:
    for split, count in (("train", 5), ("val", 2), ("test", 1)):
        write_images(tmp_path / split, count)
    loaders = load_data(f"folder:{tmp_path}?size=8&batch=4&normalize=none")
    assert [labels_of(part) for part in (loaders.train, loaders.validation, loaders.test)] == [
        [0] * 5 + [1] * 5, [0] * 2 + [1] * 2, [0, 1]]
    images, labels = next(iter(loaders.validation))
    assert images.shape == (4, 3, 8, 8)
    assert images[labels == 0][:, 0].mean() == pytest.approx(10 / 255)
    assert "normalize=none" in loaders.notes[0]


def test_class_folders_only_are_divided(tmp_path: Path) -> None:
    loaders = load_data(f"folder:{write_images(tmp_path)}?size=8")
    assert [labels_of(part) for part in (loaders.train, loaders.validation, loaders.test)] == [
        [0] * 3 + [1] * 3, [0, 1], [0, 1]]
    again = load_data(f"folder:{tmp_path}?size=8")
    assert torch.equal(next(iter(loaders.test))[0], next(iter(again.test))[0])
    assert "divided" in loaders.notes[1]


def test_stratified_is_disjoint_and_complete() -> None:
    labels = [0] * 20 + [1] * 10 + [2]
    parts = stratified(labels)
    assert sorted(row for rows in parts.values() for row in rows) == list(range(31))
    assert [labels[row] for row in parts["test"]].count(0) == 4
    assert 30 in parts["train"]
    assert parts == stratified(labels)


def test_image_to_tensor_cuts_the_centre_and_normalises() -> None:
    image = Image.new("RGB", (30, 10))
    image.paste((255, 255, 255), (10, 0, 20, 10))
    pixels = image_to_tensor(image, 10, 3, "half")
    assert pixels.shape == (3, 10, 10)
    assert torch.all(pixels == 1)
    assert image_to_tensor(image, 5, 1, "none").shape == (1, 5, 5)


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="folder does not exist"):
        load_data(f"folder:{tmp_path / 'missing'}")
    with pytest.raises(TaskError, match="sub-folder per class"):
        load_data(f"folder:{tmp_path}")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(TaskError, match="no images"):
        load_data(f"folder:{tmp_path}")
    with pytest.raises(TaskError, match="did you mean 'imagenet'"):
        load_data(f"folder:{tmp_path}?normalize=imagnet")
    with pytest.raises(TaskError, match="out of range"):
        load_data(f"folder:{tmp_path}?channels=2")


def test_splits_with_other_classes(tmp_path: Path) -> None:
    write_images(tmp_path / "train")
    write_images(tmp_path / "test")
    (tmp_path / "test" / "medium").mkdir()
    with pytest.raises(TaskError, match="different classes"):
        load_data(f"folder:{tmp_path}")


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / "dark" / "0.png").write_text("no image")
    loaders = load_data(f"folder:{tmp_path}?size=8")
    with pytest.raises(TaskError, match=r"0\.png"):
        list(chain(loaders.train, loaders.validation, loaders.test))


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)  # type: ignore[arg-type]  # makes import raise
    with pytest.raises(TaskError, match="pip install pillow"):
        load_data(f"folder:{tmp_path}")
