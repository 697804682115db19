"""The names that other people's code relies on, used as `product.md` writes them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TinyNet, batches, tiny_task, trained

import autoprune
from autoprune.api import run_settings
from autoprune.cli.search import _close
from autoprune.config import Settings
from autoprune.devices.device import load_device
from autoprune.errors import BudgetError, ConfigError, ModelError, TaskError

pytestmark = pytest.mark.system


def rows(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_every_public_name_is_there() -> None:
    for name in autoprune.__all__:
        assert getattr(autoprune, name) is not None
    assert set(dir(autoprune)) == set(autoprune.__all__)
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        _ = autoprune.serach


def test_trace_plan_prune_save_load(tmp_path: Path) -> None:
    model = trained()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    graph = autoprune.trace(model, (rows(1),))
    assert graph.groups
    for name, group in graph.groups.items():
        assert group.name == name
        assert group.size > 1
        assert group.kind
        assert group.tensors
    assert all(len(f) == 3 and all(f) for f in graph.frozen)
    plan = autoprune.Plan.uniform(graph, keep=0.7, method="l1", align=1)
    small = graph.prune(plan)
    assert isinstance(small, torch.nn.Module)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    small.train()
    torch.nn.functional.cross_entropy(small(rows(4)), torch.tensor([0, 1, 2, 3])).backward()
    assert all(p.grad is not None for p in small.parameters())
    small.eval()
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    small.save(tmp_path / "out")
    loaded = autoprune.load(tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(loaded(rows()), small(rows()))
    assert loaded(rows(5)).shape == (5, 4)


@pytest.fixture
def one_core() -> Iterator[None]:
    """For what is measured with a thread per core: beside other tests these spend their time waiting for each other."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)


def test_measure_and_oracle(one_core: None) -> None:
    model, x = trained(), (rows(1),)
    here = autoprune.measure(model, x, device="cpu")
    assert isinstance(here, autoprune.Latency)
    assert here.source == "measured"
    there = autoprune.LatencyOracle("rpi4")(model, x)
    assert there.source == "profile"
    assert there.device == "rpi4"
    assert there.lo_ms <= there.ms <= there.hi_ms
    graph = autoprune.trace(model, x)
    small = graph.prune(autoprune.Plan.uniform(graph, keep=0.25))
    assert autoprune.LatencyOracle("rpi4")(small, x).ms < there.ms


def test_a_tuning_that_fails_costs_nothing_but_itself(memory_path: Path, quick_export: None,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("autoprune.search.pipeline.Pipeline.tune", broken)
    task = autoprune.Task(trained(), train=batches(3, 2), validation=batches(2, 3), test=batches(2, 4))
    stages: list[str] = []
    settings = Settings(device="rpi4", budget="0.8x", trials=5, steps=1, run=str(memory_path / "a"))
    front, _ = run_settings(settings, task, on_stage=stages.append)
    assert "it stays as it was: RuntimeError: out of memory" in stages
    assert front.recommended is not None
    assert (memory_path / "a" / "front.json").is_file()
    assert (memory_path / "a" / "picked" / f"{front.recommended:04d}" / "model.onnx").is_file()


def test_an_export_that_fails_takes_no_front_away(memory_path: Path, quick_export: None, monkeypatch: pytest.MonkeyPatch
                                                  ) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ModelError("onnxruntime and torch differ")

    monkeypatch.setattr("autoprune.api.export", broken)
    task = autoprune.Task(trained(), train=batches(3, 2), validation=batches(2, 3), test=batches(2, 4))
    settings = Settings(device="rpi4", budget="0.8x", trials=4, steps=1, run=str(memory_path / "a"))
    with pytest.raises(ModelError, match="differ"):
        run_settings(settings, task)
    front = autoprune.load_front(str(memory_path / "a"))
    assert front.recommended is not None
    assert (memory_path / "a" / "report.html").is_file()


def test_a_test_score_that_is_no_number_is_left_out(memory_path: Path, quick_export: None) -> None:
    """A correlation, say, where the target does not vary."""
    def metric(outputs: Any, target: Any) -> float:
        return float("nan") if len(target) == 3 else float((outputs.argmax(1) == target).float().mean())

    task = autoprune.Task(trained(), train=batches(3, 2), validation=batches(2, 3),
                          test=[(x[:3], y[:3]) for x, y in batches(1, 4)], metric=metric)
    stages: list[str] = []
    settings = Settings(device="rpi4", budget="0.8x", trials=4, steps=1, run=str(memory_path / "a"))
    front, _ = run_settings(settings, task, on_stage=stages.append)
    assert front.recommended is not None
    assert any("has no test score" in stage for stage in stages)
    assert all(c.test is None for c in front.candidates)


def test_search_twice_front_and_load(memory_path: Path, quick_export: None) -> None:
    task = autoprune.Task(trained(), train=batches(3, 2), validation=batches(2, 3), test=batches(2, 4),
                          metric="accuracy", loss="cross_entropy")
    run = memory_path / "runs" / "a"
    seen: list[int] = []
    arguments: dict[str, Any] = {"device": "rpi4", "budget": "0.8x", "run": str(run), "seed": 0, "steps": 1}
    front = autoprune.search(task, trials=4, on_progress=lambda p: seen.append(p.done), **arguments)
    assert seen == [0, 1, 2, 3, 4]
    # the package of the same name is imported by now: the function must still be there
    again = autoprune.search(task, trials=4, **arguments)
    assert [c.to_json() for c in again.candidates] == [c.to_json() for c in front.candidates]
    assert front.points
    assert front.dense.test is not None
    assert front.hypervolume((0.0, 1.0)) > 0
    point = front.pick(budget="0.8x")
    assert point.latency.ms <= 0.8 * front.dense.ms
    model = point.load()
    with torch.no_grad():
        assert torch.equal(model(rows()), autoprune.load(run, trial=point.number)(rows()))
        assert autoprune.load(run)(rows()).shape == (2, 4)
    assert autoprune.load_front(run).to_json() == again.to_json()
    with pytest.raises(BudgetError):
        front.pick(budget="1us")
    with pytest.raises(ConfigError, match="belongs to another search"):
        autoprune.search(task, trials=4, **{**arguments, "budget": "0.7x"})
    other = autoprune.search(task, trials=1, fresh=True, **{**arguments, "budget": "0.7x"})
    assert len(other.candidates) == 1
    assert other.recommended is None


def test_several_budgets_get_a_model_each(memory_path: Path, quick_export: None,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    task = autoprune.Task(trained(), train=batches(3, 2), validation=batches(2, 3), test=batches(2, 4))
    run = memory_path / "a"
    front = autoprune.search(task, device="rpi4", budget="0.9x,0.6x,1us", trials=10, steps=1, run=str(run))
    assert (front.budget, list(front.further)) == ("0.9x", ["0.6x", "1us"])
    assert not front.met
    loose, tight = front.recommended, front.further["0.6x"]
    assert loose is not None
    assert tight is not None
    assert front.further["1us"] is None
    assert front.pick(trial=loose).latency.ms <= 0.9 * front.dense.ms
    assert front.pick(trial=tight).latency.ms <= 0.6 * front.dense.ms
    for number in (loose, tight):
        assert (run / "picked" / f"{number:04d}" / "model.onnx").is_file()
    assert autoprune.load_front(run).to_json() == front.to_json()
    assert f"trial {tight}" in (run / "report.html").read_text()
    _close(front, interrupted=False)
    told = capsys.readouterr()
    assert f"recommended for 0.9x: trial {loose}," in told.out
    assert f"recommended for 0.6x: trial {tight}," in told.out
    assert "no candidate meets budget 1us" in told.err


def test_a_point_that_tuning_made_the_best_is_every_larger_budgets(memory_path: Path, quick_export: None,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    original, tuned = autoprune.Task.evaluate, list[int]()

    def evaluate(self: autoprune.Task, model: torch.nn.Module, *arguments: Any, **values: Any) -> Any:
        """The larger the better, so that each budget has a point of its own."""
        size = sum(p.numel() for p in model.parameters())
        return replace(original(self, model, *arguments, **values), value=size / 1e6)

    def tune(search: Any, outcome: Any, number: int, say: Any) -> Any:
        tuned.append(number)
        found = {c.number: c for c in outcome.candidates}
        if number == min((n for n in tuned), key=lambda n: found[n].ms):  # the fastest so far comes out perfect
            found[number] = replace(found[number], score=replace(found[number].score, value=9.0))
        return replace(outcome, candidates=list(found.values()))

    monkeypatch.setattr("autoprune.search.finish.tune", tune)
    monkeypatch.setattr(autoprune.Task, "evaluate", evaluate)
    task = autoprune.Task(trained(), train=batches(3, 2), validation=batches(2, 3), test=batches(2, 4))
    run = memory_path / "a"
    front = autoprune.search(task, device="rpi4", budget="0.9x,0.6x", trials=10, steps=1, run=str(run))
    assert len(tuned) == 2
    fastest = min(tuned, key=lambda n: front.candidates[n].ms)
    assert (front.recommended, front.further) == (fastest, {"0.6x": fastest})
    assert [p.name for p in (run / "picked").iterdir()] == [f"{fastest:04d}"]


def test_search_is_callable_whatever_was_imported_before() -> None:
    code = ("import autoprune\nfrom autoprune.search.space import load_space\nimport autoprune.search.space as s\n"
            "try:\n    autoprune.search(None, device='rasberry')\nexcept autoprune.AutopruneError as e:\n"
            "    print(e.message, s.__name__)\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "unknown device autoprune.search.space\n"


def test_import_is_cheap() -> None:
    code = "import sys, autoprune; print(sorted({'torch', 'optuna', 'onnx', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(("values", "message"), [
    ({"device": "rp4"}, "unknown device"), ({"budget": "20"}, "has no unit"), ({"max_drop": "1"}, "needs a unit"),
    ({"timeout": "1"}, "needs a unit"), ({"space": "defualt"}, "unknown search space"), ({"trials": 0}, "trials"),
    ({"steps": -1}, "steps"), ({"sampler": "tpo"}, "unknown sampler"), ({"threads": 0}, "threads"),
    ({"seed": -1}, "seed"), ({"trials": "2"}, "whole number"), ({"max_drop": 0.01}, "text with a unit"),
    ({"timeout": 60}, "text with a unit"), ({"device": 5}, "not a device"), ({"methods": 3}, "list of names"),
    ({"methods": ["l1", "lassso"]}, "lassso"), ({"task": TinyNet()}, "not a task")])
def test_wrong_arguments_are_found_first(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        autoprune.search(**values)


def test_wrong_tasks_are_found_before_the_search(tmp_path: Path) -> None:
    data = [(rows(4), torch.tensor([1, 2, 3, 4]))]
    wrong = autoprune.Task(TinyNet(), train=data, validation=data)
    with pytest.raises(TaskError, match="out of range"):
        autoprune.search(wrong, device="rpi4", run=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(TaskError, match=r"not a torch\.nn\.Module"):
        autoprune.Task(TinyNet, train=batches(1, 0))  # type: ignore[arg-type]


@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_load_of_a_folder_without_a_model(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no saved model"):
        autoprune.load(tmp_path / folder)


def test_a_device_and_paths_as_settings() -> None:
    device = load_device("raspberrypi")
    assert load_device(device) is device
    assert Settings(device=device, space=Path("a.toml")).to_json()["space"] == "a.toml"  # type: ignore[arg-type]


def test_default_run_folders() -> None:
    from autoprune.api import default_run

    assert default_run("digits example", "rpi4", "20ms") == "runs/digits_example-rpi4-20ms"
    assert default_run("a/../b:c", "cpu", None) == "runs/a_.._b_c-cpu-nobudget"
    assert default_run("x", "cpu", "50fps@p90") == "runs/x-cpu-50fps_p90"


def test_where_settings_come_from(tmp_path: Path) -> None:
    from autoprune.config import load_settings

    path = tmp_path / "my.toml"
    path.write_text('device = "rpi5"\nbudget = "9ms"\ntrials = 7\n')
    found = load_settings(path, {"trials": 9, "space": None}, {"AUTOPRUNE_BUDGET": "8ms", "AUTOPRUNE_TRIALS": "8"})
    assert (found.device, found.budget, found.trials, found.space) == ("rpi5", "8ms", 9, "default")


def test_the_task_of_the_front_is_not_changed_by_fine_tuning(finished: Any) -> None:
    from autoprune.api import finetune_point

    task = tiny_task()
    before = {n: t.clone() for n, t in task.model.state_dict().items()}
    point = finished.front.pick(trial=finished.front.recommended)
    model, int8, better = finetune_point(finished.front, point, task, steps=2)
    assert int8 is None  # the point is in fp32
    assert better.number == point.number
    assert better.candidate.steps == point.candidate.steps + 2
    assert better.candidate.test is not None
    assert not model.training
    assert all(torch.equal(t, before[n]) for n, t in task.model.state_dict().items())
    with torch.no_grad():  # and the weights on disk neither
        assert not torch.equal(point.load()(rows()), model(rows()))
