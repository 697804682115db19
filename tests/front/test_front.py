from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.errors import BudgetError, ConfigError
from autoprune.front.front import SCHEMA, Front, load_front
from autoprune.front.words import faster_sentence, gap_sentence
from autoprune.graph.plan import Plan
from autoprune.search.candidate import Candidate
from autoprune.search.outcome import pareto

from .build import candidate, dense, front_of, score, usual


@pytest.fixture
def front() -> Front:
    """dense 6 ms 98 %; 4 ms 97.5 %; 3 ms 95 %; 2 ms 80 %; dominated: 5 ms 97 %; failed."""
    return front_of([dense(), candidate(1, 4.0, 0.975), candidate(2, 3.0, 0.95), candidate(3, 2.0, 0.80),
                     candidate(4, 5.0, 0.97), Candidate(5, "search", Plan(), "failed", "Diverged: NaN")],
                    budget="4.5ms", budget_ms=4.5)


def test_points_are_the_undominated_ones_by_latency(front: Front) -> None:
    assert [p.number for p in front.points] == [3, 2, 1, 0]
    assert [p.candidate.ms for p in front.points] == [2, 3, 4, 6]


def test_dominance() -> None:
    a, b = candidate(1, 4.0, 0.9), candidate(2, 4.0, 0.9)
    assert not a.dominates(b)
    assert not b.dominates(a)
    assert candidate(3, 3.0, 0.9).dominates(a)
    assert candidate(4, 4.0, 0.91).dominates(a)
    assert not candidate(5, 3.0, 0.89).dominates(a)
    failed = Candidate(6, "search", Plan(), "failed", "no")
    assert a.dominates(failed)
    assert not failed.dominates(a)


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_dominates(values: list[tuple[int, int]]) -> None:
    found = [candidate(i, float(ms), v / 10) for i, (ms, v) in enumerate(values)]
    front = pareto(found)
    for c in found:
        assert any(p.ms <= c.ms and p.quality >= c.quality for p in front)
    assert not any(a.dominates(b) for a in found for b in front)
    assert len({(c.ms, c.quality) for c in front}) == len(front)


def test_pick_the_best_within_a_budget(front: Front) -> None:
    assert front.pick(budget="4ms").number == 1
    assert front.pick(budget="3.9ms").number == 2
    assert front.pick(budget="0.5x").number == 2
    assert front.pick(budget="400fps").number == 3
    assert front.pick(budget="1s").number == 0


def test_pick_the_fastest_within_a_drop(front: Front) -> None:
    assert front.pick(max_drop="1pp").number == 1
    assert front.pick(max_drop="3pp").number == 2
    assert front.pick(max_drop="0.18abs").number == 3
    assert front.pick(max_drop="0.1pp").number == 0
    assert front.pick(max_drop="0.5pp").number == 1  # exactly the drop counts as within


def test_pick_within_both(front: Front) -> None:
    assert front.pick(budget="4.5ms", max_drop="5pp").number == 2
    assert front.pick(budget="4.5ms", max_drop="1pp").number == 1
    with pytest.raises(BudgetError, match="budget 3ms and at most 1pp"):
        front.pick(budget="3ms", max_drop="1pp")


def test_pick_without_a_choice_uses_the_searchs_own(front: Front) -> None:
    assert front.pick().number == 1
    assert replace(front, max_drop="4pp").pick().number == 2
    assert replace(front, budget=None, budget_ms=None).pick() == front.pick(knee=True)


def test_the_knee_by_hand(front: Front) -> None:
    # scaled: (0, 0), (.25, .833), (.5, .972), (1, 1): distances 0, .583, .472, 0
    assert front.pick(knee=True).number == 2
    one = front_of([dense()])
    assert one.pick(knee=True).number == 0
    two = front_of([dense(), candidate(1, 3.0, 0.9)])
    assert two.pick(knee=True).number in (0, 1)


def test_a_missed_budget_tells_the_floor_and_the_closest(front: Front) -> None:
    with pytest.raises(BudgetError) as caught:
        front.pick(budget="1ms")
    assert caught.value.exit_code == 3
    text = str(caught.value)
    assert "no candidate meets budget 1ms" in text
    assert "trial 3" in text
    assert "2.00 ms" in text
    assert "floor" in text
    assert "cpu" in text


def test_a_budget_that_is_missed_because_all_failed_says_so() -> None:
    failed = [Candidate(n, "search", Plan(), "failed", "Diverged: NaN") for n in (1, 2)]
    with pytest.raises(BudgetError, match="all pruned ones failed") as caught:
        front_of([dense(), *failed], budget="4.5ms", budget_ms=4.5).pick()
    assert "2 failed; the last: Diverged: NaN" in str(caught.value)
    with pytest.raises(BudgetError, match="no candidate meets budget"):
        front_of([dense(), candidate(3, 7.0, 0.9), *failed], budget="4.5ms", budget_ms=4.5).pick()


def test_a_search_that_saw_the_dense_model_only_claims_nothing_of_the_budget() -> None:
    with pytest.raises(BudgetError, match="no pruned model was evaluated") as caught:
        front_of([dense()], budget="4.5ms", budget_ms=4.5).pick()
    assert "--timeout" in str(caught.value.fix)
    with pytest.raises(BudgetError) as caught:
        front_of([dense(), candidate(1, 3.0, 0.9)]).pick(max_drop="1pp", budget="4ms")
    assert "a larger --max-drop" in str(caught.value.fix)


def test_weights_that_are_damaged_name_the_trial(tmp_path: Path) -> None:
    point = replace(front_of([dense(), candidate(1, 3.0, 0.9)]), run=tmp_path).points[0]
    point.folder.mkdir(parents=True)
    with pytest.raises(ConfigError, match=f"the weights of trial {point.number} cannot be read") as caught:
        point.load()
    assert "--fresh" in str(caught.value.fix)


def test_nothing_succeeded() -> None:
    none = replace(front_of([dense()]), candidates=[Candidate(0, "control: dense", Plan(), "failed", "no")])
    assert none.points == []
    for ways in ({"budget": "9ms"}, {"knee": True}, {}):
        with pytest.raises(BudgetError, match="no candidate succeeded"):
            none.pick(**ways)  # type: ignore[arg-type]


def test_pick_a_trial(front: Front, tmp_path: Path) -> None:
    front = replace(front, run=tmp_path)
    (tmp_path / "candidates" / "0002").mkdir(parents=True)
    assert front.pick(trial=2).folder == tmp_path / "candidates" / "0002"
    for trial, reason in ((4, "were not kept"), (5, "it failed: Diverged: NaN"), (99, "no such trial"),
                          (-1, "no such trial")):
        with pytest.raises(ConfigError, match=reason) as caught:
            front.pick(trial=trial)
        assert caught.value.exit_code == 2
        assert "on the front: 3, 2, 1, 0" in str(caught.value)


@pytest.mark.parametrize("ways", [{"trial": 2, "budget": "4ms"}, {"knee": True, "max_drop": "1pp"},
                                  {"knee": True, "trial": 2}])
def test_one_way_at_a_time(front: Front, ways: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="one way at a time"):
        front.pick(**ways)


@pytest.mark.parametrize("budget", ["4", "4 parsecs", "-1ms", "", "ms"])
def test_bad_budgets_are_refused(front: Front, budget: str) -> None:
    with pytest.raises(ConfigError):
        front.pick(budget=budget)


def test_a_percentile_that_was_not_measured_is_refused(front: Front) -> None:
    with pytest.raises(ConfigError, match="another percentile"):
        front.pick(budget="1s@p99")
    assert front.pick(budget="1s@p50").number == front.pick(budget="1s").number


def test_a_metric_where_less_is_better() -> None:
    def loss(number: int, ms: float, value: float) -> Candidate:
        return replace(candidate(number, ms, 0.5), score=score(value, metric="mse", higher_is_better=False))
    front = front_of([loss(0, 6, 1.0), loss(1, 4, 1.5), loss(2, 5, 2.0), loss(3, 2, 3.0)], metric="mse",
                     higher_is_better=False)
    assert [p.number for p in front.points] == [3, 1, 0]
    assert front.pick(budget="5ms").number == 1
    assert front.drop(front.candidates[1]) == pytest.approx(0.5)
    assert front.pick(max_drop="0.5abs").number == 1
    assert front.pick(max_drop="2abs").number == 3
    # against (4.0, 10 ms): 8 × 1 + 6 × 1.5 + 4 × 0.5
    assert front.hypervolume((4.0, 10.0)) == pytest.approx(8 * 1 + 6 * 1.5 + 4 * 0.5)


def test_the_hypervolume_by_hand(front: Front) -> None:
    assert front.hypervolume((0.7, 10.0)) == pytest.approx(8 * 0.1 + 7 * 0.15 + 6 * 0.025 + 4 * 0.005)
    # beyond the reference nothing counts: (4 ms, .975) and slower are out, .80 is below .9
    assert front.hypervolume((0.9, 4.0)) == pytest.approx(1 * 0.05)
    assert front.hypervolume((0.99, 10.0)) == 0
    assert front.hypervolume((0.0, 1.0)) == 0
    assert replace(front_of([dense()]), candidates=[]).hypervolume((0.0, 10.0)) == 0


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8)), min_size=1, max_size=10),
       extra=st.tuples(st.integers(1, 8), st.integers(0, 8)))
def test_another_candidate_never_lowers_the_hypervolume(values: list[tuple[int, int]], extra: tuple[int, int]) -> None:
    found = [candidate(i, float(ms), v / 10) for i, (ms, v) in enumerate([*values, extra])]
    less, more = front_of(found[:-1]), front_of(found)
    assert more.hypervolume((0.1, 7.0)) >= less.hypervolume((0.1, 7.0)) - 1e-12


def test_json_there_and_back(tmp_path: Path) -> None:
    front = usual()
    text = json.dumps(front.to_json())
    again = Front.from_json(json.loads(text), front.run)
    assert again == replace(front, candidates=again.candidates, dense=again.dense)
    assert again.to_json() == front.to_json()
    assert [p.number for p in again.points] == json.loads(text)["points"]
    (tmp_path / "front.json").write_text(text)
    assert load_front(tmp_path).to_json() == front.to_json()
    assert load_front(str(tmp_path)).run == tmp_path


@pytest.mark.parametrize("schema", [SCHEMA + 1, None, "1"])
def test_another_schema_is_refused(schema: object) -> None:
    with pytest.raises(ConfigError, match="another version"):
        Front.from_json({**usual(5).to_json(), "schema": schema}, "x")


@pytest.mark.parametrize(("text", "message"), [
    ("{", "cannot be read"), ("[]", "not a front"), ('{"schema": 1}', "not complete"),
    ('{"schema": 1, "task": "x", "candidates": 3}', "not complete")])
def test_a_broken_front_is_a_clear_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "front.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_front(tmp_path)


def test_a_folder_without_a_front(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no front"):
        load_front(tmp_path / "nowhere")


def test_what_is_lost_is_told_of_one_split() -> None:
    point = candidate(1, 3.0, 0.9)
    assert front_of([dense(test=0.97), point]).test_drop(point) == pytest.approx(dense().quality - 0.9)
    tested = candidate(1, 3.0, 0.9, test=0.95)
    assert front_of([dense(test=0.97), tested]).test_drop(tested) == pytest.approx(0.02)
    assert front_of([dense(), tested]).test_drop(tested) == pytest.approx(dense().quality - 0.9)


def test_scores_of_points_prefer_the_test_split() -> None:
    front = front_of([dense(test=0.97), candidate(1, 3.0, 0.9)])
    by_number = {p.number: p for p in front.points}
    assert by_number[0].score.split == "test"
    assert by_number[1].score.split == "validation"


def test_candidates_survive_json_without_kept_indices() -> None:
    c = candidate(3, 2.0, 0.9, test=0.8)
    assert Candidate.from_json(json.loads(json.dumps(c.to_json()))) == c
    failed = Candidate(4, "search", Plan(), "failed", "why")
    assert Candidate.from_json(json.loads(json.dumps(failed.to_json()))) == failed
    assert failed.ms == float("inf")
    assert failed.quality == float("-inf")


def test_a_faster_point_within_one_standard_error_is_named() -> None:
    """The standard error is 0.9 points."""
    found = [dense(), candidate(1, 4.0, 0.97), candidate(2, 3.9, 0.968), candidate(3, 2.0, 0.962),
             candidate(4, 1.0, 0.96)]
    front = front_of(found)
    assert front.faster_as_good(found[1]) == found[3]
    said = faster_sentence(front, found[1])
    assert said == ("trial 3 is 2.00x as fast as trial 1, and within one standard error of it on the validation split "
                    "(96.2 % and 97.0 % ± 0.9)")
    assert front.faster_as_good(found[4]) is None
    assert faster_sentence(front_of(found[:3]), found[1]) is None  # 4.0 to 3.9 ms is no difference


def test_the_selection_gap_by_hand() -> None:
    """Points lose 4 and 2 points on the test split, the dense model 1; what is dominated does not count."""
    rows = [dense(test=0.97), candidate(1, 4.0, 0.95, test=0.91), candidate(2, 3.0, 0.90, test=0.88),
            candidate(3, 5.0, 0.90, test=0.50)]
    front = front_of(rows)
    assert front.selection_gap == pytest.approx((0.04 + 0.02) / 2 - 0.01)
    assert front.to_json()["selection_gap"] == front.selection_gap
    said = gap_sentence(front)
    assert said is not None
    assert "look 2.0 pp better than on the test split" in said
    assert front_of([dense(), candidate(1, 4.0, 0.95)]).selection_gap is None
    assert front_of([dense(test=0.97)]).selection_gap is None
    assert gap_sentence(front_of([dense(test=0.97)])) is None


def test_the_selection_gap_where_less_is_better() -> None:
    rows = [dense(value=1.0, test=1.0), candidate(1, 4.0, 2.0, test=2.5)]
    rows = [replace(c, score=replace(c.score, higher_is_better=False), test=replace(c.test, higher_is_better=False))
            for c in rows if c.score is not None and c.test is not None]
    assert replace(front_of(rows), higher_is_better=False).selection_gap == pytest.approx(0.5)
