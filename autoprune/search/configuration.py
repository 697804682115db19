"""What a run is a search of: settings, and digests of what stands behind them; it has to be the same on resume."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from autoprune.config import Settings
from autoprune.devices.device import Device
from autoprune.graph.graph import Graph
from autoprune.methods.registry import criterion
from autoprune.search.run_folder import environment
from autoprune.search.space import Space
from autoprune.search.storage import without_password
from autoprune.tasks.fingerprint import source_of
from autoprune.tasks.task import Task

__all__ = ["recovery_digest", "run_configuration"]


def run_configuration(settings: Settings, task: Task, device: Device, space: Space, graph: Graph) -> dict[str, Any]:
    """What is written to `config.toml`. Of methods of the user's own their text counts, too."""
    values = {k: v for k, v in settings.to_json().items() if k != "run"}
    if settings.storage is not None:
        values["storage"] = without_password(settings.storage)
    named = [*space.methods, *(m for rule in space.groups.values() for m in rule.get("methods", ()))]
    own = "".join(source_of(criterion(name)) for name in named)
    values.update(task=task.name, metric=task.metric, loss=task.loss_name, device=device.name,
                  task_fingerprint=task.fingerprint(), model_fingerprint=graph.fingerprint,
                  space_digest=_digest([space.to_json(), own]), recovery_digest=recovery_digest(space),
                  device_digest=_digest(device.to_json()))
    versions = environment()["packages"]
    values.update({f"version_{name}": versions[name] for name in ("autoprune", "torch", "optuna", "onnxruntime")})
    return values


def recovery_digest(space: Space) -> str:
    """16 hex digits that change with how candidates recover."""
    return _digest([space.recover, space.schedule, *([space.masks] if space.masks else [])])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
