"""Hidden states of the dense net as a target for the pruned one, where the plan leaves their shape alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import fx

from autoprune.graph.branches import needed_nodes
from autoprune.graph.rewrite import copy_graph
from autoprune.graph.typing import tensor_types

if TYPE_CHECKING:
    from autoprune.graph.graph import Graph
    from autoprune.graph.kept import Kept
    from autoprune.graph.module import PrunedModule
    from autoprune.graph.plan import Plan

__all__ = ["Features", "unchanged"]

_MOST = 4  # hidden states compared: more cost memory and say much the same
_SUMS = ("add", "add_")
_CONTRACTIONS = ("linear", "matmul", "addmm", "mm", "bmm", "conv1d", "conv2d", "conv3d", "convolution")


def unchanged(graph: Graph, plan: Plan) -> tuple[str, ...]:
    """Names of at most four nodes behind something that `plan` (resolved) cuts whose shapes it leaves alone.

    Sums of two branches (the residual stream) where there are any, otherwise outputs of contractions; evenly spaced,
    the last one included. Empty when there is none: then there is nothing to distil but logits.
    """
    kept = graph.kept(plan)
    alive = needed_nodes(graph.captured.graph, {graph.branches[n].total: graph.branches[n].skip for n in plan.dropped})
    outputs = set(graph.captured.graph.output_node().all_input_nodes)
    found = [n for n in _behind_cuts(graph, kept, plan.dropped) if n in alive and n not in outputs and _floating(n)
             and not _touched(graph, n, kept)]
    sums = [n for n in found if _name(n) in _SUMS and len(_computed(n)) == 2]
    nodes = sums or [n for n in found if _name(n) in _CONTRACTIONS]
    step = max(1.0, len(nodes) / _MOST)
    picked = {round(len(nodes) - 1 - i * step) for i in range(min(_MOST, len(nodes)))}
    return tuple(nodes[i].name for i in sorted(picked))


class Features:
    """Runs student and teacher so that their hidden states can be compared; both share the tensors of the modules.

    nodes: names of nodes that both have, see `unchanged`. Costs one forward pass of the teacher per `loss`.
    """

    def __init__(self, student: PrunedModule, teacher: PrunedModule, nodes: tuple[str, ...]):
        self._seen: list[torch.Tensor] = []
        self._target: list[torch.Tensor] = []
        self.student = _remembering(student, nodes, self._seen)
        self.teacher = _remembering(teacher, nodes, self._target).eval()

    def loss(self) -> torch.Tensor:
        """Mean over the nodes of `‖student − teacher‖² / ‖teacher‖²` (FitNets, Romero et al. 2015, arXiv:1412.6550,
        without a regressor: the shapes are equal) of the last forward passes of both.
        """
        pairs = zip(self._seen, self._target, strict=True)
        losses = [F.mse_loss(s.float(), t.float()) / t.float().square().mean().clamp_min(1e-12) for s, t in pairs]
        return torch.stack(losses).mean()


def _remembering(model: PrunedModule, nodes: tuple[str, ...], seen: list[torch.Tensor]) -> fx.GraphModule:
    """A module that computes what `model` does, with its tensors, and leaves the values of `nodes` in `seen` on every
    pass. It reads the tensors where the model has them: one behind a mask is computed anew each time.
    """
    graph = copy_graph(model.graph)
    for node in graph.nodes:
        if node.op == "get_attr":
            node.target = f"_model.{node.target}"

    def start() -> None:
        seen.clear()

    def remember(value: torch.Tensor) -> None:
        seen.append(value)

    first = next(n for n in graph.nodes if n.op != "placeholder")
    with graph.inserting_before(first):
        graph.call_function(start)
    for node in [n for n in graph.nodes if n.name in nodes]:
        with graph.inserting_after(node):
            graph.call_function(remember, (node,))
    out = fx.GraphModule({str(n.target): None for n in graph.nodes if n.op == "get_attr"}, graph)
    out._model = model
    return out


def _behind_cuts(graph: Graph, kept: Kept, dropped: tuple[str, ...]) -> list[fx.Node]:
    """The computed nodes that depend on a tensor that loses positions, or on the sum of a branch that is dropped, in
    the order of the graph.
    """
    behind: dict[fx.Node, None] = {}
    sums = {graph.branches[n].total for n in dropped}
    for node in graph.captured.graph.nodes:
        axes = graph.typing.tensors.get(str(node.target), ()) if node.op == "get_attr" else ()
        cut = node in sums or any(kept.touches(e) for e in axes)
        if cut or (node.op == "call_function" and any(n in behind for n in node.all_input_nodes)):
            behind[node] = None
    return [n for n in behind if n.op == "call_function"]


def _touched(graph: Graph, node: fx.Node, kept: Kept) -> bool:
    return any(kept.touches(e) for axes in tensor_types(graph.typing.types.get(node)) for e in axes)


def _floating(node: fx.Node) -> bool:
    value: Any = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _computed(node: fx.Node) -> list[fx.Node]:
    return [n for n in node.args[:2] if isinstance(n, fx.Node) and n.op == "call_function"]


def _name(node: fx.Node) -> str:
    target = node.target
    return target._schema.name.split("::")[-1] if isinstance(target, torch._ops.OpOverload) else ""
