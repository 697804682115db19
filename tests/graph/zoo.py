"""Small models with random weights, one function each, that between them use every operator family.

`MODELS` maps a name to a function that returns `(model, example inputs)`. Families of transformers are in
`zoo_transformers.py`; both seed torch, so a name always gives the same weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from . import (
    zoo_attention,
    zoo_attention2,
    zoo_conv,
    zoo_conv2,
    zoo_conv3,
    zoo_other,
    zoo_other2,
    zoo_other3,
    zoo_recurrent,
)

Build = Callable[[], tuple[nn.Module, Any]]

MODELS: dict[str, Build] = {
    f.__name__: f
    for room in (zoo_conv, zoo_conv2, zoo_conv3, zoo_attention, zoo_attention2, zoo_recurrent, zoo_other, zoo_other2,
                 zoo_other3)
    for f in vars(room).values()
    if callable(f) and getattr(f, "__module__", "") == room.__name__ and not isinstance(f, type)
    and not f.__name__.startswith("_")
}


def build(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch about its own layers
        return MODELS[name]()
