"""What a group's units are made of, tensor by tensor."""

from __future__ import annotations

from functools import cached_property

import torch

__all__ = ["Slice"]


class Slice:
    """The part of one tensor that belongs to the units of a group.

    tensor: its name; axis: which of its axes; role: "out" (the axis is one that the weight produces), "in" (one that an
    operator sums over), "vector" (bias, norm scale or shift, running statistics).
    """

    def __init__(self, name: str, tensor: torch.Tensor, axis: int, role: str, order: torch.Tensor | None, units: int):
        self.tensor = name
        self.axis = axis
        self.role = role
        self._source = tensor, axis, order, units

    @cached_property
    def values(self) -> torch.Tensor:
        """`[units, elements]`, a view or a copy, never to be changed; made when it is first asked for."""
        tensor, axis, order, units = self._source
        rows = tensor.movedim(axis, 0)
        if order is not None:
            rows = rows.index_select(0, order.to(tensor.device))
        return rows.reshape(units, -1)
