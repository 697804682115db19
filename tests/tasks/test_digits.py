from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autoprune.errors import TaskError
from autoprune.tasks.digits import WEIGHTS, DigitsNet, digits_task, digits_tensors, load_weights, save_weights


def test_splits_are_disjoint_stratified_and_fixed() -> None:
    tensors = digits_tensors(8)
    rows = {split: {tuple(image.flatten().tolist()) for image in images} for split, (images, _) in tensors.items()}
    assert [len(labels) for _, labels in tensors.values()] == [1079, 359, 359]
    assert sum(len(own) for own in rows.values()) == len(set().union(*rows.values())) == 1797
    for _, labels in tensors.values():
        share = labels.bincount() / len(labels)
        assert share.min() > 0.09
        assert share.max() < 0.11
    assert tensors["test"][1][:8].tolist() == TEST_LABELS


def test_the_network_is_as_heavy_as_promised() -> None:
    macs = 0

    def count(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal macs
        weight = module.weight
        macs += weight.numel() * (output.shape[-1] * output.shape[-2] if output.ndim == 4 else 1)

    net = DigitsNet().eval()
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)  # type: ignore[arg-type]
    with torch.no_grad():
        net(torch.zeros(1, 1, 32, 32))
    assert 0.42e9 < macs < 0.48e9
    assert sum(weight.numel() for weight in net.parameters()) < 2.1e6
    assert WEIGHTS.stat().st_size < 4.2e6


def test_shipped_weights_reach_their_accuracy() -> None:
    random = torch.random.get_rng_state()
    task = digits_task()
    assert torch.equal(torch.random.get_rng_state(), random)
    task.check()
    assert task.evaluate(task.model, "test", limit=120).value >= 0.97  # 0.983 with one distorted view of 120 images
    assert task.fingerprint() == digits_task().fingerprint()


@pytest.mark.slow
def test_accuracy_of_every_split() -> None:
    task = digits_task()
    assert task.evaluate(task.model, "test").value >= 0.99
    assert task.evaluate(task.model, "validation").value >= 0.985
    assert task.evaluate(task.model, "train").value >= 0.995


def test_weights_round_trip(tmp_path: Path) -> None:
    first, second = (DigitsNet((4, 8), (1, 1)) for _ in range(2))
    save_weights(first, tmp_path / "weights.safetensors")
    load_weights(second, tmp_path / "weights.safetensors")
    assert torch.equal(second.head.weight, first.head.weight.half().float())


def test_missing_weights_say_so(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="weights of the built-in example are missing"):
        load_weights(DigitsNet((4,), (1,)), tmp_path / "none.safetensors")


TEST_LABELS = [4, 4, 1, 0, 9, 5, 5, 7]  # a changed split would put training images into the test
