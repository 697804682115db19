"""Images to tensors, and the `folder:` data: one sub-folder of images per class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from autoprune.errors import TaskError, did_you_mean
from autoprune.specs import parse_options
from autoprune.tasks.models import import_package

__all__ = ["IMAGE_OPTIONS", "NORMALISATIONS", "ImageRows", "folder_splits", "image_to_tensor", "loader", "stratified"]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
IMAGE_OPTIONS: dict[str, Any] = {"size": 224, "batch": 32, "channels": 3, "normalize": "imagenet"}
NORMALISATIONS: dict[str, tuple[list[float], list[float]]] = {
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),  # torchvision's and most of timm's weights
    "half": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),  # −1 … 1: ViT and Inception-style weights
    "none": ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),  # 0 … 1
}
_VALIDATION = ("val", "valid", "validation")


def image_to_tensor(image: Any, size: int, channels: int, normalize: str) -> Tensor:
    """A Pillow image as [channels, size, size] float32.

    The short side is scaled to `size` (bicubic), the centre is cut out, values are put in 0…1 and normalised; one
    channel takes the mean of the three means and deviations.
    """
    image = image.convert("L" if channels == 1 else "RGB")
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    image = image.resize((width, height), 3).crop((left, top, left + size, top + size))  # 3 is bicubic
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    pixels = flat.reshape(size, size, channels).permute(2, 0, 1).float().div_(255)
    mean, deviation = (torch.tensor(values) for values in NORMALISATIONS[normalize])
    if channels == 1:
        mean, deviation = mean.mean().reshape(1), deviation.mean().reshape(1)
    return (pixels - mean.reshape(-1, 1, 1)) / deviation.reshape(-1, 1, 1)


class ImageRows(Dataset[tuple[Tensor, int]]):
    """`(read, label)` rows: `read()` gives a Pillow image. Decoded on access, nothing is kept in memory."""

    def __init__(self, rows: list[tuple[Callable[[], Any], int]], options: dict[str, Any]) -> None:
        self.rows = rows
        self.options = options

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        read, label = self.rows[index]
        options = self.options
        return image_to_tensor(read(), options["size"], options["channels"], options["normalize"]), label


def loader(rows: Dataset[Any], batch: int, *, shuffle: bool) -> DataLoader[Any]:
    """A DataLoader in this process."""
    return DataLoader(rows, batch_size=batch, shuffle=shuffle)


def image_options(rest: str, spec: str, more: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
    """`parse_options` with the options of images, checked: sizes ≥ 1, 1 or 3 channels, a known normalisation."""
    name, options = parse_options(rest, IMAGE_OPTIONS | (more or {}))
    if options["normalize"] not in NORMALISATIONS:
        raise TaskError("unknown normalisation", given=spec, allowed=did_you_mean(options["normalize"], NORMALISATIONS),
                        fix="normalize=imagenet")
    if options["size"] < 1 or options["batch"] < 1 or options["channels"] not in (1, 3):
        raise TaskError("an image option is out of range", given=spec, allowed="size ≥ 1, batch ≥ 1, channels 1 or 3",
                        fix="?size=224&batch=32&channels=3")
    return name, options


def folder_splits(rest: str, spec: str) -> tuple[dict[str, DataLoader[Any]], tuple[str, ...]]:
    """Loaders of `folder:PATH[?size=224&batch=32&channels=3&normalize=imagenet]`, and notes.

    `PATH/train/<class>/*.png` with optional `val/` and `test/`; or `PATH/<class>/*.png`, divided 60/20/20 per class
    with a fixed seed. Classes are numbered in the order of their names. `TaskError` when the folder, its images or
    Pillow is missing, or when the splits have different classes.
    """
    name, options = image_options(rest, spec)
    root = Path(name).expanduser()
    if not root.is_dir():
        raise TaskError("the folder does not exist", given=f"{spec} → {root.resolve()}",
                        allowed="PATH/train/<class>/*.png or PATH/<class>/*.png", fix=f"ls {root.resolve().parent}")
    import_package("PIL", spec, "pillow")
    notes = [f"images: short side to {options['size']}, centre cut out, normalize={options['normalize']}"]
    if (root / "train").is_dir():
        found = {"train": root / "train", "test": root / "test"}
        found["validation"] = next((root / part for part in _VALIDATION if (root / part).is_dir()), root / "validation")
        classes = _classes(found["train"], spec)
        rows = {split: _rows(path, classes, spec) for split, path in found.items() if path.is_dir()}
    else:
        classes = _classes(root, spec)
        every = _rows(root, classes, spec)
        chosen = stratified([label for _, label in every])
        rows = {split: [every[index] for index in indices] for split, indices in chosen.items()}
        notes.append("the folder has no train/: images are divided 60/20/20 per class, with a fixed seed")
    loaders = {split: loader(ImageRows([(_Open(path), label) for path, label in own], options), options["batch"],
                             shuffle=split == "train") for split, own in rows.items() if own}
    return loaders, tuple(notes)


def stratified(labels: list[int]) -> dict[str, list[int]]:
    """Rows of train, validation and test: 60/20/20 within every class, at least one for training; seeded, disjoint."""
    generator = torch.Generator().manual_seed(0)
    chosen: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for label in sorted(set(labels)):
        own = [row for row, other in enumerate(labels) if other == label]
        own = [own[index] for index in torch.randperm(len(own), generator=generator).tolist()]
        fifth = max(round(len(own) / 5), 1 if len(own) >= 3 else 0)
        chosen["test"] += own[:fifth]
        chosen["validation"] += own[fifth:2 * fifth]
        chosen["train"] += own[2 * fifth:]
    return {split: sorted(rows) for split, rows in chosen.items()}


class _Open:
    """Reads one image file when called."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self) -> Any:
        from PIL import Image

        try:
            with Image.open(self.path) as image:
                return image.convert("RGB")
        except OSError as error:
            raise TaskError("the image cannot be read", given=f"{self.path}: {error}", fix=f"rm {self.path}") from error


def _classes(folder: Path, spec: str) -> list[str]:
    names = sorted(item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))
    if len(names) < 2:
        raise TaskError("the folder needs a sub-folder per class, at least 2", given=f"{spec} → {folder}: {names}",
                        allowed="PATH/train/<class>/*.png or PATH/<class>/*.png", fix=f"ls {folder}")
    return names


def _rows(folder: Path, classes: list[str], spec: str) -> list[tuple[Path, int]]:
    own = _classes(folder, spec)
    if strange := sorted(set(own) - set(classes)):
        raise TaskError("the splits have different classes", given=f"{folder}: {', '.join(strange)}",
                        allowed=", ".join(classes), fix="use the same class folders as in train/")
    rows = [(path, label) for label, name in enumerate(classes)
            for path in sorted((folder / name).rglob("*")) if path.suffix.lower() in SUFFIXES]
    if not rows:
        raise TaskError("the folder holds no images", given=f"{spec} → {folder}", allowed=", ".join(SUFFIXES),
                        fix=f"ls {folder / classes[0]}")
    return rows
