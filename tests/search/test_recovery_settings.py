"""[recover] and [schedule] of a space, from the file to the candidates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import CountingTask, batches, tiny_task, trained

from autoprune.devices.latency import Latency
from autoprune.errors import ConfigError
from autoprune.graph.graph import Graph
from autoprune.graph.plan import Plan
from autoprune.search.pipeline import Pipeline
from autoprune.search.space import Space, load_space

RECOVER = {"steps": 2, "calibration_batches": 1}


def pipeline(graph: Graph, recover: dict[str, Any] | None = None, schedule: dict[str, Any] | None = None,
             task: CountingTask | None = None, methods: tuple[str, ...] = ("l1",)) -> Pipeline:
    space = Space("x", methods=methods, recover={**RECOVER, **(recover or {})}, schedule=schedule or {})
    return Pipeline(task or tiny_task(), graph, space)


def evaluated(work: Pipeline, plan: Plan) -> Any:
    return work.evaluate(0, "test", plan, Latency(1, 1, 1, "p50", "profile", "rpi4", "none", "", 1, 1))[1]


@pytest.mark.parametrize("method", ["l1", "greedy", "lasso", "obs", "reduce_and_reuse"])
@pytest.mark.parametrize("schedule", [{}, {"kind": "iterative", "cycles": 2},
                                      {"kind": "gradual", "cycles": 2, "soft": True}], ids=["once", "hard", "soft"])
def test_every_schedule_ends_with_the_plan(tiny_graph: Graph, method: str, schedule: dict[str, Any]) -> None:
    plan = Plan.uniform(tiny_graph, 0.5, method)
    work = pipeline(tiny_graph, schedule=schedule)
    model = evaluated(work, plan)
    assert {n: c.keep for n, c in model.plan.cuts.items()} == {n: c.keep for n, c in plan.cuts.items()}
    assert model.plan.digest == plan.digest
    again = evaluated(pipeline(tiny_graph, schedule=schedule), plan)
    assert all(torch.equal(t, again.tensors()[n]) for n, t in model.tensors().items())


def test_least_squares_is_nearer_to_the_dense_net(tiny_graph: Graph) -> None:
    x = torch.cat([inputs for inputs, _ in batches(3, 2)])
    plan = Plan.uniform(tiny_graph, 0.5, "l1")
    wanted = tiny_graph.dense()(x).detach()
    errors = [float((pipeline(tiny_graph, {"least_squares": on}).prune(plan)(x).detach() - wanted).square().mean())
              for on in (False, True)]
    assert errors[1] < 0.3 * errors[0]


@pytest.mark.parametrize("recover", [{"distill_features": 1.0}, {"patience": 1, "steps": 4}])
def test_other_keys_of_recovery_reach_the_training(tiny_graph: Graph, recover: dict[str, Any]) -> None:
    """The stream of the residual net stays whole, so that its sum can be compared."""
    plan = Plan.of(tiny_graph, {"inner": 0.5})
    with_key, without = (evaluated(pipeline(tiny_graph, r), plan).tensors() for r in (recover, {"steps": 4}))
    assert any(not torch.equal(t, without[n]) for n, t in with_key.items())


def test_features_of_a_saved_candidate(tiny_graph: Graph, tmp_path: Path) -> None:
    from autoprune.graph.module import load_module

    work = pipeline(tiny_graph, {"distill_features": 1.0})
    model = evaluated(work, Plan.of(tiny_graph, {"inner": 0.5}))
    before = {n: t.clone() for n, t in model.tensors().items()}
    loaded = load_module(model.save(tmp_path))
    work.tune(loaded)
    assert any(not torch.equal(t, before[n]) for n, t in loaded.tensors().items())


def test_learned_sparsity_trains_the_dense_net_once_for_all_candidates(tiny_graph: Graph) -> None:
    work = pipeline(tiny_graph, schedule={"penalty_steps": 3, "group_lasso": 1e-3})
    first, second = (work.prune(Plan.of(tiny_graph, {"inner": keep})) for keep in (0.5, 0.25))
    assert work.source is not tiny_graph
    rows = work.source.captured.tensors["stem.weight"]
    assert not torch.equal(rows, tiny_graph.captured.tensors["stem.weight"])
    assert torch.equal(first.get_submodule("stem").weight, rows)
    assert torch.equal(second.get_submodule("stem").weight, rows)


def test_rewinding_to_a_file_or_to_what_the_task_has(tiny_graph: Graph, tmp_path: Path) -> None:
    early = {n: t + 1 if t.is_floating_point() else t for n, t in trained().state_dict().items()}
    save_file(early, tmp_path / "early.safetensors")
    task = tiny_task()
    task.early = early
    plan = Plan.of(tiny_graph, {"inner": 0.5})
    for work in (pipeline(tiny_graph, {"start": "rewind", "checkpoint": str(tmp_path / "early.safetensors")}),
                 pipeline(tiny_graph, {"start": "rewind"}, task=task)):
        model = work.prune(plan)
        kept = list(model.plan.cuts["inner"].kept or ())
        torch.testing.assert_close(model.get_submodule("inner").weight.detach(), early["inner.weight"][kept])
        assert kept == list(tiny_graph.resolve(plan).cuts["inner"].kept or ())  # ranked by the trained weights


def test_random_weights_are_no_longer_the_trained_ones(tiny_graph: Graph) -> None:
    model = pipeline(tiny_graph, {"start": "random"}).prune(Plan.of(tiny_graph, {"inner": 0.5}))
    assert not torch.equal(model.get_submodule("stem").weight, tiny_graph.captured.tensors["stem.weight"])


def test_the_dense_control_is_the_model_as_it_came(tiny_graph: Graph) -> None:
    """Whatever pruned candidates start from."""
    dense = evaluated(pipeline(tiny_graph, {"start": "random"}), Plan())
    assert all(torch.equal(t, tiny_graph.captured.tensors[n]) for n, t in dense.tensors().items())


def test_rewinding_without_a_checkpoint_is_found_before_any_training(tiny_graph: Graph) -> None:
    task = tiny_task()
    with pytest.raises(ConfigError, match="needs the weights of an earlier checkpoint") as caught:
        pipeline(tiny_graph, {"start": "rewind"}, task=task)
    assert "checkpoint" in str(caught.value.fix)
    assert set(task.evaluations.values()) == {0}


@pytest.mark.parametrize(("text", "says"), [
    ("[schedule]\nkind = \"iterativ\"", "line 2: schedule.kind must be one-shot, iterative or gradual"),
    ("[schedule]\ncycels = 3", "line 2: unknown key schedule.cycels; did you mean 'cycles'?"),
    ("[schedule]\ncycles = 0", "line 2: schedule.cycles must be at least 1"),
    ("[schedule]\nsoft = 1", "line 2: schedule.soft must be true or false"),
    ("schedule = 3", "[schedule] must be a table"),
    ("[recover]\nsteps = 2\n[schedule]\nkind = \"gradual\"\ncycles = 4", "never reaches its target"),
    ("[recover]\nleast_squares = \"yes\"", "line 2: recover.least_squares must be true or false"),
    ("[recover]\npatience = -1", "line 2: recover.patience must be at least 0"),
    ("[recover]\ndistill_features = -1", "line 2: recover.distill_features must be at least 0"),
    ("[recover]\nstart = \"rewnd\"", "unknown start of recovery"),
])
def test_wrong_settings_are_listed_with_the_file(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_space(path)
    assert says in caught.value.message


def test_the_schedule_is_part_of_what_a_run_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[schedule]\nkind = \"iterative\"\ncycles = 3\n", encoding="utf-8")
    assert load_space(path).to_json()["schedule"] == {"kind": "iterative", "cycles": 3}
