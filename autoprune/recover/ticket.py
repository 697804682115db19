"""The lottery ticket: train a little, train on, prune, go back, train again; against masks and weights by chance."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from autoprune.errors import ConfigError
from autoprune.files import save_tensors, writing
from autoprune.graph.graph import Graph
from autoprune.graph.module import PrunedModule
from autoprune.methods.masks.apply import Masks
from autoprune.methods.masks.choose import choose_masks
from autoprune.methods.masks.patterns import parse_pattern
from autoprune.methods.masks.weights import find_maskable
from autoprune.recover.finetune import Example, FineTune, Trainable, finetune
from autoprune.recover.sparsify import Recipe, Sparsifier
from autoprune.recover.start import reinitialise

__all__ = ["Checkpoints", "Ticket"]

Tensors = dict[str, torch.Tensor]


class Checkpoints:
    """A folder of tensors by name, each written once; what is there is not made again.

    The folder belongs to one configuration: `ConfigError` when it was begun with another, when it holds tensors without
    being a ticket's, and where a file is damaged. With `fresh`, what earlier runs left is removed.
    """

    def __init__(self, folder: str | os.PathLike[str], configuration: Mapping[str, Any], *, fresh: bool = False):
        self.path = Path(folder)
        file = self.path / "ticket.json"
        with writing("the ticket's folder", self.path, fix="--run with a folder you may write to"):
            self.path.mkdir(parents=True, exist_ok=True)
            there = sorted(self.path.glob("*.safetensors"))
            if there and not file.is_file():
                raise ConfigError("this folder is not a ticket's: it has no ticket.json, but tensors of yours",
                                  given=", ".join(f.name for f in there)[:300], fix="--run with a folder of its own")
            for old in [*there, file] if fresh else ():
                old.unlink(missing_ok=True)
            text = json.dumps(dict(configuration), indent=1, sort_keys=True)
            if file.is_file() and file.read_text(encoding="utf-8") != text:
                raise ConfigError("the folder holds a ticket with other settings", given=_changed(file, text),
                                  allowed="the same settings, to go on", fix="--fresh, or --run with another folder")
            file.write_text(text, encoding="utf-8")

    def get(self, name: str, make: Callable[[], Tensors]) -> Tensors:
        """The tensors called `name`; made and written when they are not there yet."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        file = self.path / f"{name}.safetensors"
        if not file.is_file():
            save_tensors(file, make())
        try:
            found: Tensors = load_file(str(file))
        except SafetensorError as error:
            raise ConfigError("tensors of the ticket are damaged", given=f"{file}: {error}",
                              fix=f"remove {file.name}: it is made again; or --fresh") from error
        return found


def _changed(file: Path, text: str) -> str:
    """What differs between the settings in a file and those of a text."""
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return f"{file} cannot be read"
    return "; ".join(f"{k}: {before.get(k)} → {v}" for k, v in json.loads(text).items() if before.get(k) != v)[:300]


@dataclass(frozen=True)
class Ticket:
    """Finding a ticket and what it is compared with (Frankle & Carbin 2019, arXiv:1803.03635; rewinding to an early
    step instead of the first: Frankle et al. 2020, arXiv:1912.05671).

    recipe: iterative, its cuts are the cycles. settings: of every training from the early weights to the end;
    early_steps: of those before. scratch: begin from random weights instead of the model's own. Costs as many trainings
    as there are cycles, and three more.
    """

    graph: Graph
    task: Trainable
    data: list[Example]
    recipe: Recipe
    settings: FineTune
    early_steps: int
    scratch: bool = True
    seed: int = 0

    def models(self, stored: Checkpoints, say: Callable[[str], None]) -> dict[str, PrunedModule]:
        """The trained models by name: dense; ticket; random mask, early weights; ticket's mask, random weights.

        Interrupted, the same call again goes on after the last training that was finished.
        """
        wanted = self.recipe.masks(self.graph)
        weights = {n: w for n, w in find_maskable(self.graph).items() if n in wanted}
        early = stored.get("early", lambda: self._early(say))
        out = {"dense": self._model(stored.get("dense", lambda: self._train(early, None, say, "dense")))}
        tensors = out["dense"].tensors()
        for cycle in range(1, self.recipe.schedule.cuts + 1):
            tensors = stored.get(f"ticket-{cycle:02d}", partial(self._cycle, tensors, early, cycle, say))
        out["ticket"] = self._model(tensors)
        masks = {n: tensors[n] != 0 for n in weights}
        pattern = parse_pattern(self.recipe.pattern)
        generator = torch.Generator().manual_seed(self.seed)
        chance = {n: choose_masks({n: torch.rand(m.shape, generator=generator)}, weights, pattern,
                                  float(m.double().mean()))[n] for n, m in masks.items()}
        out["random mask"] = self._model(stored.get("random-mask", lambda: self._train(
            early, chance, say, "a random mask of equal size")))
        out["random weights"] = self._model(stored.get("random-weights", lambda: self._train(
            self._random(self.seed + 1), masks, say, "the ticket's mask with random weights")))
        return out

    def _early(self, say: Callable[[str], None]) -> Tensors:
        say(f"training {self.early_steps} steps: the weights to go back to")
        model = self._model(self._random(self.seed)) if self.scratch else self.graph.dense()
        finetune(model, self.task, self.data, replace(self.settings, steps=self.early_steps), self.seed)
        return model.tensors()

    def _random(self, seed: int) -> Tensors:
        model = self.graph.dense()
        reinitialise(self.graph, model, seed)
        return model.tensors()

    def _train(self, start: Tensors, masks: Tensors | None, say: Callable[[str], None], what: str) -> Tensors:
        say(f"training {what}")
        model = self._model(start)
        held = Masks(model, list(masks or {}))
        held.set(masks or {})
        finetune(model, self.task, self.data, self.settings, self.seed)
        held.make_permanent()
        return model.tensors()

    def _cycle(self, before: Tensors, early: Tensors, cycle: int, say: Callable[[str], None]) -> Tensors:
        model = self._model(before)
        run = Sparsifier.of(self.recipe, model, self.graph, self.task, self.data, self.seed)
        if cycle > 1:
            run.masks.set({n: before[n] != 0 for n in run.weights})
        kept = run.cut(cycle)
        say(f"cycle {cycle} of {self.recipe.schedule.cuts}: {kept:.1%} of the weights stay; back, and training again")
        run.masks.load(early)
        finetune(model, self.task, self.data, self.settings, self.seed)
        run.masks.make_permanent()
        return model.tensors()

    def _model(self, tensors: Mapping[str, torch.Tensor]) -> PrunedModule:
        model = self.graph.dense()
        with torch.no_grad():
            for name, tensor in model.tensors().items():
                tensor.copy_(tensors[name])
        return model
