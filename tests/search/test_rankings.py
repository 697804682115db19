from __future__ import annotations

from collections.abc import Callable

import pytest

from autoprune.graph.graph import Graph
from autoprune.graph.plan import Plan
from autoprune.search.propose import Proposer
from autoprune.search.rankings import _saved_per_unit
from autoprune.search.space import Choices, Space

from .conftest import Open

RANKINGS = (("global", "l1"), ("isomorphic", "l1"), ("global", "fisher_per_latency"))
SPACE = Space("ranked", methods=("l1", "fisher_per_latency"), recover={"steps": 1, "calibration_batches": 1},
              rankings=RANKINGS)


def test_rankings_start_a_search_at_the_budget(open_search: Open) -> None:
    with open_search(trials=12, space=SPACE) as search:
        outcome = search.run()
        assert search.target_ms is not None
        found = {c.origin: c for c in outcome.candidates}
        ranked = [found[f"start: {scope} ranking by {method}"] for scope, method in RANKINGS
                  if f"start: {scope} ranking by {method}" in found]  # one that is another's plan is not repeated
        assert ranked
        for candidate in ranked:
            assert candidate.status == "ok"
            assert candidate.ms <= search.target_ms
            assert {c.method for c in candidate.plan.cuts.values()} == {candidate.origin.rpartition(" ")[2]}
        widths = [{n: c.keep / search.graph.groups[n].size for n, c in r.plan.cuts.items()} for r in ranked]
        assert any(len(set(w.values())) > 1 for w in widths)  # not one ratio for all


def test_what_a_unit_saves_is_told_in_milliseconds(tiny_graph: Graph) -> None:
    first, second, *_ = tiny_graph.groups
    size = tiny_graph.groups[first].size
    choices = {first: Choices((2, size), ("l1",)), second: Choices((4, tiny_graph.groups[second].size), ("l1",))}
    proposer = Proposer(tiny_graph, choices, 0)

    def latency_ms(plan: Plan) -> float:
        return 10.0 - (3.0 if first in plan.cuts else 0.0)

    saved = _saved_per_unit(proposer, latency_ms)
    assert saved[first] == pytest.approx(3.0 / (size - 2))
    assert 0 < saved[second] < 0.01  # nothing saved: never zero, by which scores could not be divided


def test_the_device_decides_where_a_ranking_per_latency_cuts(tiny_graph: Graph, open_search: Open) -> None:
    from autoprune.search.rankings import ranked_starts

    first, second, *_ = tiny_graph.groups

    def saves_in(group: str) -> Callable[[Plan], float]:
        def latency_ms(plan: Plan) -> float:
            parts = {n: plan.cuts[n].keep / g.size if n in plan.cuts else 1.0 for n, g in tiny_graph.groups.items()}
            return sum((100.0 if n == group else 1.0) * part for n, part in parts.items())
        return latency_ms

    with open_search(trials=1, space=SPACE) as search:
        kept = []
        for group in (first, second):
            latency_ms = saves_in(group)
            [values] = ranked_starts(search.pipeline, search.proposer, [RANKINGS[2]],
                                     0.8 * latency_ms(Plan()), latency_ms).values()
            kept.append({n: values[f"{n}.keep"] for n in (first, second)})
    assert kept[0][first] < kept[1][first]
    assert kept[1][second] < kept[0][second]
