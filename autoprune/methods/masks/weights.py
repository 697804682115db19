"""Which weights of a graph can be masked, and along which axis they are multiplied with what comes in."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from autoprune.errors import ConfigError, ModelError, did_you_mean
from autoprune.graph.reads import find_reads
from autoprune.graph.typing import Call

if TYPE_CHECKING:
    from autoprune.graph.graph import Graph

__all__ = ["Maskable", "find_maskable"]


@dataclass(frozen=True)
class Maskable:
    """A weight that is multiplied with activations, or an embedding.

    shape: `[out, in]` of a linear layer, `[out, in, kh, kw]` of a convolution, `[in, out]` of a plain product, and so
    on. input_axis: the axis that is summed over; None for an embedding, of which rows are looked up. spatial: number of
    trailing axes that are positions of a kernel. groups: parts of the input axis, each of which is summed over for
    itself (of a transposed convolution, `[in, out / groups, …]`; others have the inputs of one group on theirs).
    """

    name: str
    shape: tuple[int, ...]
    input_axis: int | None
    spatial: int = 0
    groups: int = 1

    @property
    def inputs(self) -> int:
        """How many positions one output sums over, those of a kernel aside; 1 for an embedding."""
        return 1 if self.input_axis is None else self.shape[self.input_axis] // self.groups


def find_maskable(graph: Graph, skip: tuple[str, ...] = ()) -> dict[str, Maskable]:
    """All weights of two or more axes that an operator of `graph` sums with, and embeddings, by name.

    skip: names or patterns (`stem.*`) of weights that stay dense. Never masked: biases, norms, and parameters that are
    added, or computed with before an operator sums with them. `ConfigError` when a pattern matches nothing,
    `ModelError` when nothing is left.
    """
    found: dict[str, Maskable] = {}
    parameters = {n: graph.captured.tensors[n] for n in graph.parameters if graph.captured.tensors[n].dim() >= 2}
    for node in graph.captured.graph.nodes:
        if "embedding" in str(node.target) and node.args and str(node.args[0].target) in parameters:
            name = str(node.args[0].target)
            found[name] = Maskable(name, tuple(parameters[name].shape), None)
    for read in find_reads(graph.captured.graph, graph.typing):
        if read.weight in parameters:
            shape = tuple(parameters[read.weight].shape)
            spatial = len(shape) - 2 if "conv" in str(read.node.target) else 0
            groups = int(Call(read.node)["groups"]) if "conv_transpose" in str(read.node.target) else 1
            found[read.weight] = Maskable(read.weight, shape, read.weight_axis, spatial, groups)
    for pattern in skip:
        if not any(fnmatchcase(name, pattern) for name in found):
            raise ConfigError("no weight has the name to skip", given=pattern, allowed=did_you_mean(pattern, found))
    kept = {n: w for n, w in sorted(found.items()) if not any(fnmatchcase(n, p) for p in skip)}
    if found and not kept:
        raise ConfigError("every weight that could wear a mask is skipped", given=", ".join(skip),
                          allowed=", ".join(sorted(found)[:3]) + " …", fix="skip less")
    if not kept:
        raise ModelError("nothing in this model can be masked", given=graph.name,
                         allowed="weights of linear layers, convolutions, recurrent cells and embeddings")
    return kept
