from __future__ import annotations

import builtins
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.errors import TaskError
from autoprune.tasks.models import load_model
from autoprune.tasks.task import Task


def test_factory_and_instance(user_file: Path) -> None:
    assert isinstance(load_model(f"{user_file}:model"), nn.Linear)
    assert load_model(f"{user_file}:instance") is load_model(f"{user_file}:instance")


@pytest.mark.parametrize(("name", "match"), [("not_a_model", "does not give a torch.nn.Module"),
                                             ("number", "does not give a torch.nn.Module"),
                                             ("broken", "the model factory raised"), ("modle", "did you mean 'model'")])
def test_unusable_factories(user_file: Path, name: str, match: str) -> None:
    with pytest.raises(TaskError, match=match):
        load_model(f"{user_file}:{name}")


@pytest.mark.parametrize("spec", ["resnet18", "timm:", "tim:resnet18"])
def test_unusable_specs_show_what_is_allowed(spec: str) -> None:
    with pytest.raises(TaskError) as caught:
        load_model(spec)
    assert "timm:NAME" in str(caught.value.allowed)


@pytest.mark.parametrize("spec", ["timm:resnet18", "torchvision:resnet18", "hf:a/b"])
def test_a_missing_package_names_the_command(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = {"hf": "transformers"}.get(spec.partition(":")[0], spec.partition(":")[0])
    for name in list(sys.modules):
        if name.partition(".")[0] == package:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]  # makes import raise
    with pytest.raises(TaskError, match="is not installed") as caught:
        load_model(spec)
    assert caught.value.fix == f"pip install {package}"


def test_a_package_that_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def failing(name: str, *rest: Any) -> Any:
        if name.startswith("torchvision"):
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, *rest)

    monkeypatch.setattr("importlib.import_module", lambda name: failing(name))
    with pytest.raises(TaskError, match="installed but does not import") as caught:
        load_model("torchvision:resnet18")
    assert "torchvision::nms" in str(caught.value)


def fake_timm() -> ModuleType:
    fake: Any = ModuleType("timm")
    fake.list_models = lambda: ["resnet18", "resnet50"]
    fake.create_model = lambda name, pretrained: nn.Linear(1, 1 + pretrained)
    return fake  # type: ignore[no-any-return]


def test_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", fake_timm())
    assert load_model("timm:resnet18.a1_in1k").out_features == 2
    assert load_model("timm:resnet18?pretrained=false").out_features == 1
    with pytest.raises(TaskError, match="did you mean 'resnet18'"):
        load_model("timm:resnet81")


def test_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    fake: Any = SimpleNamespace(list_models=lambda: ["resnet18"],
                                get_model=lambda name, weights: nn.Linear(1, 1 if weights is None else 2))
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", fake)
    assert load_model("torchvision:resnet18").out_features == 2
    assert load_model("torchvision:resnet18?weights=none").out_features == 1
    with pytest.raises(TaskError, match="no such model"):
        load_model("torchvision:resnet19")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("checkpoint")
    config = transformers.BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                                     intermediate_size=8, num_labels=3, max_position_embeddings=16)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_transformers_from_a_folder(checkpoint: Path) -> None:
    model = load_model(f"hf:{checkpoint}")
    assert type(model).__name__ == "BertForSequenceClassification"
    assert not model.training
    outputs = model(input_ids=torch.ones(1, 4, dtype=torch.long))
    assert outputs.logits.shape == (1, 3)
    assert type(load_model(f"hf:{checkpoint}?task=text-classification")) is type(model)


def test_a_task_of_a_transformers_classifier(checkpoint: Path) -> None:
    ids = torch.randint(0, 20, (4, 6), generator=torch.Generator().manual_seed(0))
    batches = [({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, torch.tensor([0, 1, 2, 0]))] * 2
    task = Task(load_model(f"hf:{checkpoint}"), train=batches, validation=batches, test=batches)
    task.check()
    assert task.evaluate(task.model).n == 8
    with_labels = [(inputs | {"labels": labels}, labels) for inputs, labels in batches]
    task = Task(task.model, train=with_labels, validation=with_labels, test=with_labels, loss="model")
    task.check()
    assert sorted(task.example_inputs) == ["attention_mask", "input_ids"]


@pytest.mark.parametrize("loss", ["causal_lm", "model"])
def test_a_task_of_a_language_model(loss: str) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1,
                                                                 n_head=2, bos_token_id=0, eos_token_id=0)).eval()
    ids = torch.randint(0, 20, (4, 8), generator=torch.Generator().manual_seed(0))
    batches = [({"input_ids": ids, "labels": ids} if loss == "model" else {"input_ids": ids}, ids)]
    task = Task(model, train=batches, validation=batches, test=batches, metric="perplexity", loss=loss)
    task.check()
    with torch.no_grad():
        nll = float(model(input_ids=ids, labels=ids).loss)
        assert float(task.loss(task.call(model, batches[0][0]), ids)) == pytest.approx(nll, rel=1e-4)
    assert task.evaluate(model).value == pytest.approx(math.exp(nll), rel=1e-4)


def test_pickled_weights_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(TaskError, match="cannot load the model"):
        load_model(f"hf:{tmp_path}")


def test_transformers_errors(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TaskError, match="did you mean 'text-classification'"):
        load_model(f"hf:{checkpoint}?task=text-clasification")
    with pytest.raises(TaskError, match="cannot load the model"):
        load_model(f"hf:{tmp_path / 'missing'}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(TaskError, match="hf download nobody/nothing"):
        load_model("hf:nobody/nothing?task=image-classification")
