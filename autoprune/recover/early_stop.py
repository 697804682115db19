"""Early stop: the best weights on batches that training does not see."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

__all__ = ["Best"]


class Best:
    """Remembers the state of `model` with the lowest `loss` seen by `check`, from the state it starts with on.

    patience: so many checks in a row without an improvement end the training.
    """

    def __init__(self, model: nn.Module, loss: Callable[[], float], patience: int):
        self._model, self._loss, self._patience = model, loss, patience
        self._lowest, self._without = math.inf, 0
        self._state: dict[str, torch.Tensor] = {}
        self.check()

    def check(self) -> bool:
        """Whether training should stop. Costs one forward pass over the held-out batches, in evaluation mode."""
        training = self._model.training
        self._model.eval()
        with torch.no_grad():
            value = self._loss()
        self._model.train(training)
        if value < self._lowest or not self._state:
            self._lowest, self._without = value, 0
            self._state = {n: t.detach().clone() for n, t in self._model.state_dict().items()}
        else:
            self._without += 1
        return self._without >= self._patience

    def restore(self) -> None:
        """Put the best state back into the model."""
        with torch.no_grad():
            for name, tensor in self._model.state_dict().items():
                tensor.copy_(self._state[name])
