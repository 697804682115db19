"""Data from `torchvision:NAME` and `hf:NAME`. Both packages are optional, and both may need the network once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from autoprune.errors import TaskError, did_you_mean, first_line
from autoprune.tasks.images import ImageRows, image_options, loader, stratified
from autoprune.tasks.models import import_package

__all__ = ["hf_splits", "torchvision_splits"]

_TORCHVISION = ("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST")
_HF_OPTIONS = {"config": None, "image": None, "label": None, "text": None, "length": 128}
Splits = tuple[dict[str, DataLoader[Any]], tuple[str, ...]]


def torchvision_splits(rest: str, spec: str) -> Splits:
    """Loaders of `torchvision:NAME[?size=32&batch=32&channels=3&normalize=imagenet&root=data]`, and notes.

    Downloaded into `root` on first use. The test part is test; a fifth of the training part, per class and with a
    fixed seed, is validation. `TaskError` when torchvision, the name or the network is missing.
    """
    name, options = image_options(rest, spec, {"size": 32, "root": "data"})
    if name not in _TORCHVISION:
        raise TaskError("unknown torchvision data", given=spec, allowed=did_you_mean(name, _TORCHVISION),
                        fix="--data torchvision:CIFAR10, or write loaders: --data path/file.py:loaders")
    datasets = import_package("torchvision.datasets", spec)
    root = str(Path(options["root"]).expanduser())
    try:
        train, test = (getattr(datasets, name)(root, train=part, download=True) for part in (True, False))
    except (OSError, RuntimeError) as error:
        raise TaskError("torchvision cannot download the data", given=f"{spec}\n           {first_line(error)}",
                        fix=f"check the network, or copy the files to {Path(root).resolve()}") from error
    chosen = stratified([int(label) for label in train.targets])
    rows = {"train": chosen["train"] + chosen["test"], "validation": chosen["validation"]}
    parts = {split: _Part(train, indices, options) for split, indices in rows.items()}
    parts["test"] = _Part(test, list(range(len(test))), options)
    note = f"{name}: a fifth of its training part is validation; normalize={options['normalize']}"
    return {split: loader(part, options["batch"], shuffle=split == "train") for split, part in parts.items()}, (note,)


class _Part(Dataset[tuple[Tensor, int]]):
    """Some rows of a data set of `(Pillow image, label)`."""

    def __init__(self, rows: Any, indices: list[int], options: dict[str, Any]) -> None:
        self.indices = indices
        self.images = ImageRows(_Lazy(rows), options)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[self.indices[index]]


class _Lazy(list[Any]):
    """Looks like the rows of `ImageRows`, but reads them when asked."""

    def __init__(self, rows: Any) -> None:
        super().__init__()
        self.rows = rows

    def __getitem__(self, index: Any) -> Any:
        image, label = self.rows[index]
        return (lambda: image), int(label)


def hf_splits(rest: str, spec: str, model_spec: str | None) -> Splits:
    """Loaders of `hf:NAME[?config=…&image=COLUMN&label=COLUMN&text=COLUMN&size=224&batch=32&length=128]`, and notes.

    Images when there is an image column, otherwise text, tokenised as the model `hf:ORG/NAME` asks for and padded to
    `length`. Splits "train", "validation" and "test" of the data set are used; a missing validation is held out of
    train by the task. `TaskError` when `datasets`, a column, or the network is missing.
    """
    name, options = image_options(rest, spec, _HF_OPTIONS)
    datasets = import_package("datasets", spec)
    try:
        data = datasets.load_dataset(name, options["config"])
    except Exception as error:  # the package raises its own classes, OSError, ValueError and requests' errors
        raise TaskError("the data set cannot be loaded", given=f"{spec}\n           {first_line(error)}",
                        fix=f"check the name and the network: hf download --repo-type dataset {name}") from error
    if "train" not in data:
        raise TaskError("the data set has no split called train", given=f"{spec} → {', '.join(data)}",
                        fix="write loaders: --data path/file.py:loaders")
    columns = list(data["train"].column_names)
    label = _column(options["label"], ("label", "labels", "fine_label", "target"), columns, spec, "label")
    image = _column(options["image"], ("image", "img", "pixel_values"), columns, spec, "image", optional=True)
    parts = {split: data[split] for split in ("train", "validation", "test") if split in data}
    if image is not None and options["text"] is None:
        made: dict[str, Dataset[Any]] = {split: _HubImages(rows, image, label, options)
                                         for split, rows in parts.items()}
        note = f"{name}: images from {image!r}, labels from {label!r}, normalize={options['normalize']}"
    else:
        text = _column(options["text"], ("text", "sentence", "content"), columns, spec, "text")
        tokenizer = _tokenizer(model_spec, spec)
        made = {split: _HubTexts(rows, str(text), label, tokenizer, options["length"]) for split, rows in parts.items()}
        note = f"{name}: text from {text!r}, labels from {label!r}, padded to {options['length']} tokens"
    return {split: loader(rows, options["batch"], shuffle=split == "train") for split, rows in made.items()}, (note,)


class _HubImages(Dataset[tuple[Tensor, int]]):
    def __init__(self, rows: Any, image: str, label: Any, options: dict[str, Any]) -> None:
        self.rows, self.image, self.label, self.options = rows, image, label, options

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row = self.rows[index]
        return ImageRows([(lambda: row[self.image], int(row[self.label]))], self.options)[0]


class _HubTexts(Dataset[tuple[dict[str, Tensor], int]]):
    def __init__(self, rows: Any, text: str, label: Any, tokenizer: Any, length: int) -> None:
        self.rows, self.text, self.label, self.tokenizer, self.length = rows, text, label, tokenizer, length

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], int]:
        row = self.rows[index]
        found = self.tokenizer(row[self.text], truncation=True, padding="max_length", max_length=self.length)
        return {key: torch.tensor(value) for key, value in found.items()}, int(row[self.label])


def _column(given: str | None, usual: tuple[str, ...], columns: list[str], spec: str, what: str,
            *, optional: bool = False) -> str | None:
    if given is not None and given not in columns:
        raise TaskError(f"the data set has no column {given!r}", given=spec, allowed=did_you_mean(given, columns),
                        fix=f"?{what}=COLUMN")
    found = given or next((name for name in usual if name in columns), None)
    if found is None and not optional:
        raise TaskError(f"the {what} column of the data set is not known", given=f"{spec} → {', '.join(columns)}",
                        allowed=", ".join(columns), fix=f"add ?{what}=COLUMN to the data SPEC")
    return found


def _tokenizer(model_spec: str | None, spec: str) -> Any:
    kind, _, rest = (model_spec or "").partition(":")
    if kind != "hf":
        raise TaskError("text needs the tokenizer of the model", given=f"--data {spec} --model {model_spec}",
                        allowed="--model hf:ORG/NAME", fix="write loaders: --data path/file.py:loaders")
    transformers = import_package("transformers", spec)
    name = rest.partition("?")[0]
    try:
        return transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise TaskError("the tokenizer cannot be loaded", given=f"{name}\n           {first_line(error)}",
                        fix=f"with a network connection: hf download {name}") from error
