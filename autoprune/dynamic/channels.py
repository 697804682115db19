"""Channel gating: for every input only the most salient units of a layer count (feature boosting and suppression).

Size and multiply-adds only: onnxruntime computes a convolution whole, the channels that are multiplied by zero too, so
that this is no faster there than the dense model, and slower by the gates. Kernels that skip channels would be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import fx, nn

from autoprune.dynamic.skippable import copy_with_nodes
from autoprune.errors import ConfigError, ModelError
from autoprune.graph.dims import resolve, size_of
from autoprune.graph.macs import count
from autoprune.graph.plan import Plan
from autoprune.tasks.tensors import first_rows

if TYPE_CHECKING:
    from autoprune.graph.graph import Graph

__all__ = ["Boost", "Boosted", "boosted"]


class Boost(nn.Module):
    """Multiplies the `keep` units of highest predicted saliency by it, and the others by 0 (Gao et al. 2019,
    arXiv:1810.05331): `g = relu(φ · mean|x| + ρ)`, the mean over positions.

    x: input of the layer, samples on axis 0, units on axis `source`; y: its activation, units on `axis` → y's shape.
    ρ starts at 1 and φ small, so that the first winners are chosen by little and multiplied by about 1.
    """

    def __init__(self, inputs: int, source: int, units: int, axis: int, keep: int):
        super().__init__()
        self.source, self.axis, self.keep = source, axis, keep
        self.saliency = nn.Linear(inputs, units)
        nn.init.normal_(self.saliency.weight, std=0.01)
        nn.init.ones_(self.saliency.bias)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        others = [i for i in range(1, x.dim()) if i != self.source]
        g = F.relu(self.saliency(x.abs().mean(others) if others else x.abs()))
        winners = torch.zeros_like(g).scatter(1, g.topk(self.keep, 1).indices, 1.0)
        return y * (g * winners).reshape([len(g), *(-1 if i == self.axis else 1 for i in range(1, y.dim()))])


class Boosted(fx.GraphModule):
    """Made by `boosted`; trains with `autoprune.recover.finetune`. keeps: units that count, by group; share: of the
    dense model's multiply-adds that a runtime would execute which skips the others, the gates included.
    """

    keeps: dict[str, int]
    share: float


def boosted(graph: Graph, keep: float) -> Boosted:
    """A copy of the traced model with a `Boost` behind every layer that alone computes a group which is read as one
    activation: the inner channels of blocks, not those that a residual sum couples.

    keep: fraction of each group's units that count for an input, in (0, 1). `ConfigError` out of that range,
    `ModelError` when there is no such layer.
    """
    if not 0 < keep < 1:
        raise ConfigError("the kept fraction must be in (0, 1)", given=keep, fix="boosted(graph, 0.5)")
    root = graph.dense()
    out, copies = copy_with_nodes(graph.captured.graph)
    boosts: list[Boost] = []
    keeps: dict[str, int] = {}
    for name in graph.groups:
        if (found := _layer(graph, name)) is None:
            continue
        x, source, y, axis = found
        units = graph.groups[name].size
        keeps[name] = max(1, round(keep * units))
        boosts.append(Boost(size_of(graph.typing.of(x)[source]), source, units, axis, keeps[name]))
        readers = list(copies[y].users)
        with out.inserting_after(copies[y]):
            gated = out.call_module(f"boost.{len(boosts) - 1}", (copies[x], copies[y]))
        for reader in readers:
            reader.replace_input_with(copies[y], gated)
    if not boosts:
        raise ModelError("no layer of this model has channels of its own to gate", given=graph.name)
    root.add_module("boost", nn.ModuleList(boosts))
    model = Boosted(root, out, class_name=f"Boosted{graph.name}")
    example = first_rows(graph.example_inputs, 1)
    gates = sum(b.saliency.weight.numel() for b in boosts)
    model.keeps = keeps
    model.share = (count(graph.cut(Plan.of(graph, keeps)), example).macs + gates) / count(root, example).macs
    return model.eval()


def _layer(graph: Graph, group: str) -> tuple[fx.Node, int, fx.Node, int] | None:
    """Input and its axis of the one layer that computes a group, and the activation and its axis where it is read."""
    dim = graph.groups[group].dim
    outputs = {s.tensor for s in graph.slices(group) if s.role == "out" and s.tensor in graph.parameters}
    layers = {(r.source, r.axis) for r in graph.reads if r.weight in outputs}
    reads = {(r.source, r.axis) for r in graph.reads if dim in r.dims}
    if len(layers) != 1 or len(reads) != 1:
        return None
    (x, source), (y, axis) = layers.pop(), reads.pop()
    if x is None or y is None or source == 0 or axis == 0 or resolve(graph.typing.of(y)[axis]) is not dim:
        return None
    same = x.meta["val"].shape[0] == y.meta["val"].shape[0]
    return (x, source, y, axis) if same and graph.captured.dynamic_batch else None
