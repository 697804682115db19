"""The element criteria by name."""

from __future__ import annotations

from autoprune.errors import ConfigError, did_you_mean
from autoprune.methods.masks.criterion import ElementCriterion
from autoprune.methods.masks.obs import OBS
from autoprune.methods.masks.scores import LAMP, OBD, SNIP, Magnitude, Movement, RandomWeights, Wanda

__all__ = ["element_criterion", "element_methods", "register_element"]

_CRITERIA: dict[str, ElementCriterion] = {}


def register_element(criterion: ElementCriterion) -> None:
    """Make an element criterion available under its name, in `sparsify` and on the command line."""
    _CRITERIA[criterion.name] = criterion


for _each in (RandomWeights(), Magnitude(), LAMP(), SNIP(), Movement(), OBD(), OBS(), Wanda()):
    register_element(_each)


def element_methods() -> list[ElementCriterion]:
    """All element criteria in the order of registration."""
    return list(_CRITERIA.values())


def element_criterion(name: str) -> ElementCriterion:
    """The element criterion called `name`; `ConfigError` with the nearest name otherwise."""
    if name not in _CRITERIA:
        raise ConfigError("unknown method for masks", given=name, allowed=did_you_mean(name, _CRITERIA),
                          fix="autoprune methods list")
    return _CRITERIA[name]
