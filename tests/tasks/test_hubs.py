"""Data of torchvision and of the hub, against small stand-ins for the packages: no test downloads."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from autoprune.errors import TaskError
from autoprune.tasks.data import load_data

Image = pytest.importorskip("PIL.Image")


class FakeCifar:
    def __init__(self, root: str, train: bool, download: bool) -> None:
        if "offline" in root:
            raise OSError("no route to host")
        self.targets = [0, 1] * (10 if train else 3)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        return Image.new("RGB", (8, 8), (index, 0, 0)), self.targets[index]


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    package: Any = ModuleType("torchvision")
    package.datasets = ModuleType("torchvision.datasets")
    package.datasets.CIFAR10 = FakeCifar
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", package.datasets)


@pytest.mark.usefixtures("torchvision")
def test_torchvision_parts_are_disjoint() -> None:
    loaders = load_data("torchvision:CIFAR10?size=8&batch=4&normalize=none")
    seen = [sorted(round(float(x[0, 0, 0]) * 255) for images, _ in part for x in images)
            for part in (loaders.train, loaders.validation, loaders.test)]
    assert [len(part) for part in seen] == [16, 4, 6]
    assert sorted(seen[0] + seen[1]) == list(range(20))
    assert "a fifth" in loaders.notes[0]


@pytest.mark.usefixtures("torchvision")
def test_torchvision_errors() -> None:
    with pytest.raises(TaskError, match="no route to host"):
        load_data("torchvision:CIFAR10?root=offline")
    with pytest.raises(TaskError, match="did you mean 'CIFAR10'"):
        load_data("torchvision:CIFAR11")


@pytest.mark.parametrize(("spec", "package"), [("torchvision:CIFAR10", "torchvision"), ("hf:cifar10", "datasets")])
def test_a_missing_package_names_the_command(spec: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]  # makes import raise
    monkeypatch.delitem(sys.modules, "torchvision.datasets", raising=False)
    with pytest.raises(TaskError, match="is not installed") as caught:
        load_data(spec)
    assert caught.value.fix == f"pip install {package}"


class FakeRows(list[dict[str, Any]]):
    @property
    def column_names(self) -> list[str]:
        return list(self[0])


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, config: str | None) -> dict[str, FakeRows]:
        if name == "offline":
            raise ConnectionError("no route to host")
        if name == "images":
            rows = FakeRows({"img": Image.new("RGB", (8, 8), (index, 0, 0)), "label": index % 2} for index in range(6))
        else:
            rows = FakeRows({"sentence": "one two", "label": index % 2} for index in range(6))
        return {"test": rows} if config == "strange" else {"train": rows, "test": rows}

    fake: Any = ModuleType("datasets")
    fake.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", fake)


@pytest.mark.usefixtures("datasets")
def test_images_of_the_hub() -> None:
    loaders = load_data("hf:images?size=4&batch=3")
    images, labels = next(iter(loaders.test))
    assert images.shape == (3, 3, 4, 4)
    assert labels.tolist() == [0, 1, 0]
    assert loaders.validation is None
    assert "'img'" in loaders.notes[0]


@pytest.mark.usefixtures("datasets")
def test_text_of_the_hub_is_tokenised_for_the_model(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "two"]))
    transformers.BertConfig(vocab_size=7).save_pretrained(tmp_path)
    transformers.BertTokenizer(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    loaders = load_data("hf:texts?length=6&batch=2", f"hf:{tmp_path}")
    inputs, labels = next(iter(loaders.test))
    assert inputs["input_ids"].tolist() == [[2, 5, 6, 3, 0, 0]] * 2
    assert torch.equal(labels, torch.tensor([0, 1]))


@pytest.mark.usefixtures("datasets")
@pytest.mark.parametrize(("spec", "match"), [
    ("hf:offline", "no route to host"), ("hf:images?config=strange", "no split called train"),
    ("hf:images?label=lable", "did you mean 'label'"), ("hf:images?image=picture", "no column 'picture'"),
    ("hf:texts", "needs the tokenizer of the model")])
def test_errors_of_the_hub(spec: str, match: str) -> None:
    with pytest.raises(TaskError, match=match):
        load_data(spec, "timm:resnet18")
