"""The search space: which widths and which methods each group may take, and how candidates recover."""

from __future__ import annotations

import fnmatch
import math
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.errors import ConfigError, did_you_mean
from autoprune.graph.plan import Mask
from autoprune.resources import folder
from autoprune.search.space_problems import located, problems_of

if TYPE_CHECKING:
    from autoprune.devices.device import Device
    from autoprune.graph.graph import Graph
    from autoprune.graph.group import Group

__all__ = ["Choices", "Space", "list_spaces", "load_space", "space_for"]


@dataclass(frozen=True)
class Choices:
    """What one group may become: ascending widths (the last is its size) and method names; `left_out` are methods of
    the space that do not apply to the group.
    """

    widths: tuple[int, ...]
    methods: tuple[str, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Space:
    """A search space as written in a TOML file.

    precisions: what candidates may be deployed in, fp32 first; rankings: (scope, method) of rankings over several
    groups (`autoprune.methods.ranked`) whose plans at the budget are among the first candidates; masks: the pattern and
    sparsity of masks on single weights, the methods that the search chooses from, and the weights to skip; drop:
    patterns of the residual branches (`Graph.branches`) that candidates may do without; halving: of so many proposals
    of about one latency one is trained (`search/halving.py`), 1 trains all.
    """

    name: str
    description: str = ""
    methods: tuple[str, ...] = ("l1",)
    min_keep: float = 0.1
    precisions: tuple[str, ...] = ("fp32",)
    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    recover: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    masks: Mapping[str, Any] = field(default_factory=dict)
    trials: int = 32
    rankings: tuple[tuple[str, str], ...] = ()
    drop: tuple[str, ...] = ()
    halving: int = 1

    def with_methods(self, names: Sequence[str]) -> Space:
        """The same space with these methods in place of its own; rankings by others are left out.

        Raises `ConfigError` for a name that is no method. What a group's own rule names stays.
        """
        from autoprune.methods.registry import registered

        known = tuple(dict.fromkeys(registered(name) for name in names))
        return replace(self, methods=known, rankings=tuple(r for r in self.rankings if r[1] in known))

    def choices(self, graph: Graph, align: int) -> dict[str, Choices]:
        """Choices of every group that may change. Widths are such that the pruned axis is a multiple of `align`
        channels, as far as the group is large enough, and that the pattern of masks fits; the whole group is always a
        choice. Methods are those that apply to the group (norm scales need a norm).

        Raises `ConfigError` when there is a group that none of its methods applies to.
        """
        from autoprune.methods.criterion import GroupView
        from autoprune.methods.registry import criterion

        out: dict[str, Choices] = {}
        without: list[str] = []
        for name, g in graph.groups.items():
            rule = self._rule(name, g.kind)
            if rule.get("keep") == "whole":
                continue
            step = g.step(align)
            least = max(1, math.ceil(g.size * float(rule.get("min_keep", self.min_keep))))
            fitting = self._fitting(g)
            fit = [n for n in range(g.size % fitting or fitting, g.size, fitting) if n >= least]
            widths = [n for n in fit if n % step == 0] or (fit if fitting > 1 else [])
            if widths:
                view = GroupView(graph, name)
                named = tuple(rule.get("methods", self.methods))
                methods = tuple(m for m in named if criterion(m).applies(view))
                out[name] = Choices((*widths, g.size), methods, tuple(m for m in named if m not in methods))
                without += [] if methods else [f"{name}: {', '.join(named)}"]
        if without:
            raise ConfigError(f"the space {self.name!r} names no method that applies to {len(without)} group(s)",
                              given="; ".join(without[:3]), fix="add l1, which always applies, to its methods")
        return out

    def mask_choices(self, graph: Graph) -> dict[str, tuple[Mask, ...]]:
        """The masks that each weight may wear, one per method that applies to it; empty in a space without masks.

        Raises `ConfigError` as `recover.sparsify.fitting_masks` does.
        """
        if not self.masks:
            return {}
        from autoprune.recover.sparsify import Recipe, fitting_masks

        settings = {k: v for k, v in self.masks.items() if k != "methods"} | {"skip": tuple(self.masks.get("skip", ()))}
        return fitting_masks(graph, [Recipe(method=m, **settings)
                                     for m in dict.fromkeys(self.masks.get("methods", ("magnitude",)))])

    def check_fits(self, device: Device, sampler: str) -> None:
        """Refuse what the device or the sampler cannot do. Raises `ConfigError`."""
        if sampler == "knapsack" and self.masks:
            raise ConfigError("the knapsack sampler does not choose masks", given=f"the space {self.name!r}",
                              fix="--sampler tpe, or a space without [masks]")
        if "int8" not in self.precisions:
            return
        device.require_int8()
        if sampler == "knapsack":
            raise ConfigError("the knapsack sampler does not choose a precision", given=f"the space {self.name!r}",
                              fix='--sampler tpe, or precisions = ["fp32"] in the space')

    def branches(self, graph: Graph) -> tuple[str, ...]:
        """The residual branches that a candidate may drop whole; a pattern that matches none is no error, for spaces
        are used with many models.
        """
        return tuple(name for name in graph.branches if any(fnmatch.fnmatchcase(name, p) for p in self.drop))

    def _fitting(self, group: Group) -> int:
        """How many units go at a time so that the pattern of masks goes on fitting: what is read may be several groups
        in a row, of which only the sum is a multiple.
        """
        if not self.masks:
            return 1
        from autoprune.methods.masks.patterns import parse_pattern

        multiple = parse_pattern(self.masks.get("pattern", "weight")).multiple
        if group.kind == "heads":  # a head has as many positions as its dimension, which is a multiple itself
            multiple //= math.gcd(multiple, group.width)
        return multiple

    def _rule(self, name: str, kind: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = {}
        for pattern, rule in self.groups.items():
            if fnmatch.fnmatchcase(f"kind:{kind}", pattern) or fnmatch.fnmatchcase(name, pattern):
                found = rule
        return found

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "description": self.description, "methods": list(self.methods),
                "min_keep": self.min_keep, "precisions": list(self.precisions),
                "groups": {k: dict(v) for k, v in self.groups.items()},
                **({"masks": dict(self.masks)} if self.masks else {}),
                **({"drop": list(self.drop)} if self.drop else {}),
                "recover": dict(self.recover), "schedule": dict(self.schedule), "search": {
                    "trials": self.trials, "rankings": [{"scope": s, "method": m} for s, m in self.rankings],
                    **({"halving": self.halving} if self.halving > 1 else {})}}


def space_for(name: str | os.PathLike[str], methods: str | None = None, steps: int | None = None) -> Space:
    """A space with what a search's settings say instead: methods with commas between them, fine-tuning steps."""
    space = load_space(name)
    if methods is not None and not isinstance(methods, str):
        raise ConfigError("methods are names with commas between them, or a list of names", given=repr(methods),
                          fix='methods="l1,taylor"')
    if methods is not None:
        space = space.with_methods([method.strip() for method in methods.split(",")])
    return space if steps is None else replace(space, recover={**space.recover, "steps": steps})


def list_spaces() -> list[str]:
    """Names of the spaces that ship with autoprune."""
    return sorted(p.stem for p in folder("search_spaces").glob("*.toml"))


def load_space(name: str | os.PathLike[str]) -> Space:
    """A shipped space by name, or one from a TOML file. `ConfigError` lists everything that is wrong with the file."""
    if not isinstance(name, str | os.PathLike):
        raise ConfigError("a search space is named, or read from a file", given=f"{type(name).__name__} {name!r}"[:200],
                          allowed=f"{', '.join(list_spaces())}; or a path to a .toml file", fix='space="default"')
    path = Path(name)
    if path.suffix != ".toml":
        path = folder("search_spaces") / f"{name}.toml"
        if not path.is_file():
            raise ConfigError("unknown search space", given=name, allowed=did_you_mean(str(name), list_spaces())
                              + "; or a path to a .toml file", fix="autoprune spaces list")
    if not path.is_file():
        raise ConfigError("the space file does not exist", given=path, fix="autoprune spaces list")
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("the space file cannot be read", given=f"{path}: {error}", fix="autoprune spaces list"
                          ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("the space file is not valid TOML", given=f"{path}: {error}") from error
    problems = problems_of(data)
    if problems:
        lines = text.splitlines()
        listed = "".join(f"\n  - {located(lines, where)}{what}" for where, what in problems)
        raise ConfigError(f"the space file {path} has {len(problems)} problem(s):{listed}",
                          fix="autoprune spaces show default prints a correct one")
    return _space(path.stem, data)


def _space(name: str, data: Mapping[str, Any]) -> Space:
    """The space that a file without problems describes."""
    from autoprune.methods.registry import registered

    def known(methods: Iterable[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(registered(m) for m in methods))

    groups = {pattern: {**rule, "methods": known(rule["methods"])} if "methods" in rule else rule
              for pattern, rule in data.get("groups", {}).items()}
    search = data.get("search", {})
    return Space(name, data.get("description", ""), known(data.get("methods", ("l1",))),
                 float(data.get("min_keep", 0.1)), tuple(data.get("precisions", ("fp32",))), groups,
                 data.get("recover", {}), data.get("schedule", {}), data.get("masks", {}),
                 int(search.get("trials", 32)),
                 tuple((r["scope"], registered(r["method"])) for r in search.get("rankings", ())),
                 tuple(data.get("drop", ())), int(search.get("halving", 1)))
