from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.errors import ConfigError
from autoprune.graph.graph import Graph
from autoprune.methods import registry
from autoprune.methods.choose import Ranking
from autoprune.search import space_problems
from autoprune.search.space import Space, list_spaces, load_space


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def problems_of(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_space(write(folder, text))
    return [line.removeprefix("  - ") for line in caught.value.message.splitlines()[1:]]


def test_every_shipped_space_loads() -> None:
    assert "default" in list_spaces()
    for name in list_spaces():
        space = load_space(name)
        assert space.name == name
        assert space.methods
        assert space.description
        assert space.trials >= 1


def test_all_problems_are_listed_with_their_lines(tmp_path: Path) -> None:
    found = problems_of(tmp_path, '''# methods, min_keep, lr and steps: mentioned in a comment
description = "the min_keep and the lr"
methods = ["l1", "tailor"]
min_kep = 0.1

[recover]
steps = -1
lr = "fast"
distil = 0.5
precision = "fp8"

[search]
trials = 0

[groups]
"stem*" = { keep = "half" }
"kind:heads" = { methods = ["geometric"], min_keep = 2 }
''')
    expected = {"line 3: unknown method 'tailor'; did you mean 'taylor'?": True, "line 4: unknown key 'min_kep'": True,
                "line 7: recover.steps must be at least 0": True, "line 8: recover.lr must be a number": True,
                "line 9: unknown key recover.distil; did you mean 'distill'?": True,
                "line 10: recover.precision must be auto, fp32 or bf16": True, "line 13: search.trials": True,
                "line 16: keep in": True, "line 17: unknown method 'geometric'": True, "line 17: min_keep": True}
    for start in expected:
        assert any(line.startswith(start) for line in found), (start, found)
    assert len(found) == len(expected)


def test_the_line_of_a_repeated_key_is_that_of_its_own_table(tmp_path: Path) -> None:
    found = problems_of(tmp_path, '''min_keep = 0.5
methods = ["l1"]
[groups."stem"]
min_keep = 0.3
[groups."head"]
min_keep = 7
methods = ["l1", "l3"]
''')
    assert [line.split(":")[0] for line in found] == ["line 7", "line 6"]


@pytest.mark.parametrize(("text", "word"), [
    ("recover = 3", "recover"), ("groups = []", "groups"), ("search = 'x'", "search"), ("methods = []", "methods"),
    ("methods = 'l1'", "methods"), ("methods = [1]", "methods"), ("min_keep = 0", "min_keep"),
    ("min_keep = true", "min_keep"), ("min_keep = nan", "min_keep"), ("min_keep = 1.01", "min_keep"),
    ("description = 4", "description"), ("[search]\ntrials = true", "trials"), ("[search]\ntrials = 1.5", "trials"),
    ("[recover]\nlr = nan", "lr"), ("[recover]\nlr = inf", "lr"), ("[recover]\nlr = 0", "lr"),
    ("[recover]\nsteps = 1.5", "steps"), ("[recover]\nsteps = true", "steps"),
    ("[recover]\ncalibration_batches = -1", "calibration_batches"), ("[recover]\ndistill = 1.1", "distill"),
    ("[recover]\nweight_decay = -1", "weight_decay"), ("[recover]\ntemperature = 0", "temperature"),
    ("[groups]\nstem = 3", "stem"),
])
def test_bad_values_are_refused_one_by_one(tmp_path: Path, text: str, word: str) -> None:
    found = problems_of(tmp_path, text)
    assert len(found) == 1
    assert word in found[0]
    assert found[0].startswith("line ")


def test_not_toml_and_not_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_space(write(tmp_path, "methods = ["))
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_space(tmp_path / "mine.toml")
    with pytest.raises(ConfigError, match="does not exist"):
        load_space(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match="does not exist"):
        load_space(tmp_path / "nowhere" / "x.toml")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        load_space("defualt")
    assert "did you mean 'default'" in str(caught.value)
    assert caught.value.exit_code == 2


_VALUES = st.one_of(st.booleans(), st.integers(-3, 3), st.floats(), st.text(max_size=3),
                    st.lists(st.integers(), max_size=2))


@settings(max_examples=80, deadline=None)
@given(data=st.dictionaries(st.sampled_from(["methods", "min_keep", "recover", "search", "groups", "x"]),
                            st.one_of(_VALUES, st.dictionaries(st.sampled_from(["steps", "lr", "trials", "stem", "y"]),
                                                               _VALUES, max_size=2)), max_size=3))
def test_whatever_a_file_holds_the_check_answers(data: dict[str, Any]) -> None:
    for where, what in space_problems.problems_of(data):
        assert all(isinstance(word, str) for word in where)
        assert what


@pytest.mark.parametrize("align", [1, 3, 4, 8, 16, 64])
def test_widths_are_multiples_and_end_with_the_whole_group(tiny_graph: Graph, align: int) -> None:
    for name, c in Space("x", min_keep=0.1).choices(tiny_graph, align).items():
        size = tiny_graph.groups[name].size
        assert c.widths[-1] == size
        assert list(c.widths) == sorted(set(c.widths))
        assert all(1 <= w <= size for w in c.widths)
        assert all(w >= 0.1 * size for w in c.widths)
        if size > align:
            assert all(w % align == 0 for w in c.widths[:-1])


def test_patterns_match_names_and_kinds_and_the_last_decides(tiny_graph: Graph) -> None:
    every = Space("x").choices(tiny_graph, 1)
    assert {g.kind for g in tiny_graph.groups.values()} == {"channels"}
    some = next(iter(every))
    rest = set(every) - {some}
    assert rest
    whole = {"keep": "whole"}
    assert set(Space("x", groups={some: whole}).choices(tiny_graph, 1)) == rest
    assert not Space("x", groups={"kind:channels": whole}).choices(tiny_graph, 1)
    assert set(Space("x", groups={"kind:features": whole}).choices(tiny_graph, 1)) == set(every)
    back = Space("x", groups={"kind:chan*": whole, some: {"methods": ["l2"], "min_keep": 0.5}}).choices(tiny_graph, 1)
    assert set(back) == {some}
    assert back[some].methods == ("l2",)
    assert min(back[some].widths) >= 0.5 * tiny_graph.groups[some].size
    # the last pattern replaces the earlier ones
    assert not Space("x", groups={some: {"methods": ["l2"]}, "*": whole}).choices(tiny_graph, 1)


def test_a_space_without_room_has_no_choices(tiny_graph: Graph) -> None:
    assert not Space("x", min_keep=1.0).choices(tiny_graph, 1)


def test_json_holds_everything(tmp_path: Path) -> None:
    path = write(tmp_path, 'min_keep = 0.25\n[groups]\nstem = { keep = "whole" }\n[search]\ntrials = 7\n'
                 'rankings = [{ scope = "layer", method = "l1" }]\n')
    data = load_space(path).to_json()
    assert data["name"] == "mine"
    assert data["groups"] == {"stem": {"keep": "whole"}}
    assert data["search"] == {"trials": 7, "rankings": [{"scope": "layer", "method": "l1"}]}
    assert data["min_keep"] == 0.25


LOUD = """
import torch
from autoprune.methods.criterion import Criterion, GroupView

class Loud(Criterion):
    \"\"\"Loudest weight.\"\"\"
    name = "loud_of_a_test"
    summary = "loudest weight"
    source = "a test"

    def score(self, group: GroupView) -> torch.Tensor:
        return torch.stack([s.values.abs().amax(1) for s in group.produced()]).amax(0)

class Taken(Loud):
    name = "l1"
"""


@pytest.fixture
def loud(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "crit.py"
    path.write_text(LOUD, encoding="utf-8")
    yield f"{path}:Loud"
    registry._CRITERIA.pop("loud_of_a_test", None)


def test_a_method_of_the_users_own_file(loud: str, tmp_path: Path, tiny_graph: Graph) -> None:
    space = load_space(write(tmp_path, f'''
methods = ["l1", "{loud}"]
[search]
rankings = [{{ scope = "global", method = "{loud}" }}]
[groups]
"kind:heads" = {{ methods = ["{loud}"] }}
'''))
    assert space.methods == ("l1", "loud_of_a_test")
    assert space.rankings == (("global", "loud_of_a_test"),)
    assert space.groups["kind:heads"]["methods"] == ("loud_of_a_test",)
    assert all(c.methods == space.methods for c in space.choices(tiny_graph, 1).values())
    graph_scores = Ranking(tiny_graph).scores(next(iter(tiny_graph.groups)), "loud_of_a_test")
    assert float(graph_scores.min()) >= 0
    again = load_space("default").with_methods(["l2", loud, "l2"])
    assert again.methods == ("l2", "loud_of_a_test")


@pytest.mark.parametrize(("name", "words"), [
    ("Taken", "of this name already"), ("torch", "not a pruning method"), ("GroupView", "not a pruning method"),
    ("Lout", "did you mean 'Loud'"), ("Criterion", "abstract")])
def test_a_method_that_cannot_be_loaded(loud: str, name: str, words: str, tmp_path: Path) -> None:
    spec = loud.replace("Loud", name)
    with pytest.raises(ConfigError, match=words):
        load_space("default").with_methods([spec])
    [problem] = problems_of(tmp_path, f'methods = ["{spec}"]')
    assert problem.startswith("line 1: ")
    assert words in problem


def test_other_methods_leave_out_rankings_by_those_that_went() -> None:
    space = Space("x", methods=("l1", "l2"), rankings=(("global", "l1"), ("layer", "l2")))
    assert space.with_methods(["l2", "random"]).rankings == (("layer", "l2"),)
    with pytest.raises(ConfigError, match="unknown pruning method"):
        space.with_methods(["tailor"])


@pytest.mark.parametrize(("rankings", "words"), [
    ("3", "must be a list of tables"), ("['global']", "must be a list of tables"),
    ("[{ scope = 'global' }]", "must be a list of tables"),
    ("[{ scope = 'globel', method = 'l1' }]", "did you mean 'global'"),
    ("[{ scope = 'layer', method = 'taylor' }]", "not among methods")])
def test_rankings_that_cannot_be(rankings: str, words: str, tmp_path: Path) -> None:
    [problem] = problems_of(tmp_path, f'methods = ["l1"]\n[search]\nrankings = {rankings}')
    assert problem.startswith("line 3: ")
    assert words in problem
