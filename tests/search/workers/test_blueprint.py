from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from tiny import CountingTask, tiny_task

from autoprune.errors import ConfigError, ModelError
from autoprune.graph.graph import Graph, trace
from autoprune.graph.plan import Plan
from autoprune.search.pipeline import Pipeline
from autoprune.search.space import space_for
from autoprune.search.workers.blueprint import Blueprint, user_modules
from autoprune.search.workers.cluster import _unpack, find_ray


@pytest.fixture
def blueprint(user_file: Path, tiny_graph: Graph) -> Blueprint:
    return Blueprint(None, f"{user_file}:make", f"{user_file}:loaders", None, None, "default", "l1, taylor", 1, 3,
                     tiny_graph.fingerprint, str(user_file.parent))


@pytest.mark.parametrize("by_name", [True, False])
def test_what_is_built_elsewhere_evaluates_as_here(blueprint: Blueprint, by_name: bool, tiny_graph: Graph,
                                                   monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from autoprune.devices.latency import Latency

    monkeypatch.chdir(tmp_path)  # a worker begins anywhere
    blueprint = replace(blueprint, model="nets.py:make", data="nets.py:loaders")
    there = (blueprint if by_name else replace(blueprint, task=tiny_task())).build()
    here = Pipeline(tiny_task(), tiny_graph, space_for("default", "l1,taylor", 1), 3)
    plan = Plan.uniform(tiny_graph, 0.5, "taylor")
    latency = Latency(1, 1, 1, "p50", "profile", "rpi4", "onnxruntime", "1", 4, 10)
    a, b = (p.evaluate(1, "x", plan, latency) for p in (here, there))
    assert a[0].score == b[0].score
    assert a[0].plan == b[0].plan
    for name, tensor in a[1].tensors().items():
        assert torch.equal(tensor, b[1].tensors()[name])


def test_another_model_is_refused(blueprint: Blueprint) -> None:
    with pytest.raises(ModelError, match="another model"):
        replace(blueprint, fingerprint="0123").build()


def test_code_that_is_not_installed_travels_with_the_task() -> None:
    assert user_modules(tiny_task()) == [tiny]
    from transformers import ResNetConfig, ResNetForImageClassification

    net = ResNetForImageClassification(ResNetConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], num_labels=4,
                                                    num_channels=1))
    assert user_modules(CountingTask(net, train=tiny.batches(2, 1), validation=tiny.batches(2, 1))) == [tiny]


def test_code_of_data_and_metric_travels_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    (tmp_path / "my_rows.py").write_text("""
import torch
class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, i):
        return torch.zeros(1, 8, 8), i % 4
def collate(rows):
    return torch.stack([x for x, _ in rows]), torch.tensor([y for _, y in rows])
""")
    (tmp_path / "my_metric.py").write_text("def hits(outputs, target):\n    return 1.0 * (outputs.argmax(1) == target)")
    monkeypatch.syspath_prepend(str(tmp_path))
    rows, metric = importlib.import_module("my_rows"), importlib.import_module("my_metric")
    loader = torch.utils.data.DataLoader(rows.Rows(), batch_size=4, collate_fn=rows.collate)
    task = tiny.Task(tiny.trained(), train=loader, metric=metric.hits)
    assert {m.__name__ for m in user_modules(task)} == {"my_rows", "my_metric", "tiny"}


def test_shuffled_data_give_every_process_the_same_batches(tiny_graph: Graph) -> None:
    from autoprune.tasks.batches import TensorBatches

    inputs, target = (torch.cat(parts) for parts in zip(*tiny.batches(6, 1), strict=True))
    task = CountingTask(tiny.trained(), train=TensorBatches(inputs, target, 16, shuffle=True),
                        validation=tiny.batches(2, 3))
    first, second = (Pipeline(task, trace(task.model, task.example_inputs), space_for("default"), 5).calibration()
                     for _ in range(2))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(first, second, strict=True))


def test_files_are_written_whole_and_into_their_folder_only(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    _unpack({"../../escape.txt": b"no", "plan.json": b"{}"}, tmp_path / "a" / "0001")
    assert sorted(f.name for f in (tmp_path / "a" / "0001").iterdir()) == ["escape.txt", "plan.json"]
    with pytest.raises(ConfigError, match="cannot be written"):
        _unpack({"plan.json": b"{}"}, tmp_path / "missing" / "0001")


def test_an_address_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    for address in ("", "localhost:6379", "http://host"):
        with pytest.raises(ConfigError, match="ray://host:10001"):
            find_ray(address)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"autoprune\[ray\]"):
        find_ray("local")
