"""What each group is worth: damage and latency of pruning it alone, without any training."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from autoprune.graph.plan import Cut, Plan
from autoprune.search.damage import damages
from autoprune.search.knapsack.curves import Curve, Levels
from autoprune.search.knapsack.decoder import Pair, pairs
from autoprune.search.pipeline import Pipeline
from autoprune.search.plan_latency import PlanLatency
from autoprune.search.space import Choices

__all__ = ["scan", "scanned_widths"]

_SHARES = (0.5, 0.75)  # of the way from the whole group to its least width; lesser ones hardly move a curve
_LEAST = 0.1  # of the median damage: what a group costs at least, however little one batch shows of it
_EVALUATIONS = 60  # at two widths, at most


def scan(pipeline: Pipeline, choices: Mapping[str, Choices], table: PlanLatency, branches: Sequence[str] = ()
         ) -> tuple[dict[str, Curve], list[Pair]]:
    """The curves of all groups, and which of them share layers (`decoder.pairs`; none where plans have to be made for
    their latency). A residual branch that may be dropped is a group of one unit, named `BRANCH.drop` as its parameter
    is; what it shares with the groups inside it are pairs like any others.

    Damage (`damage.py`) is looked at at two widths per group, one for many groups; latency is `table`'s, at
    all widths where that is cheap.
    """
    shares = _SHARES if len(choices) * len(_SHARES) <= _EVALUATIONS else (0.6,)
    dense_ms = table.ms(Plan())
    plans: dict[tuple[str, int], Plan] = {}
    saved: dict[str, dict[int, float]] = {}
    for name, c in choices.items():
        method = next((m for m in c.methods if m != "random"), c.methods[0])
        some = {_width(c, share) for share in shares} - {c.widths[-1]}
        plans |= {(name, w): Plan({name: Cut(w, method)}, pipeline.graph.fingerprint) for w in sorted(some)}
        saved[name] = {w: dense_ms - table.ms(Plan({name: Cut(w, method)}))
                       for w in (some if table.exact else c.widths[:-1])}
    for branch in branches:
        name, plan = f"{branch}.drop", Plan(model=pipeline.graph.fingerprint, dropped=(branch,))
        plans[name, 0], saved[name] = plan, {0: dense_ms - table.ms(plan)}
    damage = damages(pipeline, plans)
    curves = {name: Curve.through(w, {width: d for (n, width), d in damage.items() if n == name}, saved[name])
              for name, w in scanned_widths(choices, branches).items()}
    least = _LEAST * statistics.median(c.damage[0] for c in curves.values())
    curves = {name: c.plus(least) for name, c in curves.items()}

    def latency_ms(levels: Levels) -> float:
        cuts = {n: Cut(c.widths[k], "random") for (n, c), k in zip(choices.items(), levels, strict=False)}
        stays = zip(branches, levels[len(choices):], strict=True)
        return table.ms(Plan(cuts, dropped=tuple(b for b, stay in stays if not stay)))

    return curves, [] if table.exact else pairs(curves, dense_ms, latency_ms)


def scanned_widths(choices: Mapping[str, Choices], branches: Sequence[str] = ()) -> dict[str, tuple[int, ...]]:
    """The widths of each curve: a branch goes or stays."""
    return {**{name: c.widths for name, c in choices.items()}, **{f"{branch}.drop": (0, 1) for branch in branches}}


def _width(choices: Choices, share: float) -> int:
    least, size = choices.widths[0], choices.widths[-1]
    return min(choices.widths, key=lambda w: abs(w - (size - share * (size - least))))
