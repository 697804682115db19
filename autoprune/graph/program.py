"""One compiled `forward` for all candidates of a graph.

Candidates differ in the sizes that stand in their code and in nothing else. So the code is generated once, with every
size read from a list of the module that runs it; a candidate is then a list of numbers and its tensors. Its own graph,
with the numbers written out, is only made when somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import fx

from autoprune.graph.dims import Expr, dims_of
from autoprune.graph.kept import Kept
from autoprune.graph.literal import Literal
from autoprune.graph.rewrite import has_devices, rewrite
from autoprune.graph.typing import Typing

__all__ = ["Program"]


class _Slot(int):
    """A size as generated code writes it: where the running module keeps it."""

    place: int

    def __repr__(self) -> str:
        return f"self._sizes[{self.place}]"


class _Slots:
    """Collects the literals that some plan could change (see `rewrite.Values`)."""

    def __init__(self) -> None:
        self.literals: list[Literal] = []

    def touches(self, e: Expr) -> bool:
        return any(d.frozen is None for d in dims_of(e))

    def value(self, literal: Literal) -> int:
        slot = _Slot()
        slot.place = len(self.literals)
        self.literals.append(literal)
        return slot


class Program:
    """The code of a graph in which the sums in `replaced` (removed residual branches) are their skips.

    Attributes
    ----------
    forward: the compiled function; reads `_sizes`, `_in_spec`, `_out_spec`, `training` and the tensors of its module.
    names: the tensors and nested graphs that it reads.
    placed: whether it makes tensors on a device that stands in its code.
    """

    def __init__(self, graph: fx.Graph, typing: Typing, replaced: Mapping[fx.Node, fx.Node]):
        slots = _Slots()
        template = rewrite(graph, typing, slots, replaced)
        self.names = {str(n.target) for n in template.nodes if n.op == "get_attr"}
        self.placed = has_devices(template)
        module = fx.GraphModule(cast(dict[str, Any], dict.fromkeys(self.names)), template)
        self.forward: Callable[..., Any] = type(module).forward
        self.specs: tuple[Any, Any] | None = (
            (module._in_spec, module._out_spec) if hasattr(module, "_in_spec") else None)
        self._graph, self._typing, self._replaced = graph, typing, replaced
        self._literals = slots.literals

    def sizes(self, kept: Kept) -> list[int]:
        """What `forward` reads from `_sizes` when the units in `kept` stay."""
        return [kept.value(literal) for literal in self._literals]

    def graph(self, kept: Kept) -> fx.Graph:
        """The same graph with the sizes written out."""
        return rewrite(self._graph, self._typing, kept, self._replaced)
