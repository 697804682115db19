from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from autoprune.errors import TaskError
from autoprune.tasks.batches import TensorBatches
from autoprune.tasks.task import Task

from .conftest import SmallNet, TwoInputs, make_batches


def make_task(net: nn.Module, **more: object) -> Task:
    settings: dict[str, object] = {"train": make_batches(4), "validation": make_batches(2, seed=1),
                                   "test": make_batches(2, seed=2)}
    return Task(net, **(settings | more))  # type: ignore[arg-type]


def test_a_good_task_passes(net: SmallNet) -> None:
    task = make_task(net)
    task.check()
    assert task.notes == ()
    assert task.metric == "accuracy"
    assert [list(value.shape) for value in task.example_inputs] == [[1, 4]]
    score = task.evaluate(net, "test")
    assert (score.split, score.n, score.metric) == ("test", 16, "accuracy")


def test_the_model_is_left_as_it_was(net: SmallNet) -> None:
    net.train()
    net.body[1].eval()  # a frozen norm in a training model
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    random = torch.random.get_rng_state()
    task = make_task(net)
    task.check()
    task.evaluate(net)
    task.fingerprint()
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(weight.grad is None for weight in net.parameters())
    assert torch.equal(torch.random.get_rng_state(), random)
    assert task.model is net


def test_evaluate_is_by_hand(net: SmallNet) -> None:
    task = make_task(net)
    net.eval()
    hits = sum(int((net(x).argmax(1) == y).sum()) for x, y in make_batches(2, seed=1))
    assert task.evaluate(net).value == pytest.approx(hits / 16)


def test_limit_counts_samples(net: SmallNet) -> None:
    task = make_task(net)
    assert task.evaluate(net, limit=11).n == 11
    assert task.evaluate(net, limit=99).n == 16
    with pytest.raises(TaskError, match="at least 1 sample"):
        task.evaluate(net, limit=0)


def test_dict_inputs_and_outputs() -> None:
    batches = [({"a": x, "b": x}, {"labels": y}) for x, y in make_batches()]
    task = Task(TwoInputs(), train=batches, validation=batches, test=batches)
    task.check()
    assert isinstance(task.example_inputs, dict)
    outputs = task.call(task.model, task.example_inputs)
    assert task.logits(outputs).shape == (1, 3)  # type: ignore[union-attr]
    assert task.evaluate(task.model, limit=3).n == 3


def test_tuple_inputs() -> None:
    batches = [((x, x), y) for x, y in make_batches()]
    task = Task(TwoInputs(), train=batches, validation=batches)
    task.check()
    assert len(task.example_inputs) == 2


def test_logits_of_all_kinds_of_outputs(net: SmallNet) -> None:
    task, tensor = make_task(net), torch.zeros(1)
    for outputs in (tensor, SimpleNamespace(logits=tensor), {"logits": tensor}, {"out": tensor}, (None, tensor)):
        assert task.logits(outputs) is tensor
    assert task.logits({"other": tensor}) is None


def test_what_a_loss_of_ones_own_makes_of_several_outputs_is_not_guessed(net: SmallNet) -> None:
    def own(outputs: Any, target: Any) -> torch.Tensor:
        return torch.zeros(())
    tensor, batches = torch.zeros(1), make_batches()
    task = Task(net, train=batches, validation=batches, loss=own)
    assert task.logits({"logits": tensor, "pred_boxes": tensor}) is None
    assert task.logits((tensor, tensor)) is None
    on_the_way = {"loss": tensor, "last_hidden_state": tensor, "past_key_values": (tensor,), "attentions": (tensor,)}
    assert task.logits({"logits": tensor, **on_the_way}) is tensor
    assert make_task(net).logits({"logits": tensor, "pred_boxes": tensor}) is tensor  # cross entropy takes the logits


def test_the_loss_of_the_model_keeps_labels_out_of_the_example() -> None:
    class OwnLoss(TwoInputs):
        def forward(self, a, b, labels=None):  # type: ignore[no-untyped-def, override]
            outputs = super().forward(a, b)
            return outputs | {"loss": nn.functional.cross_entropy(outputs["logits"], labels)}

    batches = [({"a": x, "b": x, "labels": y}, y) for x, y in make_batches()]
    task = Task(OwnLoss(), train=batches, validation=batches, test=batches, loss="model")
    task.check()
    assert sorted(task.example_inputs) == ["a", "b"]


def test_missing_validation_and_test_are_said(net: SmallNet) -> None:
    task = Task(net, train=make_batches(10))
    assert len(task.notes) == 2
    held, rest = list(task.split("validation")), list(task.split("train"))
    assert (len(held), len(rest)) == (1, 9)
    assert not any(torch.equal(x, y) for x, _ in held for y, _ in rest)
    assert task.split("test") is task.split("validation")
    assert not task.has_test
    assert not task.with_half_batches().has_test
    assert task.evaluate(net, "test").split == "validation"
    assert torch.equal(next(iter(held))[0], next(iter(task.split("validation")))[0])


def test_fingerprint_follows_model_metric_and_data(net: SmallNet) -> None:
    prints = {make_task(net).fingerprint(), make_task(net, metric="f1").fingerprint(),
              make_task(net, validation=make_batches(2, seed=9)).fingerprint(),
              make_task(net, train=make_batches(5)).fingerprint()}
    assert len(prints) == 4
    assert make_task(net).fingerprint() in prints
    with torch.no_grad():
        net.head.weight[0, 0] += 1e-6
    assert make_task(net).fingerprint() not in prints
    assert all(len(text) == 16 for text in prints)


def test_fingerprint_of_shuffled_data_is_stable(net: SmallNet) -> None:
    data = TensorDataset(torch.randn(32, 4), torch.zeros(32, dtype=torch.long))
    task = make_task(net, train=DataLoader(data, batch_size=8, shuffle=True))
    assert task.fingerprint() == task.fingerprint()


@pytest.mark.parametrize("kind", [lambda x, y: [(x[:8], y[:8]), (x[8:], y[8:])], lambda x, y: TensorBatches(x, y, 8),
                                  lambda x, y: DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True),
                                  lambda x, y: DataLoader(Subset(TensorDataset(x, y), range(32)), batch_size=8)])
def test_fingerprint_follows_one_label_of_data_in_memory(net: SmallNet, kind: Any) -> None:
    x, y = torch.randn(32, 4), torch.zeros(32, dtype=torch.long)
    before = make_task(net, train=kind(x, y)).fingerprint()
    y[-1] = 1
    assert make_task(net, train=kind(x, y)).fingerprint() != before
    y[-1] = 0
    assert make_task(net, train=kind(x, y)).fingerprint() == before


def test_fingerprint_of_a_subset_by_names(net: SmallNet) -> None:
    class Named(torch.utils.data.Dataset[Any]):
        targets = (2**63, 1)

        def __getitem__(self, name: Any) -> tuple[Tensor, Tensor]:
            return torch.ones(4) * len(name), torch.tensor(0)

    names: Any = ["a", "bb"]
    part = Subset(Named(), names)
    assert make_task(net, train=DataLoader(part, batch_size=2)).fingerprint()


def test_unknown_split(net: SmallNet) -> None:
    with pytest.raises(TaskError, match="did you mean 'validation'"):
        make_task(net).split("validaton")


def test_diverged_model_is_an_error(net: SmallNet) -> None:
    task = make_task(net, metric="mse", loss="mse", validation=[(torch.zeros(2, 4), torch.zeros(2, 3))])
    with torch.no_grad():
        net.head.bias.fill_(float("nan"))
    with pytest.raises(TaskError, match="mse is not finite on the validation split"):
        task.evaluate(net)


def test_a_task_can_be_sent_to_another_process(net: SmallNet) -> None:
    task = make_task(net)
    copy = pickle.loads(pickle.dumps(task))  # noqa: S301 - made in this line
    assert copy.fingerprint() == task.fingerprint()


def test_several_outputs_are_distilled_only_where_a_loss_of_ours_reads_them(net: SmallNet) -> None:
    def own(outputs: Any, target: Any) -> Tensor:
        return outputs[0].square().mean() + outputs[1].square().mean()
    batches = make_batches()
    pair = torch.zeros(2, 3), torch.zeros(2, 4)
    for loss, distilled in ((own, None), ("cross_entropy", pair[0])):
        task = Task(net, train=batches, validation=batches, test=batches, loss=loss)
        assert task.logits(pair) is distilled
        assert task.logits(pair[:1]) is pair[0]
        assert task.logits(pair[0]) is pair[0]


def test_fingerprint_follows_the_text_of_a_metric(net: SmallNet, tmp_path: Path) -> None:
    def fingerprint(text: str) -> str:
        path = tmp_path / f"metrics{len(text)}.py"
        path.write_text(f"def metric(model, batches):\n    return {text}\n")
        spec = importlib.util.spec_from_file_location("metrics", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return make_task(net, metric=module.metric).fingerprint()

    assert fingerprint("0.5") == fingerprint("0.5") != fingerprint("0.25")
