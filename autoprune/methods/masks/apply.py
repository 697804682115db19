"""Masks on the weights of a module, as torch parametrisations: they train, and can be made permanent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from autoprune.errors import ConfigError, did_you_mean

__all__ = ["Masks", "zeros_kept"]


class _Mask(nn.Module):
    """`w · mask`. Hard: the gradient is masked as well. Soft: it reaches all weights as if there were no mask."""

    mask: torch.Tensor

    def __init__(self, like: torch.Tensor, soft: bool):
        super().__init__()
        self.register_buffer("mask", torch.ones_like(like, requires_grad=False))
        self.soft = soft

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        masked = weight * self.mask
        return weight + (masked - weight).detach() if self.soft else masked


class Masks:
    """Masks on some weights of `model`, which is changed: its forward uses `w · mask` from now on.

    names: of parameters, tied ones by any of their names. soft: masked weights go on being updated, with the gradient
    that they would have without the mask, and can come back when the masks are set anew (Guo et al. 2016,
    arXiv:1608.04493; for N:M, Zhou et al. 2021). Works on modules of any class and on autoprune's graph form. All masks
    are true at first. `ConfigError` for a name that the model does not have.
    """

    def __init__(self, model: nn.Module, names: list[str], *, soft: bool = False):
        self.model, self.soft = model, soft
        parameters = dict(model.named_parameters(remove_duplicate=False))
        if missing := [n for n in names if n not in parameters]:
            raise ConfigError("the model has no such weight to mask", given=", ".join(missing[:3]),
                              allowed=did_you_mean(missing[0], parameters))
        self._masks = {n: _Mask(parameters[n], soft) for n in names}
        self._raw = {n: parameters[n] for n in names}
        self._places: list[tuple[nn.Module, str]] = []
        self._hooks: list[Any] = []
        for name in names:
            for other, parameter in parameters.items():
                if parameter is self._raw[name]:
                    self._mask(other, self._masks[name])

    def _mask(self, name: str, mask: _Mask) -> None:
        path, _, leaf = name.rpartition(".")
        owner = self.model.get_submodule(path)
        parametrize.register_parametrization(owner, leaf, mask)
        if isinstance(owner, nn.RNNBase) and not any(owner is seen for seen, _ in self._places):
            self._hooks.append(owner.register_forward_pre_hook(_refresh))
        self._places.append((owner, leaf))

    def set(self, masks: Mapping[str, torch.Tensor]) -> None:
        """Replace the masks of these names; 1 or true where a weight stays."""
        for name, mask in masks.items():
            self._masks[name].mask.copy_(mask)

    def masks(self) -> dict[str, torch.Tensor]:
        """Boolean copies, by name."""
        return {n: m.mask.bool() for n, m in self._masks.items()}

    def raw(self) -> dict[str, nn.Parameter]:
        """The parameters behind the masks, by name; what a training loop updates."""
        return dict(self._raw)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers of the model by the names they have without masks, as the forward sees them."""
        out: dict[str, torch.Tensor] = {}
        for name, tensor in [*self.model.named_parameters(), *self.model.named_buffers()]:
            if ".parametrizations." not in f".{name}":
                out[name] = tensor
        for name, parameter in self._raw.items():
            out[name] = nn.Parameter((parameter * self._masks[name].mask).detach(), parameter.requires_grad)
        return out

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Set parameters and buffers, by the names they have without masks; the masks stay as they are."""
        own = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers()), **self._raw}
        with torch.no_grad():
            for name, value in tensors.items():
                own[name].copy_(value)

    def make_permanent(self) -> None:
        """Write the zeros into the weights and take the parametrisations away: an ordinary module again."""
        for owner, leaf in self._places:
            parametrize.remove_parametrizations(owner, leaf, leave_parametrized=True)
        for hook in self._hooks:
            hook.remove()
        for owner, _ in self._places:
            if isinstance(owner, nn.RNNBase):
                _refresh(owner)
        self._places, self._hooks = [], []


@contextmanager
def zeros_kept(model: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Train `model` within this, and the elements of these parameters that are zero stay zero."""
    masks = Masks(model, list(names))
    masks.set({name: parameter.detach() != 0 for name, parameter in masks.raw().items()})
    try:
        yield
    finally:
        masks.make_permanent()


def _refresh(layer: Any, *_: Any) -> None:
    """Recurrent layers keep a list of their weights, which would go on being the unmasked ones."""
    layer._flat_weights = [getattr(layer, n) for n in layer._flat_weights_names]
