"""Plans from rankings over several groups, where a group's width follows from the scores of its units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch

from autoprune.errors import ConfigError, did_you_mean
from autoprune.graph.macs import saved_macs
from autoprune.graph.plan import Cut, Plan, aligned
from autoprune.methods.choose import Ranking
from autoprune.methods.registry import criterion

if TYPE_CHECKING:
    from autoprune.graph.graph import Graph
    from autoprune.methods.criterion import Statistics

__all__ = ["SCOPES", "RankedGroups", "buckets", "ranked"]

SCOPES = ("layer", "global", "isomorphic")


class RankedGroups:
    """Groups of one graph that are ranked together by one method; scores are worked out once.

    scope: "layer", every group is a bucket; "global", all groups are one; "isomorphic", groups of the same structure
    are one, whatever their widths (Fang et al. 2024, "Isomorphic Pruning for Vision Models", arXiv:2407.04616).
    names: the groups among which to rank, all by default; those that the method does not apply to stay whole.

    Within an isomorphic bucket scores compare as they are. In a global ranking those of each group are divided by their
    Euclidean norm (Molchanov et al. 2017, arXiv:1611.06440), unless the criterion is `comparable`: an estimate of how
    the loss changes needs no scale.

    Raises `ConfigError` when the method applies to no group or needs data that were not gathered.
    """

    def __init__(self, ranking: Ranking, method: str, scope: str = "global", names: Iterable[str] | None = None):
        if scope not in SCOPES:
            raise ConfigError("unknown scope of a ranking", given=scope, allowed=did_you_mean(scope, SCOPES))
        self.graph, self.method = ranking.graph, method
        wanted = self.graph.groups if names is None else names
        able = [name for name in wanted if ranking.applies(name, method)]
        if not able:
            raise ConfigError(f"the method {method!r} applies to no group of the model", given=self.graph.name,
                              fix=f"autoprune methods show {method}")
        normalise = scope == "global" and not criterion(method).comparable
        self._buckets: list[dict[str, torch.Tensor]] = []
        for bucket in buckets(self.graph, able, scope):
            scores = {name: ranking.scores(name, method) for name in bucket}
            if normalise:
                scores = {n: s / s.norm().clamp(min=torch.finfo(s.dtype).tiny) for n, s in scores.items()}
            self._buckets.append(scores)

    def widths(self, keep: float, min_keep: float = 0.0, align: int = 1) -> dict[str, int]:
        """Units kept by group, such that the fraction `keep` (in (0, 1]) of the units of each bucket stays.

        min_keep: fraction of each group that stays in any case, in [0, 1]; at least one unit does.
        align: widths are multiples of it, so that the kept fraction is met up to rounding.
        """
        if not 0 < keep <= 1 or not 0 <= min_keep <= 1:
            raise ConfigError("a kept fraction is out of range", given=f"keep={keep}, min_keep={min_keep}",
                              allowed="0 < keep ≤ 1, 0 ≤ min_keep ≤ 1")
        out: dict[str, int] = {}
        for scores in self._buckets:
            out.update(_widths(self.graph, scores, keep, min_keep, align))
        return out


def ranked(graph: Graph, keep: float, method: str, scope: str = "global", *, statistics: Statistics | None = None,
           saves: Mapping[str, float] | None = None, min_keep: float = 0.1, align: int = 1, seed: int = 0) -> Plan:
    """The plan, resolved, that keeps the fraction `keep` (in (0, 1]) of the units of each bucket of groups.

    scope, min_keep, align: see `RankedGroups`.
    saves: by group, what removing one unit saves, in any unit; by default multiply-adds of the example inputs. Only
    methods that ask for it look at it (`fisher_per_latency`).

    Raises `ConfigError` when the method applies to no group or needs data that `statistics` has not.
    """
    ranking = Ranking(graph, statistics, seed, saved_macs(graph) if saves is None else saves)
    widths = RankedGroups(ranking, method, scope).widths(keep, min_keep, align)
    cuts = {n: Cut(w, method) for n, w in widths.items() if w < graph.groups[n].size}
    return ranking.resolve(Plan(cuts, graph.fingerprint))


def buckets(graph: Graph, names: list[str], scope: str) -> list[list[str]]:
    """The groups that are ranked together. Isomorphic groups touch the same operators in the same roles."""
    found: dict[object, list[str]] = {}
    operators = _operators(graph) if scope == "isomorphic" else {}
    for name in names:
        key: object = name if scope == "layer" else None
        if scope == "isomorphic":
            g = graph.groups[name]
            key = g.kind, tuple(sorted((operators[s.tensor], s.role) for s in graph.slices(name)))
        found.setdefault(key, []).append(name)
    return list(found.values())


def _operators(graph: Graph) -> dict[str, str]:
    """By tensor, the operators that use it; convolutions over single channels are another kind."""
    out: dict[str, list[str]] = {}
    for node in graph.captured.graph.nodes:
        for source in node.all_input_nodes:
            if source.op == "get_attr":
                out.setdefault(str(source.target), []).append(str(node.target))
    return {name: " ".join([*used, *(["depthwise"] if _is_depthwise(graph.captured.tensors.get(name)) else [])])
            for name, used in out.items()}


def _is_depthwise(tensor: torch.Tensor | None) -> bool:
    return tensor is not None and tensor.dim() > 2 and tensor.shape[1] == 1


def _widths(graph: Graph, scores: Mapping[str, torch.Tensor], keep: float, min_keep: float, align: int
            ) -> dict[str, int]:
    """How many units of each group are among the best of all; ties go to earlier groups and lower indices."""
    everything = torch.cat([s.cpu() for s in scores.values()])
    owner = torch.cat([torch.full((len(s),), i) for i, s in enumerate(scores.values())])
    best = torch.argsort(everything, descending=True, stable=True)[: max(1, round(keep * len(everything)))]
    counts = torch.bincount(owner[best], minlength=len(scores)).tolist()
    out: dict[str, int] = {}
    for name, count in zip(scores, counts, strict=True):
        g = graph.groups[name]
        out[name] = aligned(max(count, min_keep * g.size), g.size, g.step(align))
    return out
