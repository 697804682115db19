"""The built-in example: a residual CNN on scikit-learn's handwritten digits, shipped with its trained weights.

It shows the whole tool without a download. It is no claim about vision: 1797 images of 8×8 pixels, enlarged to 32×32 so
that the network is heavy enough (449 million multiply-adds) for a small board to need pruning. Every image is turned,
scaled, shifted and made noisy (fixed seeds, several views of each): undistorted, a net a tenth as large is as good, and
there would be nothing to choose. Writers appear in all three splits, so the accuracy says nothing about new writers.
`examples/train_digits.py` made the weights.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.errors import TaskError
from autoprune.files import save_tensors
from autoprune.tasks.batches import TensorBatches

if TYPE_CHECKING:
    from autoprune.tasks.task import Task

__all__ = ["WEIGHTS", "DigitsNet", "digits_batches", "digits_task", "digits_tensors", "distort", "example_tensors",
           "load_weights", "save_weights"]

WEIGHTS = Path(__file__).resolve().parent / "weights" / "digits.safetensors"
MEAN, STD = 0.3053, 0.3760  # of all 8×8 pixels scaled to 0…1
_SPLIT_SEED = 0
_VIEWS = {"train": 4, "validation": 2, "test": 2}


class _Block(nn.Module):
    """Two 3×3 convolutions beside an identity, or beside a strided 1×1 convolution where the shape changes."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False),
                                          nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu(self.norm1(self.conv1(x)))
        out: Tensor = self.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))
        return out


class DigitsNet(nn.Module):
    """A residual network for 1×32×32 images.

    x: [N, 1, H, W] float, H and W multiples of 4 (32 as trained) → logits [N, classes]. `widths` and `blocks` are
    channels and residual blocks per stage; every stage after the first halves the resolution. The defaults have 2.02 M
    parameters and 449 M multiply-adds at 32×32, most of them at 32×32 and 16×16 where small boards are slowest.
    """

    def __init__(self, widths: tuple[int, ...] = (48, 96, 192), blocks: tuple[int, ...] = (5, 4, 2),
                 classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]),
                                  nn.ReLU())
        stages, channels = [], widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            layers = []
            for index in range(count):
                layers.append(_Block(channels, width, 2 if stage > 0 and index == 0 else 1))
                channels = width
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.flatten(self.pool(self.stages(self.stem(x))), 1)
        out: Tensor = self.head(pooled)
        return out


def _split_rows(target: list[int]) -> dict[str, list[int]]:
    """Rows of each split, 60/20/20 within every class, in a fixed shuffled order."""
    import numpy as np

    # RandomState and not default_rng: numpy promises that its stream never changes between versions
    random = np.random.RandomState(_SPLIT_SEED)
    labels = np.asarray(target)
    rows: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for label in range(10):
        own = random.permutation(np.flatnonzero(labels == label)).tolist()
        fifth = round(len(own) / 5)
        rows["test"] += own[:fifth]
        rows["validation"] += own[fifth:2 * fifth]
        rows["train"] += own[2 * fifth:]
    return {split: random.permutation(own).tolist() for split, own in rows.items()}


@cache
def digits_tensors(size: int = 32) -> dict[str, tuple[Tensor, Tensor]]:
    """Split → (images [N, 1, size, size] float32, normalised; labels [N] int64). N: train 1079, the others 359.

    Bilinear enlargement of the 8×8 originals. Fixed, stratified, disjoint splits. The tensors are shared between calls:
    do not write into them. `TaskError` when `size` < 8 or scikit-learn is missing.
    """
    if size < 8:
        raise TaskError("digits are 8×8 images; the size must be at least 8", given=size, fix="sklearn:digits?size=32")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise TaskError("the digits need scikit-learn", given=error, fix="pip install scikit-learn") from error
    data = load_digits()
    images = torch.from_numpy(data.images).float().div_(16).unsqueeze(1)
    images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False).sub_(MEAN).div_(STD)
    labels = torch.from_numpy(data.target).long()
    return {split: (images[rows], labels[rows]) for split, rows in _split_rows(data.target.tolist()).items()}


def digits_batches(size: int = 32, batch_size: int = 32) -> dict[str, TensorBatches]:
    """Split → batches of `digits_tensors(size)`; train shuffled in batches of `batch_size`, the others in 120s."""
    return _batches(digits_tensors(size), batch_size)


def _batches(tensors: dict[str, tuple[Tensor, Tensor]], batch_size: int) -> dict[str, TensorBatches]:
    return {split: TensorBatches(*pair, batch_size if split == "train" else 120, shuffle=split == "train")
            for split, pair in tensors.items()}


def distort(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn by up to 20°, scale by 0.8–1.2, shift by up to 4 of 32 pixels, add noise of 0.3 standard deviations.

    images: [N, 1, H, W], normalised → the same shape, a new tensor. What comes in from outside is background.
    """
    count = len(images)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * 2 - 1

    angle, scale, shift = uniform(count) * math.radians(20), 1 + uniform(count) * 0.2, uniform(count, 2) * 0.25
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    theta = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    background = -MEAN / STD
    moved = F.grid_sample(images - background, grid, align_corners=False) + background
    return moved + 0.3 * torch.randn(moved.shape, generator=generator)


@cache
def example_tensors() -> dict[str, tuple[Tensor, Tensor]]:
    """Split → (images, labels) of the built-in example: `digits_tensors`, each image in several distorted views.

    N: train 4316 (four views of each image), validation and test 718 (two views). Do not write into them.
    """
    out = {}
    for seed, (split, (images, labels)) in enumerate(digits_tensors().items()):
        generator = torch.Generator().manual_seed(seed)
        views = _VIEWS[split]
        out[split] = torch.cat([distort(images, generator) for _ in range(views)]), labels.repeat(views)
    return out


def save_weights(model: nn.Module, path: Path = WEIGHTS) -> None:
    """Write a model's state as safetensors, floating point as float16 (half the size of the wheel)."""
    save_tensors(path, {n: t.half() if t.is_floating_point() else t for n, t in model.state_dict().items()})


def load_weights(model: nn.Module, path: Path = WEIGHTS) -> None:
    """Read what `save_weights` wrote into `model`, as float32, in place. `TaskError` when the file is missing."""
    from safetensors.torch import load_file

    if not path.is_file():
        raise TaskError("the weights of the built-in example are missing", given=path,
                        fix="pip install --force-reinstall autoprune, or run examples/train_digits.py")
    state = load_file(path)
    model.load_state_dict({name: value.float() if value.is_floating_point() else value
                           for name, value in state.items()})


def digits_task(metric: str | None = None, loss: str | None = None) -> Task:
    """The built-in example as a task: trained `DigitsNet`, `example_tensors` in batches of 32 and 120."""
    from autoprune.tasks.task import Task

    with torch.random.fork_rng(devices=[]):  # building layers draws numbers; the caller's stream stays as it was
        model = DigitsNet()
    load_weights(model)
    batches = _batches(example_tensors(), 32)
    return Task(model.eval(), train=batches["train"], validation=batches["validation"], test=batches["test"],
                metric=metric, loss=loss, name="digits example")
