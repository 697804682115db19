"""Element criteria against values worked out by hand, and what must hold for any weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from autoprune.errors import ConfigError
from autoprune.methods.masks.criterion import WeightView
from autoprune.methods.masks.registry import element_criterion, element_methods
from autoprune.methods.masks.weights import Maskable

W = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
LINEAR = Maskable("w", (2, 2), 1)
NAMES = [m.name for m in element_methods()]


def close(a: Tensor, b: list[list[float]]) -> bool:
    return bool(torch.allclose(a, torch.tensor(b, dtype=a.dtype), atol=1e-5))


def score(method: str, **data: Tensor) -> Tensor:
    return element_criterion(method).score(WeightView(LINEAR, W, **data))


def test_magnitude() -> None:
    assert close(score("magnitude"), [[1, 2], [3, 0.5]])


def test_lamp() -> None:
    """Squares 1, 4, 9, ¼; each over itself and the larger ones: 1/14, 4/13, 9/9, ¼/14¼."""
    assert close(score("lamp"), [[1 / 14, 4 / 13], [1, 0.25 / 14.25]])


def test_lamp_of_zeros_is_zero() -> None:
    assert element_criterion("lamp").score(WeightView(LINEAR, torch.zeros(2, 2))).tolist() == [[0, 0], [0, 0]]


def test_snip_and_movement() -> None:
    gradient = torch.tensor([[2.0, 1.0], [-1.0, 4.0]])
    assert close(score("snip", gradient=gradient), [[2, 2], [3, 2]])
    assert close(score("movement", gradient=gradient), [[-2, 2], [3, -2]])


def test_obd() -> None:
    assert close(score("obd", hessian=torch.tensor([[2.0, 1.0], [-2.0, 0.0]])), [[1, 2], [9, 0]])


def test_wanda() -> None:
    """Root mean squares of the inputs: 3 and 2."""
    gram = torch.tensor([[9.0, 1.0], [1.0, 4.0]], dtype=torch.float64)
    assert close(score("wanda", gram=gram), [[3, 4], [9, 1]])


def test_wanda_of_a_grouped_convolution_takes_the_channels_of_the_group() -> None:
    weight = Maskable("c", (4, 1, 1, 1), 1, spatial=2)
    view = WeightView(weight, torch.ones(4, 1, 1, 1), gram=torch.diag(torch.tensor([4.0, 25.0])))
    assert element_criterion("wanda").score(view).flatten().tolist() == [2, 2, 5, 5]


def test_wanda_of_a_product_has_its_inputs_first() -> None:
    view = WeightView(Maskable("p", (2, 3), 0), torch.ones(2, 3), gram=torch.diag(torch.tensor([4.0, 25.0])))
    assert element_criterion("wanda").score(view).tolist() == [[2, 2, 2], [5, 5, 5]]


def test_obs_is_hassibis_formula() -> None:
    """H = [[2, 1], [1, 2]] plus 1 % of 2 on the diagonal; H⁻¹ = [[d, −1], [−1, d]] / (d² − 1) with d = 2.02."""
    d = 2.02
    gram = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    inverse = d / (d * d - 1)
    assert close(score("obs", gram=gram), [[1 / inverse, 4 / inverse], [9 / inverse, 0.25 / inverse]])
    mask = torch.tensor([[False, True], [True, False]])
    new = element_criterion("obs").update(WeightView(LINEAR, W, gram=gram), mask)
    # δw = −w_q / [H⁻¹]_qq · H⁻¹e_q: the other weight takes over w_q / d
    row = Maskable("w", (1, 2), 1)
    only = [element_criterion("obs").update(WeightView(row, W[i : i + 1], gram=gram), mask[i : i + 1]) for i in (0, 1)]
    assert close(only[0], [[0, -2 + 1 / d]])
    assert close(only[1], [[3 + 0.5 / d, 0]])
    assert bool((new[~mask] == 0).all())


def test_obs_keeps_the_output_of_inputs_that_repeat_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 3, generator=generator, dtype=torch.float64).repeat(1, 2)
    w = torch.randn(8, 6, generator=generator)
    mask = torch.tensor([False] * 3 + [True] * 3).expand(8, 6)
    view = WeightView(Maskable("w", (8, 6), 1), w, gram=x.T @ x / len(x))
    new = element_criterion("obs").update(view, mask)
    change = ((x.float() @ (new - w).T).norm() / (x.float() @ w.T).norm()).item()
    plain = ((x.float() @ (w * mask - w).T).norm() / (x.float() @ w.T).norm()).item()
    assert change < 0.03 < plain


def test_obs_of_a_grouped_convolution_is_that_of_each_group() -> None:
    generator = torch.Generator().manual_seed(1)
    w, x = torch.randn(4, 2, 3, 3, generator=generator), torch.randn(99, 4, generator=generator)
    gram, mask = x.T @ x / 99, torch.rand(4, 2, 3, 3, generator=generator) > 0.5
    obs = element_criterion("obs")
    both = WeightView(Maskable("c", (4, 2, 3, 3), 1, 2), w, gram=gram)
    for part, g in ((slice(0, 2), slice(0, 2)), (slice(2, 4), slice(2, 4))):
        one = WeightView(Maskable("c", (2, 2, 3, 3), 1, 2), w[part], gram=gram[g, g])
        torch.testing.assert_close(obs.score(both)[part], obs.score(one))
        torch.testing.assert_close(obs.update(both, mask)[part], obs.update(one, mask[part]))


def test_obs_of_a_grouped_transposed_convolution_is_that_of_each_group() -> None:
    """Its weight is `[in, out / groups, …]`: the groups lie along the inputs."""
    torch.manual_seed(0)
    values, x = torch.randn(6, 2, 3, 3), torch.randn(50, 6)
    gram, mask = x.T @ x / 50, torch.rand(6, 2, 3, 3) < 0.5
    obs = element_criterion("obs")
    both = WeightView(Maskable("w", (6, 2, 3, 3), 0, 2, groups=2), values, gram=gram)
    for part in (slice(0, 3), slice(3, 6)):
        one = WeightView(Maskable("w", (3, 2, 3, 3), 0, 2), values[part], gram=gram[part, part])
        torch.testing.assert_close(obs.score(both)[part], obs.score(one))
        torch.testing.assert_close(obs.update(both, mask)[part], obs.update(one, mask[part]))


def test_random_depends_on_name_and_seed_only() -> None:
    view = WeightView(LINEAR, W)
    draw = element_criterion("random").score
    assert torch.equal(draw(view), draw(replace(view, values=2 * W)))
    assert not torch.equal(draw(view), draw(replace(view, seed=1)))
    assert not torch.equal(draw(view), draw(replace(view, weight=replace(LINEAR, name="v"))))


def view_of(weight: Maskable, seed: int = 0) -> WeightView:
    g = torch.Generator().manual_seed(seed)
    shape = weight.shape
    x = torch.randn(50, shape[weight.input_axis or 0], generator=g)
    return WeightView(weight, torch.randn(shape, generator=g), torch.randn(shape, generator=g),
                      torch.randn(shape, generator=g), x.T @ x / 50)


WEIGHTS = [Maskable("l", (6, 8), 1), Maskable("p", (8, 6), 0), Maskable("c", (6, 8, 3, 3), 1, 2)]


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("weight", WEIGHTS, ids=lambda w: w.name)
def test_scores_are_finite_repeat_and_change_nothing(method: str, weight: Maskable) -> None:
    view = view_of(weight)
    before = view.values.clone()
    criterion = element_criterion(method)
    first = criterion.score(view)
    assert first.shape == weight.shape
    assert bool(torch.isfinite(first).all())
    assert torch.equal(first, criterion.score(view))
    new = criterion.update(view, torch.rand(weight.shape) > 0.5)
    assert new.shape == weight.shape
    assert torch.equal(view.values, before)
    assert criterion.summary
    assert criterion.source


@pytest.mark.parametrize("method", [n for n in NAMES if n != "random"])
def test_permuting_outputs_permutes_scores_and_scale_keeps_their_order(method: str) -> None:
    view, order = view_of(WEIGHTS[0]), torch.randperm(6, generator=torch.Generator().manual_seed(3))
    assert view.gradient is not None
    assert view.hessian is not None
    criterion = element_criterion(method)
    scores = criterion.score(view)
    other = replace(view, values=view.values[order], gradient=view.gradient[order], hessian=view.hessian[order])
    torch.testing.assert_close(criterion.score(other), scores[order])
    larger = criterion.score(replace(view, values=4 * view.values))
    assert torch.equal(larger.flatten().argsort(), scores.flatten().argsort())


def test_unknown_methods_are_named() -> None:
    with pytest.raises(ConfigError, match="unknown method") as info:
        element_criterion("magnitud")
    assert "did you mean 'magnitude'" in str(info.value)
