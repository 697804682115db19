"""Three small nets and their data, made offline: digits, glyphs of many fonts, characters of Python sources.

Their dense nets, trained once, are in `NETS`.
"""

from __future__ import annotations

import string
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from autoprune.recover.finetune import FineTune, examples, finetune
from autoprune.tasks.batches import TensorBatches
from autoprune.tasks.digits import DigitsNet, example_tensors
from autoprune.tasks.task import Task

sys.path.insert(0, str(Path(__file__).parents[1]))
from methods import characters

__all__ = ["NETS", "TASKS", "trained"]

NETS = Path(__file__).parents[1] / "data" / "search_real"

CLASSES = string.digits + string.ascii_letters
_FONTS = 24  # of those that have all the classes; every fifth is seen in the test only


class MobileNet(nn.Module):
    """Inverted residual blocks (Sandler et al. 2018) for 1×32×32 images."""

    def __init__(self, classes: int, widths: tuple[int, ...] = (16, 24, 40, 64), blocks: int = 2, expand: int = 4):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU6())
        layers, before = [], widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                layers.append(Inverted(before, width, expand * before, 2 if stage and not block else 1))
                before = width
        self.body, self.head = nn.Sequential(*layers), nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(self.stem(x)).mean((2, 3)))
        return logits


class Inverted(nn.Module):
    def __init__(self, before: int, after: int, inner: int, stride: int):
        super().__init__()
        self.residual = stride == 1 and before == after
        self.layers = nn.Sequential(
            nn.Conv2d(before, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(),
            nn.Conv2d(inner, after, 1, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


@cache
def glyphs() -> tuple[Tensor, Tensor, Tensor]:
    """Every class in every font: images [fonts · classes, 1, 48, 48] in [0, 1], labels, and the font of each."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    files = [f for f in sorted(folder.glob("*.ttf"))
             if not any(part in f.stem for part in ("Siz", "NonUni", "LastResort", "Display", "cmex", "cmsy", "cmmi"))]
    images, labels, fonts = [], [], []
    for number, file in enumerate(files[:_FONTS]):
        font = ImageFont.truetype(str(file), 30)
        for label, letter in enumerate(CLASSES):
            image = Image.new("L", (48, 48))
            ImageDraw.Draw(image).text((24, 24), letter, fill=255, font=font, anchor="mm")
            images.append(np.asarray(image, np.float32) / 255)
            labels.append(label)
            fonts.append(number)
    return torch.tensor(np.array(images))[:, None], torch.tensor(labels), torch.tensor(fonts)


def seen_through(images: Tensor, seed: int) -> Tensor:
    """Turned, scaled, sheared, shifted, with parts of other glyphs and noise: [N, 1, 32, 32], about standardised."""
    random = torch.Generator().manual_seed(seed)
    count = len(images)

    def draw(spread: float) -> Tensor:
        return spread * (2 * torch.rand(count, generator=random) - 1)
    angle, size, shear = draw(0.35), 1 + draw(0.25), draw(0.25)
    cos, sin = angle.cos() / size, angle.sin() / size
    matrix = torch.stack([cos, sin + shear, draw(0.15), -sin, cos, draw(0.15)], 1).reshape(count, 2, 3)
    grid = F.affine_grid(matrix, [count, 1, 32, 32], align_corners=False)
    out = F.grid_sample(images, grid, align_corners=False)
    other = out[torch.randperm(count, generator=random)].roll(20, 3)  # clutter from one side
    out = (out + 0.5 * other).clamp(0, 1) * (0.6 + 0.4 * torch.rand(count, 1, 1, 1, generator=random))
    return (out + 0.15 * torch.randn(out.shape, generator=random) - 0.12) / 0.3


def glyph_task() -> Task:
    images, labels, fonts = glyphs()
    views = {"train": (6, fonts % 5 != 0), "validation": (2, fonts % 5 != 0), "test": (4, fonts % 5 == 0)}
    parts = {}
    for number, (name, (count, rows)) in enumerate(views.items()):
        data = torch.cat([seen_through(images[rows], 100 * number + view) for view in range(count)])
        parts[name] = TensorBatches(data, labels[rows].repeat(count), 64, shuffle=name == "train")
    return Task(MobileNet(len(CLASSES)), **parts, name="glyphs")


def digit_task() -> Task:
    parts = {name: TensorBatches(*tensors, batch_size=64, shuffle=name == "train")
             for name, tensors in example_tensors().items()}
    return Task(DigitsNet((16, 32, 64), (2, 2, 2)), **parts, name="digits")


TASKS: dict[str, tuple[Callable[[], Task], int]] = {  # and the steps that the dense net is trained for
    "digits": (digit_task, 400), "glyphs": (glyph_task, 1500), "characters": (lambda: characters(4, (8, 1)), 1500)}


def trained(name: str) -> Task:
    """The task with its dense net: read from `NETS`; trained (a minute) and written there if it is missing."""
    torch.manual_seed(0)
    make, steps = TASKS[name]
    task = make()
    path = NETS / f"{name}.safetensors"
    if path.is_file():
        task.model.load_state_dict(load_file(path))
        return task
    data = [e for _ in range(4) for e in examples(task, task.model, task.split("train"), 512)]  # four orders
    finetune(task.model, task, data, FineTune(steps=steps, lr=3e-3, distill=0.0, precision="fp32"))
    NETS.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in task.model.state_dict().items()}, path)
    return task
