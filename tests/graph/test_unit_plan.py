"""Plans: JSON, alignment, and everything that can be wrong with one."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autoprune.errors import ConfigError
from autoprune.graph.graph import Graph, trace
from autoprune.graph.plan import Cut, Plan, aligned
from tests.graph.nets import Spec, make

QUICK = settings(deadline=None, max_examples=60, derandomize=True)


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    return trace(nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 6), nn.ReLU(), nn.Linear(6, 3)),
                 torch.randn(2, 4))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    cuts = {}
    for name in draw(st.lists(st.text(min_size=1), max_size=4, unique=True)):
        kept = draw(st.none() | st.sets(st.integers(0, 99), min_size=1, max_size=6).map(lambda s: tuple(sorted(s))))
        keep = len(kept) if kept is not None else draw(st.integers(1, 99))
        cuts[name] = Cut(keep, draw(st.sampled_from(["l1", "taylor"])), kept)
    return Plan(cuts, draw(st.none() | st.just("0123456789abcdef")))


@QUICK
@given(plans())
def test_json_round_trip(plan: Plan) -> None:
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert again.digest == plan.digest


def test_another_schema_is_refused() -> None:
    with pytest.raises(ConfigError, match="another version"):
        Plan.from_json({"schema": 2, "groups": {}})
    with pytest.raises(ConfigError, match="another version"):
        Plan.from_json({})
    with pytest.raises(ConfigError, match="another version"):
        Plan.from_json([])  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [
    {"schema": 1},
    {"schema": 1, "groups": []},
    {"schema": 1, "groups": {"0": {}}},
    {"schema": 1, "groups": {"0": {"keep": "many", "method": "l1"}}},
    {"schema": 1, "groups": {"0": {"keep": 2, "method": "l1", "kept": 5}}},
    {"schema": 1, "groups": {"0": 3}},
])
def test_a_damaged_plan_is_a_clear_error(data: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="plan"):
        Plan.from_json(data)


def test_digest_depends_on_counts_and_methods_only() -> None:
    one = Plan({"a": Cut(3, "l1", (0, 1, 2)), "b": Cut(2)})
    same = Plan({"b": Cut(2), "a": Cut(3, "l1", (4, 5, 6))}, "model")
    assert one.digest == same.digest
    assert len(one.digest) == 16
    others = [Plan({"a": Cut(4), "b": Cut(2)}), Plan({"a": Cut(3, "l2"), "b": Cut(2)}), Plan({"a": Cut(3)}), Plan()]
    assert len({p.digest for p in [one, *others]}) == 5


# -- aligned ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("units", "size", "align", "expected"), [
    (5.4, 10, 1, 5), (5.6, 10, 1, 6), (0.2, 10, 1, 1), (12.0, 10, 1, 10),
    (11, 64, 8, 8), (13, 64, 8, 16), (1, 64, 8, 8), (64, 64, 8, 64), (63, 64, 8, 64),
    (5, 6, 8, 5), (1, 6, 8, 1), (20, 20, 8, 20), (19, 20, 8, 16), (3, 8, 8, 3),
])
def test_aligned_by_hand(units: float, size: int, align: int, expected: int) -> None:
    assert aligned(units, size, align) == expected


@QUICK
@given(st.floats(0, 300), st.integers(1, 256), st.integers(1, 32))
def test_aligned_is_a_multiple_in_range_and_near(units: float, size: int, align: int) -> None:
    keep = aligned(units, size, align)
    assert 1 <= keep <= size
    assert keep % align == 0 or keep == size or size <= align
    nearest = min(max(units, 1 if size <= align else align), size)
    assert abs(keep - nearest) <= align


# -- making one ---------------------------------------------------------------------------------------------------


def test_uniform(graph: Graph) -> None:
    plan = Plan.uniform(graph, 0.5)
    assert {n: c.keep for n, c in plan.cuts.items()} == {"0": 5, "2": 3}
    assert plan.model == graph.fingerprint
    assert Plan.uniform(graph, 1.0).cuts == {}
    assert {n: c.keep for n, c in Plan.uniform(graph, 0.01).cuts.items()} == {"0": 1, "2": 1}
    assert {n: c.keep for n, c in Plan.uniform(graph, 0.5, align=4).cuts.items()} == {"0": 4, "2": 4}


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.01, float("nan"), "0.5"])
def test_uniform_refuses_fractions_out_of_range(graph: Graph, keep: float) -> None:
    with pytest.raises(ConfigError, match="fraction"):
        Plan.uniform(graph, keep)


def test_of_takes_fractions_and_counts(graph: Graph) -> None:
    plan = Plan.of(graph, {"0": 0.4, "2": 2}, {"0": "l2", "2": "random"})
    assert plan.cuts == {"0": Cut(4, "l2"), "2": Cut(2, "random")}
    assert Plan.of(graph, {"0": 1.0}).cuts["0"].keep == 10
    assert Plan.of(graph, {"0": 1}).cuts["0"].keep == 1


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.5, float("nan"), float("inf"), "0.5"])
def test_of_refuses_fractions_out_of_range(graph: Graph, keep: float) -> None:
    with pytest.raises(ConfigError, match="fraction"):
        Plan.of(graph, {"0": keep})


def test_of_says_which_group_has_no_method(graph: Graph) -> None:
    with pytest.raises(ConfigError, match="method") as info:
        Plan.of(graph, {"0": 0.5, "2": 0.5}, {"0": "l1"})
    assert "2" in str(info.value)


# -- checking one -------------------------------------------------------------------------------------------------


def test_everything_wrong_is_listed_at_once(graph: Graph) -> None:
    plan = Plan({"O": Cut(3), "zzzzzz": Cut(3), "0": Cut(0), "2": Cut(7)}, "another model")
    with pytest.raises(ConfigError) as info:
        graph.check(plan)
    text = str(info.value)
    assert "another model" in text
    assert graph.fingerprint in text
    assert "O: no such group" in text
    assert "zzzzzz: no such group; available: 0, 2" in text
    assert "0: keep 0 is not in 1 … 10" in text
    assert "2: keep 7 is not in 1 … 6" in text
    assert text.count("\n  - ") == 5


def test_an_unknown_group_gets_a_suggestion() -> None:
    net, x = make(Spec("image", 8, ("conv",), "mean", 0))
    graph = trace(net, x)
    with pytest.raises(ConfigError, match=r"did you mean 'blocks\.0\.parts\.0'"):
        graph.prune(Plan({"blocks.0.part.0": Cut(3)}))
    with pytest.raises(ConfigError, match=r"did you mean 'stem'"):
        graph.slices("steam")


@pytest.mark.parametrize("kept", [(0, 1), (0, 1, 1), (2, 1, 0), (0, 1, 10), (-1, 0, 1), (0, 1, 2, 3)])
def test_kept_indices_are_checked(graph: Graph, kept: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="kept indices must be 3 ascending ones below 10"):
        graph.check(Plan({"0": Cut(3, "l1", kept)}))


def test_an_unknown_method_gets_a_suggestion(graph: Graph) -> None:
    with pytest.raises(ConfigError, match="did you mean 'taylor'"):
        graph.prune(Plan({"0": Cut(3, "tailor")}))


def test_resolve_fills_in_the_indices_and_keeps_given_ones(graph: Graph) -> None:
    plan = graph.resolve(Plan({"0": Cut(3, "l1"), "2": Cut(2, "l1", (1, 4))}))
    assert plan.model == graph.fingerprint
    kept = plan.cuts["0"].kept
    assert kept is not None
    assert len(kept) == 3
    assert plan.cuts["2"].kept == (1, 4)
    assert graph.resolve(plan) == plan


def test_fingerprint_is_of_the_structure_not_of_the_weights() -> None:
    x = torch.randn(2, 4)

    def of(width: int, activation: nn.Module) -> str:
        return trace(nn.Sequential(nn.Linear(4, width), activation, nn.Linear(width, 3)), x).fingerprint

    assert of(8, nn.ReLU()) == of(8, nn.ReLU())
    assert len({of(8, nn.ReLU()), of(9, nn.ReLU()), of(8, nn.GELU())}) == 3


def test_groups_have_the_same_names_in_every_trace() -> None:
    """Plans go by name from file to file and from process to process."""
    net, x = make(Spec("tokens", 8, ("attention", "attention"), "mean", 0))
    first = {n: (g.size, g.tensors, g.width) for n, g in trace(net, x).groups.items()}
    for _ in range(8):
        again = {n: (g.size, g.tensors, g.width) for n, g in trace(net, x).groups.items()}
        assert again == first
        assert list(again) == list(first)


@pytest.mark.parametrize(("block", "expected"), [
    # a part of a concatenation: one channel per unit
    pytest.param("split", {"blocks.0.parts.0": {3: 1, 4: 1}}),
    pytest.param("chunk_half", {"stem": {4: 1}}),
    ("glu", {"blocks.0.parts.0": {8: 2}}),  # both halves go together
    ("grouped", {"stem": {2: 4, 4: 2}}),
])
def test_width_is_how_many_positions_go_with_a_unit(block: str, expected: dict[str, dict[int, int]]) -> None:
    net, x = make(Spec("image", 8, (block,), "mean", 0))
    graph = trace(net, x)
    for base, widths in expected.items():
        found = {g.size: g.width for n, g in graph.groups.items() if n.split(":")[0] == base}
        assert found == widths
