"""`Graph`: a traced model, what can be pruned in it, and the pruning itself."""

from __future__ import annotations

import copy
import hashlib
import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from autoprune.accelerator import device_of, to_device
from autoprune.errors import ConfigError, ModelError, NoEffectWarning, did_you_mean
from autoprune.graph.branches import Branch, find_branches
from autoprune.graph.dims import Expr, resolve
from autoprune.graph.eager import as_user_class
from autoprune.graph.group import Frozen, Group, find_groups, list_frozen
from autoprune.graph.kept import Kept, unit_order
from autoprune.graph.module import PrunedModule, candidate
from autoprune.graph.plan import PRECISIONS, Plan
from autoprune.graph.program import Program
from autoprune.graph.readers import Reader, find_readers
from autoprune.graph.reads import Read, find_reads
from autoprune.graph.rewrite import cut_tensor, rewrite_modules, spread_tensor
from autoprune.graph.slices import Slice
from autoprune.graph.trace import Captured, capture
from autoprune.graph.typing import Typing

if TYPE_CHECKING:
    from autoprune.methods.criterion import Statistics

__all__ = ["Graph", "Slice", "trace"]

_PROGRAMS = 16  # one per set of dropped branches: a search comes back to a few of them, but may try 2^branches


class Graph:
    """What `autoprune.trace` returns. Holds references to the model's tensors and never changes them."""

    def __init__(self, captured: Captured, example_inputs: Any, model: nn.Module):
        self.captured = captured
        self._model = model
        self.example_inputs = example_inputs
        self.name = type(model).__name__
        self.typing = Typing(captured.graph).run()
        self._parameters = {n: t.numel() for n, t in captured.tensors.items() if isinstance(t, nn.Parameter)}
        self.groups: dict[str, Group] = find_groups(self.typing, captured.graph, self._parameters)
        self.fingerprint = _fingerprint(captured)
        self._programs: dict[tuple[str, ...], Program] = {}
        self._orders: dict[tuple[str, int, str], torch.Tensor | None] = {}

    def __repr__(self) -> str:
        return f"Graph({self.name}: {len(self.groups)} groups, {len(self.captured.graph.nodes)} nodes)"

    @property
    def frozen(self) -> list[Frozen]:
        """(what, operator, reason) of everything in the parameters that cannot be pruned."""
        return list_frozen(self.typing, self._parameters)

    @cached_property
    def branches(self) -> dict[str, Branch]:
        """Residual branches that a plan may drop whole, by name."""
        return find_branches(self.captured.graph, self.typing, self._parameters)

    @property
    def params(self) -> int:
        """Number of parameter elements that the graph uses."""
        return sum(self._parameters.values())

    @property
    def free_params(self) -> int:
        """Number of elements of parameters that at least one group touches."""
        touched = {name for g in self.groups.values() for name, _ in g.tensors}
        return sum(n for name, n in self._parameters.items() if name in touched)

    def slices(self, group: str, tensors: Mapping[str, torch.Tensor] | None = None) -> list[Slice]:
        """The slices of a group, in the order of `Group.tensors`.

        `tensors` replaces the model's own, e.g. by gradients of the same shapes; missing names are left out.
        """
        g = self._group(group)
        source = self.captured.tensors if tensors is None else tensors
        return [Slice(name, source[name].detach(), axis, self._role(name, axis), self._order(name, axis, g), g.size)
                for name, axis in g.tensors if name in source]

    def _role(self, name: str, axis: int) -> str:
        if len(self._axes[name]) == 1:
            return "vector"
        return "in" if (name, axis) in self._summed else "out"

    def _order(self, name: str, axis: int, group: Group) -> torch.Tensor | None:
        key = name, axis, group.name
        if key not in self._orders:
            self._orders[key] = unit_order(self._axes[name][axis], group.dim)
        return self._orders[key]

    @cached_property
    def reads(self) -> list[Read]:
        """Where units are read, in the order of the graph."""
        return find_reads(self.captured.graph, self.typing)

    @cached_property
    def readers(self) -> dict[str, Reader]:
        """The weights that can make up for units that go, by name."""
        return find_readers(self.captured.graph, self.typing, self.reads)

    @cached_property
    def _summed(self) -> frozenset[tuple[str, int]]:
        return frozenset((r.weight, r.weight_axis) for r in self.reads if r.weight is not None)

    def _group(self, name: str) -> Group:
        if name not in self.groups:
            raise ConfigError("no such group", given=name, allowed=did_you_mean(name, self.groups),
                              fix="autoprune layers --model … lists the groups")
        return self.groups[name]

    def check(self, plan: Plan) -> None:
        """Raise one `ConfigError` that lists everything that is wrong with a plan for this graph."""
        problems = []
        if plan.model is not None and plan.model != self.fingerprint:
            problems.append(f"it was made for another model (fingerprint {plan.model}, this one is {self.fingerprint})")
        for name, cut in plan.cuts.items():
            if name not in self.groups:
                problems.append(f"{name}: no such group; {did_you_mean(name, self.groups)}")
                continue
            size = self.groups[name].size
            if not 1 <= cut.keep <= size:
                problems.append(f"{name}: keep {cut.keep} is not in 1 … {size}")
            if cut.kept is not None and not (len(cut.kept) == cut.keep and _ascending(cut.kept, size)):
                problems.append(f"{name}: kept indices must be {cut.keep} ascending ones below {size}")
        problems += [f"{name}: no such residual branch; {did_you_mean(name, self.branches)}" for name in plan.dropped
                     if name not in self.branches]
        problems += [f"{name}: no parameter to mask; {did_you_mean(name, self.parameters)}" for name in plan.masks
                     if name not in self.parameters]
        if plan.precision not in PRECISIONS:
            problems.append(f"the precision {plan.precision!r} is none of {', '.join(PRECISIONS)}")
        if problems:
            raise ConfigError("the plan does not fit the model:\n  - " + "\n  - ".join(problems),
                              fix="autoprune layers --model … lists groups and sizes")

    def resolve(self, plan: Plan, statistics: Statistics | None = None) -> Plan:
        """The same plan with the indices of the units that stay, chosen by each cut's method."""
        from autoprune.methods.choose import Ranking

        return Ranking(self, statistics).resolve(plan)

    def prune(self, plan: Plan, statistics: Statistics | None = None) -> Any:
        """The pruned model: a trainable module of its own; this graph and the traced model stay as they are.

        An instance of (a subclass of) the user's own class when that is verified to compute the same on the example
        inputs, otherwise a `PrunedModule` whose `why_graph` says why not. Both have `plan` and `save(folder)`.

        `statistics` (see `autoprune.methods.collect`) is needed when the plan uses a method that looks at data.
        Raises `ConfigError` listing all that is wrong with the plan, or for one with masks.
        """
        if plan.masks:
            raise ConfigError("masks are chosen while a model is trained, and this trains nothing",
                              given=f"{len(plan.masks)} weights with masks",
                              fix="autoprune search, or autoprune.recover.sparsify.mask_planned")
        pruned = self.cut(plan, statistics)
        if not plan.dropped and all(c.keep == self.groups[n].size for n, c in plan.cuts.items()):
            warnings.warn("the plan removes nothing: the model stays as large as it was", NoEffectWarning, stacklevel=2)
        if isinstance(self._model, PrunedModule):
            return pruned
        guesses = [self._sizes(pruned.plan, products_first) for products_first in (False, True)]
        return as_user_class(self._model, pruned, self.captured.tensors, self.example_inputs, guesses)

    def _sizes(self, plan: Plan, products_first: bool) -> dict[str, dict[int, int]]:
        """Module path → dense width → pruned width, for the modules above the layers that a group is named after.

        `products_first`: a width that is both a group's and a product of groups (heads × head_dim) means the product.
        """
        single: dict[str, dict[int, int]] = {}
        factors: dict[str, list[tuple[int, int]]] = {}
        for name, cut in plan.cuts.items():
            layer = name.partition(":")[0]
            size = self.groups[name].size
            if ":" in name:
                factors.setdefault(layer, []).append((size, cut.keep))
            for path in (layer, layer.rpartition(".")[0]):
                single.setdefault(path, {}).setdefault(size, cut.keep)
        products: dict[str, dict[int, int]] = {}
        for layer, pairs in factors.items():
            dense, kept = math.prod(a for a, _ in pairs), math.prod(b for _, b in pairs)
            for path in (layer, layer.rpartition(".")[0]):
                products.setdefault(path, {}).setdefault(dense, kept)
        first, second = (products, single) if products_first else (single, products)
        return {path: {**second.get(path, {}), **first.get(path, {})} for path in {**single, **products}}

    def cut(self, plan: Plan, statistics: Statistics | None = None, *, least_squares: bool = False) -> PrunedModule:
        """Like `prune`, always in graph form and without running anything: what a search uses.

        Layers that read what is removed are refitted for the methods that do so, for all with `least_squares` (see
        `autoprune.methods.refit`); that needs statistics with second moments.
        """
        if not self.groups:
            raise ModelError("nothing in this model can be pruned", given=self.name,
                             fix="autoprune layers --model … says what froze each layer")
        from autoprune.methods.refit import refitted

        plan = self.resolve(plan, statistics)
        return refitted(self, plan, statistics, all_groups=least_squares).build(plan)

    def with_tensors(self, tensors: Mapping[str, torch.Tensor]) -> Graph:
        """The same graph with other values of some tensors, of the same shapes; what is not named is shared."""
        values = dict(self.captured.tensors)
        for name in [n for n in tensors if n in values]:
            old, new = values[name], tensors[name].detach()
            values[name] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
        out = copy.copy(self)
        out.captured = replace(self.captured, tensors=values)
        return out

    def spread(self, model: PrunedModule) -> dict[str, torch.Tensor]:
        """The tensors of a pruned model in their dense shapes, with zeros for what is gone."""
        kept = self.kept(model.plan)
        return {name: spread_tensor(tensor.detach(), self._axes[name], kept) for name, tensor in model.tensors().items()
                if name in self._axes}

    def axes(self, tensor: str) -> list[Expr]:
        """The expressions of a tensor's axes."""
        return self._axes[tensor]

    def dense(self) -> PrunedModule:
        """The whole model in the same form as a pruned one (the plan that removes nothing)."""
        return self.build(Plan({}, self.fingerprint))

    def kept(self, plan: Plan) -> Kept:
        """The units that stay, as the rewriting needs them; `plan` must be resolved."""
        return Kept({self.groups[n].dim: np.asarray(c.kept, dtype=np.int64) for n, c in plan.cuts.items()
                     if c.kept is not None and c.keep < self.groups[n].size})

    def build(self, plan: Plan) -> PrunedModule:
        """The model that a resolved plan leaves of the tensors as they are."""
        kept = self.kept(plan)
        program = self._program(plan.dropped)
        tensors: dict[str, torch.Tensor] = {}
        for name, tensor in self.captured.tensors.items():
            if name in program.names:
                new = cut_tensor(tensor, self._axes[name], kept)
                tensors[name] = (nn.Parameter(new, requires_grad=tensor.requires_grad)
                                 if isinstance(tensor, nn.Parameter) else new)
        modules = {n: m for n, m in rewrite_modules(self.captured.modules, self.typing, kept).items()
                   if n in program.names}
        return candidate(program, kept, tensors, modules, plan, self.name)

    def _program(self, dropped: tuple[str, ...]) -> Program:
        """The code that all candidates run which drop the same branches; the last few are kept."""
        if dropped not in self._programs:
            while len(self._programs) >= _PROGRAMS:
                self._programs.pop(next(iter(self._programs)))
            replaced = {self.branches[n].total: self.branches[n].skip for n in dropped}
            self._programs[dropped] = Program(self.captured.graph, self.typing, replaced)
        return self._programs[dropped]

    @cached_property
    def _axes(self) -> dict[str, list[Expr]]:
        """The expressions of each tensor's axes as the typing left them."""
        return {name: [resolve(e) for e in axes] for name, axes in self.typing.tensors.items()}

    @cached_property
    def parameters(self) -> frozenset[str]:
        """Names of the tensors that are parameters."""
        return frozenset(self._parameters)

    @cached_property
    def slopes(self) -> frozenset[str]:
        """Names of the tensors that PReLU reads."""
        return frozenset(str(a.target) for node in self.captured.graph.nodes if "prelu" in str(node.target)
                         for a in node.all_input_nodes if a.op == "get_attr")


def trace(model: nn.Module, example_inputs: Any) -> Graph:
    """Find out what can be pruned in `model`.

    Parameters
    ----------
    model: any module that `torch.export` accepts; it is not changed and its mode is restored. Of one on a GPU a copy on
        the CPU is traced.
    example_inputs: a tensor, a tuple of positional inputs, or a dict of keyword inputs. The first axis of all tensors
        becomes a dynamic batch when the model allows it.

    Raises `ModelError` with the line of the model when it cannot be exported.
    """
    if isinstance(model, nn.Module) and device_of(model).type != "cpu":
        model, example_inputs = copy.deepcopy(model).cpu(), to_device(example_inputs, "cpu")
    return Graph(capture(model, example_inputs), example_inputs, model)


def _ascending(indices: tuple[int, ...], size: int) -> bool:
    values = np.asarray(indices, dtype=np.int64)
    return bool(len(values) == 0 or (values[0] >= 0 and values[-1] < size and (np.diff(values) > 0).all()))


def _fingerprint(captured: Captured) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(captured.tensors.items()):
        digest.update(f"{name}:{tuple(tensor.shape)};".encode())
    for node in captured.graph.nodes:
        if node.op == "call_function":
            digest.update(str(node.target).encode())
    return digest.hexdigest()[:16]
