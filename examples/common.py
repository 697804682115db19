"""What the examples share: batches, training, cutting and recovering, the loop over seeds, the JSON with the results.

Imported by the files beside it (`python examples/NAME.py` puts this folder on the path), no example of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import autoprune
from autoprune.graph.macs import count
from autoprune.methods.collect import collect
from autoprune.methods.registry import criterion
from autoprune.recover.finetune import Example, FineTune, examples, finetune
from autoprune.tasks.batches import TensorBatches

Row = dict[str, Any]
Splits = Mapping[str, tuple[Tensor, Tensor]]
PACKAGES = ("asyncio", "concurrent", "ctypes", "email", "http", "importlib", "json", "logging", "multiprocessing",
            "unittest", "urllib", "xml")  # without tkinter and idlelib, which some systems leave out
WORDS, WINDOW = 2_000, 32


def at_least_one(text: str) -> int:
    """A whole number from 1 on, of a command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def options(text: str | None, steps: int, steps_help: str) -> argparse.ArgumentParser:
    """A command line with what every example takes."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=at_least_one, default=3)
    parser.add_argument("--steps", type=int, default=steps, help=steps_help)
    parser.add_argument("--threads", type=at_least_one, default=1)
    parser.add_argument("--out", type=Path, help="also write the results as JSON")
    return parser


def batches(task: autoprune.Task, teacher: nn.Module, wanted: int) -> list[Example]:
    """`wanted` batches of as many passes over the training data as that takes, with the teacher's outputs."""
    out: list[Example] = []
    while len(out) < wanted:
        out += examples(task, teacher, task.split("train"), wanted - len(out))
    return out


def plain_batches(task: autoprune.Task, wanted: int) -> list[Example]:
    """The same without a teacher: to train a net from random weights."""
    out: list[Example] = []
    while len(out) < wanted:
        out += [Example(x, y, None) for x, y in islice(task.split("train"), wanted - len(out))]
    return out


def recovered(task: autoprune.Task, graph: autoprune.Graph, plan: autoprune.Plan, data: list[Example], tune: FineTune,
              seed: int) -> autoprune.PrunedModule:
    """The model that `plan` leaves: units chosen, the layers that read them refitted, fine-tuned on `data`.

    Refitting and methods that look at data see 8 batches of the training split.
    """
    needs = frozenset({"gram"}).union(*(criterion(cut.method).needs for cut in plan.cuts.values()))
    gathered = collect(graph, [(e.inputs, e.target) for e in data[:8]],
                       lambda model, x, y: task.loss(task.forward(model, x), y), needs=needs, seed=seed,
                       weights=tuple(graph.readers))
    model = graph.cut(plan, gathered, least_squares=True)
    finetune(model, task, data, tune, seed)
    return model


def words(package: str) -> list[list[str]]:
    """The words and signs of every file of a package, tests left out."""
    root = Path(sysconfig.get_paths()["stdlib"]) / package
    files = sorted(p for p in root.rglob("*.py") if not {"test", "tests", "idle_test"} & set(p.relative_to(root).parts))
    return [re.findall(r"\w+|[^\w\s]", p.read_text(encoding="utf-8", errors="replace")) for p in files]


def windows() -> Splits:
    """Word numbers `[N, 32]` (0: none of the most frequent) and packages `[N]` by split.

    Of every file the first 70 % train, the next 10 % validate, the last 20 % test; words are counted in the training
    part only.
    """
    parts: dict[str, list[tuple[list[str], int]]] = {"train": [], "validation": [], "test": []}
    for label, package in enumerate(PACKAGES):
        for text in words(package):
            cuts = [0, int(0.7 * len(text)), int(0.8 * len(text)), len(text)]
            for split, start, end in zip(parts, cuts, cuts[1:], strict=False):
                parts[split] += [(text[i : i + WINDOW], label) for i in range(start, end - WINDOW + 1, WINDOW)]
    known = Counter(w for row, _ in parts["train"] for w in row).most_common(WORDS - 1)
    number = {w: i for i, (w, _) in enumerate(known, 1)}
    return {split: (torch.tensor([[number.get(w, 0) for w in row] for row, _ in rows]),
                    torch.tensor([label for _, label in rows])) for split, rows in parts.items()}


def package_task(net: nn.Module, rows: Splits, key: str | None = None) -> autoprune.Task:
    """Tell the package of a window. key: the name that the net's forward gives the words, None for its first argument.
    """
    parts = {split: TensorBatches(ids, labels, batch_size=64, shuffle=split == "train")
             for split, (ids, labels) in rows.items()}
    example = rows["train"][0][:1]
    return autoprune.Task(net, **parts, example_inputs=(example,) if key is None else {key: example}, name="package")


def sizes(model: nn.Module, inputs: Any) -> dict[str, int]:
    """`macs`, multiply-adds of one example, and `params`."""
    found = count(model, inputs)
    return {"macs": found.macs, "params": found.params}


def cut_of(row: Mapping[str, Any], what: str) -> float:
    """The share of `what` (macs, params) that is gone, in per cent."""
    return 100 * (1 - row["pruned"][what] / row["dense"][what])


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (0 of a single value)."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def points(scores: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> tuple[float, float]:
    """Mean and standard deviation of the change in percentage points, of pairs of scores before and after."""
    return spread([100 * (after["value"] - before["value"]) for before, after in scores])


def say(what: str, change: tuple[float, float], seeds: int) -> None:
    """Print a mean change in points and its standard deviation."""
    print(f"{what}: {change[0]:+.2f} points, standard deviation over {seeds} seeds {change[1]:.2f}")


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, load, and versions."""
    return {"processor": platform.processor() or platform.machine(), "cores": len(os.sched_getaffinity(0)),
            "load_average_1min": round(os.getloadavg()[0], 2), "python": platform.python_version(),
            **{p: metadata.version(p) for p in ("torch", "scikit-learn", "autoprune")}}


def run_seeds(args: argparse.Namespace, run: Callable[[int], Row], line: Callable[[Row], str]
              ) -> tuple[list[Row], float]:
    """`run` for seeds 0, 1, …, each with its printed line; also the seconds that took."""
    torch.set_num_threads(args.threads)
    started, rows = time.perf_counter(), []
    for seed in range(args.seeds):
        rows.append({"seed": seed, **run(seed)})
        print(f"seed {seed}: {line(rows[-1])}", flush=True)
    return rows, round(time.perf_counter() - started, 1)


def write(path: Path | None, results: Mapping[str, Any]) -> None:
    """The results as JSON with the machine's facts first; nothing without a path."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(), **results}, indent=1) + "\n", encoding="utf-8")


def halved(task: autoprune.Task, plan_of: Callable[[autoprune.Graph], autoprune.Plan], dense: FineTune, tune: FineTune,
           sizes_of: Callable[[Any, Any], Mapping[str, int]], seed: int) -> Row:
    """Train the task's net from its random weights, cut it by `plan_of`, recover it; both read the test split."""
    net = task.model
    finetune(net, task, plain_batches(task, dense.steps), dense, seed)
    graph = autoprune.trace(net, task.example_inputs)
    plan = plan_of(graph)
    model = recovered(task, graph, plan, batches(task, net, tune.steps), tune, seed)
    row: Row = {"kept": {name: [cut.keep, graph.groups[name].size] for name, cut in plan.cuts.items()}}
    for name, found in (("dense", graph.dense()), ("pruned", model)):
        row[name] = {"accuracy": task.evaluate(found, "test").to_json(), **sizes_of(found, task.example_inputs)}
    return row


def tell_packages(parser: argparse.ArgumentParser, run: Callable[[Splits, int, int], Row], line: Callable[[Row], str]
                  ) -> None:
    """Run an example on `windows`: `run(windows, seed, steps)` for each seed, its scores called accuracy."""
    args = parser.parse_args()
    data = windows()
    rows, elapsed_s = run_seeds(args, lambda seed: run(data, seed, args.steps), line)
    change = points((row["dense"]["accuracy"], row["pruned"]["accuracy"]) for row in rows)
    say("change of accuracy on the test split", change, len(rows))
    write(args.out, {"windows": {split: len(labels) for split, (_, labels) in data.items()}, "steps": args.steps,
                     "elapsed_s": elapsed_s, "mean_change_points": change[0], "stdev_change_points": change[1],
                     "runs": rows})
