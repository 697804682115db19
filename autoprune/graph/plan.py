"""A plan: for each group how much of it stays and by which method the units are chosen, which weights wear a mask, and
the precision that the model is deployed in. A candidate *is* a plan.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any

from autoprune.errors import ConfigError, DamagedError

if TYPE_CHECKING:
    from autoprune.graph.graph import Graph

__all__ = ["PRECISIONS", "Cut", "Mask", "Plan", "aligned"]

PRECISIONS = ("fp32", "int8")


@dataclass(frozen=True)
class Cut:
    """What happens to one group.

    keep: number of units that stay, ≥ 1.
    method: name of the criterion that ranks the units.
    kept: the ascending indices that stay, once a criterion has decided; None before.
    """

    keep: int
    method: str = "l1"
    kept: tuple[int, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"keep": self.keep, "method": self.method}
        if self.kept is not None:
            out["kept"] = list(self.kept)
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Cut:
        kept = data.get("kept")
        return cls(int(data["keep"]), str(data["method"]), None if kept is None else tuple(int(i) for i in kept))


@dataclass(frozen=True)
class Mask:
    """Which of a weight's elements are set to zero; its shape stays, and with it the latency on most runtimes.

    method: name of the element criterion; pattern: see `autoprune.methods.masks.patterns`; kept: share of the elements
    that stays, in (0, 1].
    """

    method: str
    pattern: str
    kept: float

    def to_json(self) -> dict[str, Any]:
        return {"method": self.method, "pattern": self.pattern, "kept": self.kept}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Mask:
        return cls(str(data["method"]), str(data["pattern"]), float(data["kept"]))


@dataclass(frozen=True)
class Plan:
    """Group name → `Cut`; a group that is not named stays whole.

    model: fingerprint of the traced model. dropped: names of residual branches that are removed whole (depth). masks:
    parameter name → `Mask`, chosen while the cut model is trained (`recover/sparsify.py`). precision: one of
    `PRECISIONS`; "int8" is quantised after recovery (`graph/onnx_int8.py`), the torch model stays in fp32.
    """

    cuts: Mapping[str, Cut] = field(default_factory=dict)
    model: str | None = None
    dropped: tuple[str, ...] = ()
    precision: str = "fp32"
    masks: Mapping[str, Mask] = field(default_factory=dict)

    @property
    def is_dense(self) -> bool:
        """Whether the weights stay those of the model as it came."""
        return not (self.cuts or self.dropped or self.masks)

    @classmethod
    def uniform(cls, graph: Graph, keep: float, method: str = "l1", align: int = 1) -> Plan:
        """Keep the fraction `keep` (0 < keep ≤ 1) of every group, rounded to multiples of `align` units."""
        if not isinstance(keep, Real) or not 0 < keep <= 1:
            raise ConfigError("the kept fraction must be in (0, 1]", given=repr(keep),
                              fix="Plan.uniform(graph, keep=0.7)")
        if align < 1:
            raise ConfigError("the alignment must be at least 1 unit", given=align, fix="align=1")
        cuts = {name: Cut(aligned(keep * g.size, g.size, g.step(align)), method)
                for name, g in graph.groups.items()}
        return cls({n: c for n, c in cuts.items() if c.keep < graph.groups[n].size}, graph.fingerprint)

    @classmethod
    def of(cls, graph: Graph, keep: Mapping[str, float | int], method: str | Mapping[str, str] = "l1") -> Plan:
        """Keep, per group, a fraction (a float in (0, 1]) or a count (an int ≥ 1)."""
        wrong = [f"{n}: {k!r}" for n, k in keep.items()
                 if not isinstance(k, Real) or (not isinstance(k, int) and not 0 < k <= 1)]
        if wrong:
            raise ConfigError("a kept fraction must be in (0, 1]", given=", ".join(wrong),
                              allowed="a float in (0, 1], or an int for a count of units")
        missing = [] if isinstance(method, str) else [n for n in keep if n not in method]
        if missing:
            raise ConfigError("groups without a method", given=", ".join(missing),
                              fix="one method for all, Plan.of(graph, keep, 'l1'), or one for each group")
        cuts: dict[str, Cut] = {}
        for name, k in keep.items():
            size = graph.groups[name].size if name in graph.groups else 0
            count = k if isinstance(k, int) else aligned(k * size, max(size, 1), 1)
            cuts[name] = Cut(count, method if isinstance(method, str) else method[name])
        return cls(cuts, graph.fingerprint)

    @property
    def digest(self) -> str:
        """16 hex digits that are equal exactly for plans that keep the same number of units by the same methods, with
        the same masks, in the same precision.
        """
        what: list[Any] = [sorted((n, c.keep, c.method) for n, c in self.cuts.items()), sorted(self.dropped)]
        what += [] if self.precision == "fp32" else [self.precision]
        what += [sorted((n, *m.to_json().values()) for n, m in self.masks.items())] if self.masks else []
        text = json.dumps(what)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def require_fp32(self) -> None:
        """Raise `ConfigError` for a plan in int8; called where nothing is there to quantise its model with."""
        if self.precision != "fp32":
            raise ConfigError("the latency of a plan is told in fp32 only", given=self.precision,
                              fix="quantise its model (autoprune.graph.onnx_int8) and ask for that one's latency")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; a precision that is not named is fp32 and masks that are not named are none, as in plans from
        before there were any.
        """
        out: dict[str, Any] = {"schema": 1, "model": self.model, "dropped": list(self.dropped),
                               "groups": {n: c.to_json() for n, c in self.cuts.items()}}
        if self.precision != "fp32":
            out["precision"] = self.precision
        if self.masks:
            out["masks"] = {n: m.to_json() for n, m in self.masks.items()}
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        schema = data.get("schema") if isinstance(data, Mapping) else None
        if schema != 1:
            raise ConfigError("the plan was written by another version of autoprune", given=schema,
                              allowed="schema 1", fix="use the version that wrote it")
        try:
            return cls({n: Cut.from_json(c) for n, c in data["groups"].items()}, data.get("model"),
                       tuple(data.get("dropped", ())), str(data.get("precision", "fp32")),
                       {n: Mask.from_json(m) for n, m in data.get("masks", {}).items()})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DamagedError("the plan is damaged", given=f"{type(error).__name__}: {error}",
                               fix="write it again with Plan.to_json") from error


def aligned(units: float, size: int, align: int) -> int:
    """`units` rounded to a multiple of `align`, at least one multiple (or 1) and at most `size`; all stay all."""
    if units >= size:
        return size
    if align <= 1 or size <= align:
        return min(size, max(1, round(units)))
    return min(size, max(align, align * round(units / align)))
