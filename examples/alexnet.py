"""A net of AlexNet's type whose filters are cut by their norm, to 35 % fewer multiply-adds and 16 % fewer parameters.

`python examples/alexnet.py` (62 letters and digits drawn by Pillow, offline), or the same recipe on CIFAR-100:
`python examples/alexnet.py --data 'torchvision:CIFAR100?size=48&channels=1&batch=64&normalize=half'`.

For each seed: train from random weights; keep the same share of the filters of every convolution, those of the largest
L2 norm (after Li et al. 2017, arXiv:1608.08710); refit the layers that read them and fine-tune with the dense net as
the teacher. The share is the largest that meets both cuts, by counting alone. A run chooses nothing by the test split,
which is read for the dense net and for the pruned one, for top-1 and for top-5 each.
"""

from __future__ import annotations

import string
from typing import Any

import torch
import torch.nn.functional as F
from common import (
    Row,
    batches,
    cut_of,
    options,
    plain_batches,
    points,
    recovered,
    run_seeds,
    say,
    sizes,
    spread,
    write,
)
from torch import Tensor, nn

import autoprune
from autoprune.graph.plan import aligned
from autoprune.nas.oracle import to_onnx_bytes
from autoprune.recover.finetune import FineTune, finetune
from autoprune.tasks.batches import TensorBatches
from autoprune.tasks.data import Loaders, load_data

GLYPHS = "glyphs"
CLASSES = string.digits + string.ascii_letters
COUNTS = {"train": 24_000, "validation": 4_000, "test": 8_000}
MACS_CUT, PARAMS_CUT = 0.35, 0.16
ALIGN = 16  # filters that stay: a multiple of what kernels work in, or fewer multiply-adds are no less time
BATCHES = 750  # that are kept in memory: two passes over the 24,000 images


def alexnet(channels: int = 1, classes: int = len(CLASSES)) -> nn.Module:
    """AlexNet's order of layers (Krizhevsky et al. 2012) for images `[N, channels, 48, 48]`: 777,230 parameters with
    one channel and 62 classes. Without local response normalisation. Weights begin as He et al. 2015 have it: from
    torch's own beginning one of the first two seeds never left chance.
    """
    net = nn.Sequential(
        nn.Conv2d(channels, 24, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(24, 64, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 96, 3, 1, 1), nn.ReLU(), nn.Conv2d(96, 64, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(0.3), nn.Linear(576, 512), nn.ReLU(), nn.Dropout(0.3), nn.Linear(512, 512), nn.ReLU(),
        nn.Linear(512, classes))
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return net


def shapes() -> Tensor:
    """The 62 characters, white on black, `[62, 1, 64, 64]`, in the font that comes with Pillow."""
    from PIL import Image, ImageDraw, ImageFont

    font, out = ImageFont.load_default(44), []
    for character in CLASSES:
        image = Image.new("L", (64, 64))
        ImageDraw.Draw(image).text((32, 32), character, fill=255, font=font, anchor="mm")
        out.append(torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(1, 64, 64) / 255)
    return torch.stack(out)


def placed(images: Tensor, g: torch.Generator, scale: tuple[float, float], turn: float, shift: float) -> Tensor:
    """`[N, 1, 48, 48]`: each image turned by at most `turn` radians, sheared, scaled and shifted (1 is half a side)."""
    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(images), generator=g)

    angle, size, shear = between(-turn, turn), between(*scale), between(-0.3, 0.3)
    rows = [torch.stack([angle.cos() / size, (shear - angle.sin()) / size, between(-shift, shift)], 1),
            torch.stack([angle.sin() / size, angle.cos() / size, between(-shift, shift)], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), [len(images), 1, 48, 48], align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def drawn(masters: Tensor, count: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images `[count, 1, 48, 48]` and their classes: a character over scraps of others, of any contrast, noisy."""
    labels = torch.randint(0, len(CLASSES), (count,), generator=g)
    image = placed(masters[labels], g, (0.7, 1.2), 0.35, 0.25)
    for _ in range(3):
        scrap = placed(masters[torch.randint(0, len(CLASSES), (count,), generator=g)], g, (0.3, 0.6), 3.1, 1.6)
        image = torch.maximum(image, scrap * torch.rand(count, 1, 1, 1, generator=g))
    contrast = 0.4 + 0.6 * torch.rand(count, 1, 1, 1, generator=g)
    return (contrast * image - 0.1 + 0.15 * torch.randn(image.shape, generator=g)) / 0.2, labels


def glyphs(counts: dict[str, int] | None = None) -> Loaders:
    """The splits, drawn with a fixed seed, at most 1,000 images at a time."""
    generator, masters, parts = torch.Generator().manual_seed(0), shapes(), {}
    for split, count in (counts or COUNTS).items():
        drawings = [drawn(masters, min(1000, count - i), generator) for i in range(0, count, 1000)]
        images, labels = (torch.cat(x) for x in zip(*drawings, strict=True))
        parts[split] = TensorBatches(images, labels, batch_size=64, shuffle=split == "train")
    return Loaders(**parts)


def tasks(spec: str, seed: int) -> dict[str, autoprune.Task]:
    """The same net and data scored by top-5 and by top-1; the net has the channels and classes of the data."""
    data = glyphs() if spec == GLYPHS else load_data(spec)
    seen = [(x.shape[1], int(y.max())) for x, y in data.train]
    torch.manual_seed(seed)
    net = alexnet(seen[0][0], 1 + max(label for _, label in seen))
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    return {"top5": autoprune.Task(net, **splits, metric="top5"), "top1": autoprune.Task(net, **splits)}


def plan_of(graph: autoprune.Graph) -> autoprune.Plan:
    """The same share of the filters of every convolution, rounded to multiples of ALIGN: the largest, in whole per
    cents, that meets both cuts.
    """
    filters = [name for name, group in graph.groups.items() if group.kind == "channels"]
    dense = sizes(graph.dense(), graph.example_inputs)
    for keep in range(99, 0, -1):
        counts = {n: aligned(keep / 100 * graph.groups[n].size, graph.groups[n].size, ALIGN) for n in filters}
        plan = autoprune.Plan.of(graph, counts, "l2")
        row = {"dense": dense, "pruned": sizes(graph.cut(plan), graph.example_inputs)}
        if cut_of(row, "macs") >= 100 * MACS_CUT and cut_of(row, "params") >= 100 * PARAMS_CUT:
            return plan
    raise ValueError("no share of the filters meets both cuts")


def run(spec: str, seed: int, steps: int) -> Row:
    both = tasks(spec, seed)
    task, net = both["top5"], both["top5"].model
    finetune(net, task, plain_batches(task, min(BATCHES, 10 * steps)),
             FineTune(steps=10 * steps, lr=2e-3, distill=0.0), seed)
    graph = autoprune.trace(net, task.example_inputs)
    plan = plan_of(graph)
    model = recovered(task, graph, plan, batches(task, net, steps), FineTune(steps=steps, lr=5e-4), seed)
    row: Row = {"kept": {name: [cut.keep, graph.groups[name].size] for name, cut in plan.cuts.items()}}
    for name, found in (("dense", net), ("pruned", model)):
        row[name] = {metric: both[metric].evaluate(found, "test").to_json() for metric in both}
        row[name] |= sizes(found, task.example_inputs)
    return row | {"latency": timed(net, model, task.example_inputs)}


def timed(dense: nn.Module, pruned: nn.Module, inputs: Any) -> dict[str, Any]:
    """Latencies in ms of one image in onnxruntime on this machine, one thread, in turns, and their ratio."""
    with autoprune.LatencyOracle("cpu", threads=1) as oracle:
        found = oracle.compare(to_onnx_bytes(pruned, inputs), to_onnx_bytes(dense, inputs))
    return {"dense_ms": found.reference.ms, "pruned_ms": found.latency.ms, "ratio": found.ratio, "lo": found.lo,
            "hi": found.hi}


def line(row: Row) -> str:
    top = [f"{k} {row['dense'][k]['value']:.2%} → {row['pruned'][k]['value']:.2%}" for k in ("top5", "top1")]
    return (f"{', '.join(top)}; multiply-adds {row['dense']['macs']:,} → {row['pruned']['macs']:,} "
            f"(−{cut_of(row, 'macs'):.1f} %), parameters {row['dense']['params']:,} → {row['pruned']['params']:,} "
            f"(−{cut_of(row, 'params'):.1f} %), latency {row['latency']['ratio']:.2f}x")


def main() -> None:
    parser = options(__doc__, 200, "of recovery; the dense net gets ten times as many")
    parser.add_argument("--data", default=GLYPHS)
    args = parser.parse_args()
    rows, elapsed_s = run_seeds(args, lambda seed: run(args.data, seed, args.steps), line)
    change = {m: points((row["dense"][m], row["pruned"][m]) for row in rows) for m in ("top5", "top1")}
    for metric, found in change.items():
        say(f"change of {metric} on the test split", found, len(rows))
    ratio = spread([row["latency"]["ratio"] for row in rows])
    print(f"latency of the pruned net over the dense one's: {ratio[0]:.3f}, standard deviation {ratio[1]:.3f}")
    write(args.out, {"data": args.data, "steps": args.steps, "elapsed_s": elapsed_s,
                     **{f"mean_change_points_{m}": c[0] for m, c in change.items()},
                     **{f"stdev_change_points_{m}": c[1] for m, c in change.items()},
                     "mean_latency_ratio": ratio[0], "stdev_latency_ratio": ratio[1], "runs": rows})


if __name__ == "__main__":
    main()
