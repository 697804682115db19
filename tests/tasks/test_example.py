"""The built-in example: distorted views with fixed seeds, and a network that is over budget on a Raspberry Pi 4."""

from __future__ import annotations

import torch

from autoprune.tasks.digits import digits_tensors, distort, example_tensors


def test_views_are_fixed_and_splits_do_not_share_images() -> None:
    tensors = example_tensors()
    assert {k: len(y) for k, (_, y) in tensors.items()} == {"train": 4316, "validation": 718, "test": 718}
    again = distort(digits_tensors()["train"][0], torch.Generator().manual_seed(0))
    assert torch.equal(again, tensors["train"][0][:1079])
    assert torch.equal(tensors["test"][1], digits_tensors()["test"][1].repeat(2))
    assert not torch.equal(tensors["test"][0][:359], tensors["test"][0][359:])


def test_distorting_changes_every_image_and_not_its_argument() -> None:
    images = digits_tensors()["test"][0][:20]
    before = images.clone()
    out = distort(images, torch.Generator().manual_seed(3))
    assert torch.equal(images, before)
    assert out.shape == images.shape
    assert bool(((out - images).flatten(1).abs().mean(1) > 0.1).all())


def test_the_dense_example_is_over_budget_on_a_pi_4() -> None:
    import autoprune
    from autoprune.tasks.digits import digits_task

    task = digits_task()
    latency = autoprune.LatencyOracle("raspberrypi")(task.model, task.example_inputs)
    assert latency.ms > 20
    assert latency.source == "profile"
    assert latency.device == "rpi4"
    assert latency.lo_ms < latency.ms < latency.hi_ms
