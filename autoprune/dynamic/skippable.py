"""`skippable`: a traced model in which every sample decides which residual branches run for it."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import fx, nn

from autoprune.dynamic.gate import Gate
from autoprune.errors import ConfigError, ModelError, did_you_mean
from autoprune.graph.branches import Branch, needed_nodes
from autoprune.graph.dims import dims_of
from autoprune.graph.macs import count
from autoprune.graph.plan import Plan
from autoprune.tasks.tensors import first_rows

if TYPE_CHECKING:
    from autoprune.graph.graph import Graph

__all__ = ["Skippable", "copy_with_nodes", "gateable", "skippable"]


class Skippable(fx.GraphModule):
    """`skip + branch` is `skip + gate(skip) · branch` here; made by `skippable`.

    Takes and returns what the traced model does. Torch computes all branches and multiplies by 0 or 1 (so batches may
    mix decisions); what is exported by `autoprune.dynamic.export` skips them.

    branches: their names, in the order of the graph. shares: what each costs, as a fraction of the multiply-adds of the
    dense model for one sample; rest: the fraction that always runs, the gates included. example_inputs: one sample.
    """

    branches: tuple[str, ...]
    shares: tuple[float, ...]
    rest: float
    example_inputs: Any

    @property
    def gates(self) -> list[Gate]:
        """One for each branch."""
        return [cast(Gate, self.get_submodule(f"gate.{i}")) for i in range(len(self.branches))]

    def share(self, opened: torch.Tensor) -> torch.Tensor:
        """[N, branches] decisions → [N] fractions of the dense model's multiply-adds that are executed."""
        return self.rest + opened @ opened.new_tensor(self.shares)

    def opened(self) -> torch.Tensor:
        """[N, branches]: the decisions for the batch that ran last, with gradients if it ran in training.

        `ModelError` before the first batch.
        """
        found = [g.opened for g in self.gates if g.opened is not None]
        if len(found) < len(self.branches):
            raise ModelError("no batch has run yet", fix="call the model first")
        return torch.stack(found, 1)


def gateable(graph: Graph) -> dict[str, Branch]:
    """Residual branches that a gate fits: samples lie on the first axis of the sum, and no other one lies within.

    Of branches inside one another the innermost are taken: their outer one is rarely skipped whole.
    """
    batch = {str(n.meta["val"].shape[0]) for n in graph.captured.graph.nodes
             if n.op == "placeholder" and isinstance(n.meta.get("val"), torch.Tensor) and n.meta["val"].dim()}
    taken: set[fx.Node] = set()
    out: dict[str, Branch] = {}
    for name, branch in graph.branches.items():
        own = _lost(graph, branch)
        shape = branch.skip.meta["val"].shape
        if graph.captured.dynamic_batch and str(shape[0]) in batch and len(shape) > 1 and not own & taken:
            out[name] = branch
            taken |= own
    return out


def skippable(graph: Graph, branches: Collection[str] | None = None) -> Skippable:
    """A copy of the traced model with a `Gate` before each of `branches` (None: all of `gateable`).

    All gates are open at first, so that it computes what the dense model does. Its weights are its own; train it with
    `autoprune.dynamic.train`. Costs one count of multiply-adds for each branch.

    `ModelError` when no branch can be gated, `ConfigError` for names of branches that are not there or cannot be.
    """
    found = gateable(graph)
    if not found:
        raise ModelError("no residual branch of this model can be skipped for single inputs", given=graph.name,
                         allowed="sums of a tensor with what is computed from it, along a dynamic batch on axis 0")
    unknown = [] if branches is None else [n for n in branches if n not in found]
    if unknown:
        raise ConfigError("no such branch to skip", given=", ".join(unknown), allowed=did_you_mean(unknown[0], found))
    chosen = {n: b for n, b in found.items() if branches is None or n in branches}
    root = graph.dense()
    gates = [Gate(*_channels(graph, b.skip)) for b in chosen.values()]
    root.add_module("gate", nn.ModuleList(gates))
    model = Skippable(root, _gated(graph.captured.graph, list(chosen.values())), class_name=f"Skippable{graph.name}")
    model.branches = tuple(chosen)
    model.example_inputs = first_rows(graph.example_inputs, 1)
    whole = count(root, model.example_inputs).macs
    kept = [count(graph.build(Plan(dropped=(n,))), model.example_inputs).macs for n in chosen]
    model.shares = tuple(1 - k / whole for k in kept)
    model.rest = 1 - sum(model.shares) + sum(g.macs for g in gates) / whole
    return model.eval()


def copy_with_nodes(graph: fx.Graph) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """A copy that shares the input and output structure, and where each node went."""
    out = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        copies[node] = out.node_copy(node, copies.__getitem__)
    out._codegen = graph._codegen
    return out, copies


def _gated(graph: fx.Graph, branches: list[Branch]) -> fx.Graph:
    """A copy of `graph` in which gates multiply what is added to the skips."""
    out, copies = copy_with_nodes(graph)
    for i, branch in enumerate(branches):
        total = copies[branch.total]
        added = next(a for a in branch.total.args[:2] if a is not branch.skip)
        with out.inserting_before(total):
            opened = out.call_module(f"gate.{i}", (copies[branch.skip],))
            gated = out.call_function(torch.ops.aten.mul.Tensor, (copies[cast(fx.Node, added)], opened))
        total.replace_input_with(copies[cast(fx.Node, added)], gated)
    return out


def _lost(graph: Graph, branch: Branch) -> set[fx.Node]:
    """The nodes that nothing needs without the branch."""
    return set(graph.captured.graph.nodes) - needed_nodes(graph.captured.graph, {branch.total: branch.skip})


def _channels(graph: Graph, skip: fx.Node) -> tuple[int, int]:
    """Size and number of the axis whose positions parameters have; of several, one that can be pruned, and the last."""
    known = {d for axes in graph.typing.tensors.values() for e in axes for d in dims_of(e)}
    axes = [(any(d.frozen is None for d in dims_of(e)), i) for i, e in enumerate(graph.typing.of(skip))
            if i and any(d in known for d in dims_of(e))]
    shape = skip.meta["val"].shape
    axis = max(axes)[1] if axes else len(shape) - 1
    return int(shape[axis]), axis
