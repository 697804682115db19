"""One pass over a few batches that gathers what data-dependent criteria need, for all groups at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autoprune.accelerator import device_of, on_accelerator, to_device
from autoprune.errors import ConfigError, TaskError, did_you_mean, first_line
from autoprune.graph.trace import split_inputs
from autoprune.methods.statistics import BACKWARD, FISHER, GRADIENTS, HESSIAN, NEEDS, Statistics
from autoprune.methods.taps import Taps

if TYPE_CHECKING:
    from autoprune.graph.graph import Graph

__all__ = ["Loss", "collect"]

_CURVED = 2  # every so many batches: a product with the Hessian costs more than two training steps

Loss = Callable[[nn.Module, Any, Any], torch.Tensor]


def collect(graph: Graph, batches: Iterable[tuple[Any, Any]], loss: Loss | None = None, max_batches: int = 8, *,
            needs: Collection[str] = frozenset({GRADIENTS}), weights: Collection[str] | None = None,
            seed: int = 0) -> Statistics:
    """Gather `needs` (see `Statistics`) over at most `max_batches` batches, in evaluation mode.

    Parameters
    ----------
    batches: pairs of (inputs, target).
    loss: called with (model, inputs, target), returns a scalar, the mean over the samples of the batch; not needed for
        activations and Gram matrices.
    needs: any of "gradients", "activations", "fisher", "hessian", "gram".
    weights: names of the weights whose Gram matrix is wanted, None for all; each takes 8·in² bytes.
    seed: of Hutchinson's random signs.

    Parameters that are frozen for training get gradients, too: their units have to be ranked like all others. The model
    stays as it is. Costs one forward pass per batch; gradients or Fisher one backward pass more; the Hessian, on
    every second batch, another backward pass through that one, which takes as long as two or three training steps
    (Hutchinson 1989: E[v ⊙ Hv] is the diagonal for random signs v, here one draw per batch). Attention is then computed
    by its plain formula, which can be differentiated twice.

    Raises `ConfigError` for an unknown need or one that takes a loss without a loss, `TaskError` when the loss or a
    gradient is not finite, when it cannot be computed for want of labels, or when no batch comes.
    """
    needs = frozenset(needs)
    if unknown := needs - NEEDS:
        raise ConfigError("unknown kind of statistics", given=", ".join(sorted(unknown)),
                          allowed=did_you_mean(min(unknown), NEEDS))
    backward = bool(needs & BACKWARD)
    if backward and loss is None:
        raise ConfigError("gradients need a loss, and labels", given=", ".join(sorted(needs & BACKWARD)),
                          fix="collect(graph, batches, loss=lambda model, inputs, target: …)")
    taps = Taps(graph, needs, weights)
    with on_accelerator(taps.model):
        gather, seen = _Gradients(taps, needs, seed), 0
        for inputs, target in islice(batches, max_batches):
            curved = HESSIAN in needs and seen % _CURVED == 0
            with torch.set_grad_enabled(backward), _differentiable(curved):
                value = _run(taps.model, inputs, target, loss if backward else None)
                if backward:
                    gather.add(_finite(value, seen), curved)
            seen += 1
        if seen == 0:
            raise TaskError("there is no batch to compute statistics on", fix="give the task training data")
        return Statistics(*gather.means(seen), units=taps.units(seen), squares=taps.squares(), gram=taps.gram(),
                          gathered=needs).cpu()


class _Gradients:
    """Sums of gradients, of their squares, and of Hutchinson's products, by parameter."""

    def __init__(self, taps: Taps, needs: frozenset[str], seed: int):
        self._taps, self._needs = taps, needs
        self._parameters = {n: p.requires_grad_() for n, p in taps.model.named_parameters() if p.is_floating_point()}
        self._generator = torch.Generator().manual_seed(seed)
        self._sums: dict[str, dict[str, torch.Tensor]] = {GRADIENTS: {}, FISHER: {}, HESSIAN: {}}

    def add(self, loss: torch.Tensor, curved: bool) -> None:
        self._taps.listen(True)
        gradients = torch.autograd.grad(loss, list(self._parameters.values()), create_graph=curved,
                                        allow_unused=True)
        found = {n: g for n, g in zip(self._parameters, gradients, strict=True) if g is not None}
        for name, g in found.items():
            self._add(GRADIENTS, name, g.detach())
            self._add(FISHER, name, g.detach().square())
        if curved:
            self._taps.listen(False)
            self._hutchinson(found)

    def _hutchinson(self, gradients: dict[str, torch.Tensor]) -> None:
        signs = {n: torch.empty(g.shape).bernoulli_(0.5, generator=self._generator).mul_(2).sub_(1).to(g)
                 for n, g in gradients.items()}
        curved = [(g * signs[n]).sum() for n, g in gradients.items() if g.requires_grad]
        try:
            products = torch.autograd.grad(sum(curved, torch.zeros(())), [self._parameters[n] for n in gradients],
                                           allow_unused=True) if curved else [None] * len(gradients)
        except RuntimeError as error:  # NotImplementedError is one, or torch tells it in words
            if not isinstance(error, NotImplementedError) and "derivative" not in str(error):
                raise
            raise ConfigError("the model has an operator without a second derivative", given=first_line(error),
                              fix="leave out the methods that need one: obd and hap") from error
        for (name, sign), product in zip(signs.items(), products, strict=True):
            self._add(HESSIAN, name, torch.zeros_like(sign) if product is None else sign * product)

    def _add(self, kind: str, name: str, value: torch.Tensor) -> None:
        if kind in self._needs:
            sums = self._sums[kind]
            sums[name] = sums[name].add_(value) if name in sums else value.clone()

    def means(self, batches: int) -> tuple[dict[str, torch.Tensor], int, dict[str, torch.Tensor],
                                           dict[str, torch.Tensor]]:
        """Gradients, the number of batches, Fisher, Hessian, as `Statistics` takes them."""
        counts = {GRADIENTS: batches, FISHER: batches, HESSIAN: -(-batches // _CURVED)}
        gradients, fisher, hessian = ({n: t / count for n, t in self._sums[kind].items()}
                                      for kind, count in counts.items())
        broken = [n for means in (gradients, fisher, hessian) for n, t in means.items()
                  if not bool(torch.isfinite(t).all())]
        if broken:
            raise TaskError("the loss has gradients that are not finite", given=", ".join(dict.fromkeys(broken[:3])),
                            fix="check the data for NaN and the loss for overflow")
        return gradients, batches, fisher, hessian


def _run(model: nn.Module, inputs: Any, target: Any, loss: Loss | None) -> Any:
    if loss is None:
        args, kwargs = split_inputs(to_device(inputs, device_of(model)))
        return model(*args, **kwargs)
    if target is not None:
        return loss(model, inputs, target)
    try:
        return loss(model, inputs, target)
    except (AttributeError, TypeError) as error:
        raise TaskError("the loss cannot be computed without labels", given=f"{type(error).__name__}: {error}",
                        fix="give batches of (inputs, target), or a method that needs activations only") from error


def _finite(value: torch.Tensor, batch: int) -> torch.Tensor:
    if not bool(torch.isfinite(value.detach()).all()):
        raise TaskError("the loss is not finite", given=f"batch {batch}: {float(value.detach().sum())}",
                        fix="check the data for NaN and the loss for overflow")
    return value


@contextmanager
def _differentiable(twice: bool) -> Iterator[None]:
    """Without the kernels whose gradient has no gradient of its own."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if not twice:
        yield
        return
    with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
        yield
