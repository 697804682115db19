"""From settings to what evaluates candidates."""

from __future__ import annotations

import os
from collections.abc import Callable

from autoprune.config import Settings
from autoprune.errors import ConfigError
from autoprune.search.pipeline import Pipeline
from autoprune.search.workers.blueprint import Blueprint
from autoprune.search.workers.cluster import Cluster, Resources, find_ray
from autoprune.search.workers.forked import Forked, can_fork
from autoprune.search.workers.workers import Inline, Workers
from autoprune.tasks.task import Task
from autoprune.units import parse_duration_s

__all__ = ["choose_workers"]


def choose_workers(settings: Settings, task: Task | None) -> Callable[[Pipeline], Workers]:
    """A cluster where one is named, else processes where they can be had, else this process. `task`: as given, None
    where the settings name it. Connects to nothing. Raises `ConfigError` for what cannot be had.
    """
    limit_s = None if settings.candidate_timeout is None else parse_duration_s(settings.candidate_timeout)
    gpus, count = _gpus(settings), settings.workers
    if settings.cluster is not None:
        address, room = settings.cluster, Resources(gpus=gpus)
        find_ray(address)
        if count == 0:
            raise ConfigError("this process is no part of the cluster", given=f"--workers 0 --cluster {address}",
                              fix="leave --workers out, or --cluster")
        return lambda pipeline: Cluster(address, _blueprint(settings, task, pipeline, gpus), room, count, limit_s)
    if count != 0 and can_fork():
        return lambda pipeline: Forked(pipeline, count, limit_s)
    if count:
        raise ConfigError("candidates cannot have processes of their own here", given=f"--workers {count}",
                          allowed="Linux, and no accelerator", fix="--workers 0 evaluates them in this process")
    if limit_s is not None:
        raise ConfigError("a candidate in this process cannot be given up",
                          given=f"--candidate-timeout {settings.candidate_timeout}",
                          allowed="with processes (Linux, and no accelerator) or a cluster",
                          fix="leave it out; --timeout ends the search between two candidates")
    return Inline


def _gpus(settings: Settings) -> float:
    text = settings.candidate_gpus
    try:
        gpus = float(text or 0)
    except ValueError:
        gpus = -1.0
    if not 0 <= gpus <= 64:
        raise ConfigError("not a number of GPUs", given=f"--candidate-gpus {text}", allowed="such as 1 or 0.5",
                          fix="--candidate-gpus 1")
    if gpus and settings.cluster is None:
        raise ConfigError("GPUs are set aside by a cluster only", given=f"--candidate-gpus {text}",
                          fix="leave it out: this machine's own GPU is used; or --cluster local")
    return gpus


def _blueprint(settings: Settings, task: Task | None, pipeline: Pipeline, gpus: float) -> Blueprint:
    return Blueprint(task, settings.model, settings.data, settings.metric, settings.loss, settings.space,
                     settings.methods, settings.steps, settings.seed, pipeline.graph.fingerprint, os.getcwd(), gpus)
