"""The criteria by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.errors import ConfigError, did_you_mean
from autoprune.methods.activation import APoZ, Entropy, MeanActivation, Sensitivity, TaylorActivation, Variance, Wanda
from autoprune.methods.criterion import Criterion
from autoprune.methods.curvature import HAP, OBD, Fisher, FisherPerLatency
from autoprune.methods.gradient import Movement, Snip, Taylor
from autoprune.methods.magnitude import L1, L2, GeometricMedian, Lamp, NormScale, Outgoing, Random
from autoprune.methods.reconstruction import Greedy, Lasso, ReduceAndReuse, StructuredOBS
from autoprune.methods.statistics import NEEDS
from autoprune.specs import call_object, load_object

if TYPE_CHECKING:
    from autoprune.graph.plan import Plan

__all__ = ["criterion", "method_names", "methods", "refitted_groups", "register", "registered"]

_CRITERIA: dict[str, Criterion] = {}


def register(criterion: Criterion) -> None:
    """Make a criterion available under its name, in space files and on the command line. `ConfigError` for one that
    needs what nobody gathers.
    """
    if unknown := sorted(set(criterion.needs) - NEEDS):
        raise ConfigError(f"the pruning method {criterion.name!r} needs what is not gathered", given=", ".join(unknown),
                          allowed=did_you_mean(unknown[0], NEEDS))
    _CRITERIA[criterion.name] = criterion


def registered(name: str) -> str:
    """The name of a criterion that is known, or, of one written `pkg.mod:Class` or `path/file.py:Class`, the name it
    is registered under from now on. Loading runs that code.

    Raises `ConfigError` with the nearest name for one that is not known, `TaskError` for a class that cannot be loaded.
    """
    if ":" not in name:
        return criterion(name).name
    found = load_object(name)
    if not (isinstance(found, type) and issubclass(found, Criterion)):
        raise ConfigError("not a pruning method", given=f"{name} is {type(found).__name__} {found!r}",
                          allowed="a class derived from autoprune.methods.criterion.Criterion",
                          fix="docs/methods.md shows one in 20 lines")
    made = call_object(found, name, "the criterion's class")
    known = _CRITERIA.get(made.name)
    if known is not None and not known.__module__.startswith("_autoprune_user_") and type(known) is not found:
        raise ConfigError("there is a pruning method of this name already", given=f"{name}: name = {made.name!r}",
                          fix="give the class another name")
    register(made)
    return str(made.name)


for _each in (Random(), L1(), L2(), Outgoing(), Lamp(), NormScale(), GeometricMedian(), MeanActivation(), APoZ(),
              Variance(), Entropy(), Sensitivity(), Wanda(), Taylor(), TaylorActivation(), Snip(), Movement(), OBD(),
              HAP(), Fisher(), FisherPerLatency(), ReduceAndReuse(), Lasso(), Greedy(), StructuredOBS()):
    register(_each)


def methods() -> list[Criterion]:
    """All criteria in the order of registration."""
    return list(_CRITERIA.values())


def method_names() -> list[str]:
    return list(_CRITERIA)


def refitted_groups(plan: Plan) -> tuple[str, ...]:
    """The groups of `plan` whose method refits the layers that read them; a method that is not known does not."""
    return tuple(n for n, c in plan.cuts.items() if c.method in _CRITERIA and _CRITERIA[c.method].refits)


def criterion(name: str) -> Criterion:
    """The criterion called `name`; `ConfigError` with the nearest name otherwise."""
    if name not in _CRITERIA:
        raise ConfigError("unknown pruning method", given=name, allowed=did_you_mean(name, _CRITERIA),
                          fix="autoprune methods list")
    return _CRITERIA[name]
