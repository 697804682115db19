"""The contract of a criterion for single weights, and what it may look at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from autoprune.errors import ConfigError
from autoprune.methods.masks.weights import Maskable

__all__ = ["ElementCriterion", "WeightView", "gathered"]


@dataclass(frozen=True)
class WeightView:
    """What an element criterion sees of one weight.

    values: the weight; gradient, hessian: mean gradient of the loss and estimated diagonal of its Hessian, shaped like
    the weight; gram: `[groups · in, groups · in]`, second moments `E[x xᵀ]` of what the weight is multiplied with, in
    channels (positions of a convolution's kernel share them). None unless the criterion needs them.
    seed: for criteria that draw numbers.
    """

    weight: Maskable
    values: torch.Tensor
    gradient: torch.Tensor | None = None
    hessian: torch.Tensor | None = None
    gram: torch.Tensor | None = None
    seed: int = 0


def gathered(value: torch.Tensor | None, need: str) -> torch.Tensor:
    """What a view holds of the data; `ConfigError` when it was not gathered."""
    if value is None:
        raise ConfigError(f"ranking single weights needs {need}", given=f"a view without {need}",
                          fix=f"needs = frozenset({{{need!r}}}) in the criterion")
    return value


class ElementCriterion(ABC):
    """How important each single weight is.

    Like a `Criterion` it is made once without arguments, may be called for any weight in any order and process, keeps
    no state and changes nothing that it is given. needs: of "gradients", "hessian", "gram"; see `methods.collect`.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def score(self, view: WeightView) -> torch.Tensor:
        """Scores shaped like the weight, higher is more important, all finite; comparable between weights if "global"
        rankings are to mean anything.
        """

    def update(self, view: WeightView, mask: torch.Tensor) -> torch.Tensor:
        """New values of the weight once `mask` (true stays) is chosen; as they are, unless the method corrects them."""
        return view.values
