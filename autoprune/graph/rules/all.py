"""Importing this module registers every rule. A new file of rules is added here."""

from autoprune.graph.rules import (  # noqa: F401
    attention,
    create,
    elementwise,
    fourier,
    index,
    linear,
    nested,
    norm,
    recurrent,
    reduce,
    shape,
    spatial,
)
