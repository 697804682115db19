"""autoprune: hardware-aware pruning search for PyTorch.

`import autoprune` is cheap: torch, optuna and onnxruntime are imported when a name that needs them is first used.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Importing onnxruntime 1.31 or newer starts telemetry, on Linux too; autoprune sends nothing anywhere.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "AutopruneError": "autoprune.errors",
    "Candidate": "autoprune.search.candidate",
    "Cut": "autoprune.graph.plan",
    "Device": "autoprune.devices.device",
    "Front": "autoprune.front.front",
    "Graph": "autoprune.graph.graph",
    "Group": "autoprune.graph.group",
    "Latency": "autoprune.devices.latency",
    "LatencyOracle": "autoprune.nas.oracle",
    "Plan": "autoprune.graph.plan",
    "Point": "autoprune.front.front",
    "PrunedModule": "autoprune.graph.module",
    "Score": "autoprune.tasks.score",
    "Session": "autoprune.nas.session",
    "Space": "autoprune.search.space",
    "Task": "autoprune.tasks.task",
    "load": "autoprune.api",
    "load_device": "autoprune.devices.device",
    "load_front": "autoprune.front.front",
    "load_task": "autoprune.tasks.build",
    "measure": "autoprune.nas.oracle",
    "search": "autoprune.api",
    "space_of": "autoprune.nas.session",
    "trace": "autoprune.graph.graph",
}

__all__ = [*sorted(_HOMES), "__version__"]

if TYPE_CHECKING:
    from autoprune.api import load as load
    from autoprune.api import search as search
    from autoprune.devices.device import Device as Device
    from autoprune.devices.device import load_device as load_device
    from autoprune.devices.latency import Latency as Latency
    from autoprune.errors import AutopruneError as AutopruneError
    from autoprune.front.front import Front as Front
    from autoprune.front.front import Point as Point
    from autoprune.front.front import load_front as load_front
    from autoprune.graph.graph import Graph as Graph
    from autoprune.graph.graph import trace as trace
    from autoprune.graph.group import Group as Group
    from autoprune.graph.module import PrunedModule as PrunedModule
    from autoprune.graph.plan import Cut as Cut
    from autoprune.graph.plan import Plan as Plan
    from autoprune.nas.oracle import LatencyOracle as LatencyOracle
    from autoprune.nas.oracle import measure as measure
    from autoprune.nas.session import Session as Session
    from autoprune.nas.session import space_of as space_of
    from autoprune.search.candidate import Candidate as Candidate
    from autoprune.search.space import Space as Space
    from autoprune.tasks.build import load_task as load_task
    from autoprune.tasks.score import Score as Score
    from autoprune.tasks.task import Task as Task


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'autoprune' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return __all__
