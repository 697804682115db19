"""How many cores this process may really use: affinity and the cgroup's CPU limit, not `os.cpu_count()`."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["usable_cores"]


def usable_cores(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores by CPU affinity, cut to the tightest cgroup v1 or v2 limit above this process; at least 1.

    `proc` and `cgroups` are where those file systems are mounted. A limit of 1.5 cores counts as 1: a second thread
    would be throttled. Missing or unreadable files mean no limit.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [limit for folder in _folders(proc, cgroups) if (limit := _limit(folder)) is not None]
    return max(1, min([cores, *(math.floor(limit) for limit in limits)]))


def _folders(proc: Path, cgroups: Path) -> list[Path]:
    """The cgroup folders of this process and all their parents, v2 and v1 (v1: the `cpu` controller)."""
    found = [cgroups, cgroups / "cpu", cgroups / "cpu,cpuacct"]
    for line in _read(proc / "self" / "cgroup").splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3 or (parts[0] != "0" and "cpu" not in parts[1].split(",")):
            continue
        bases = [cgroups] if parts[0] == "0" else [cgroups / parts[1], cgroups / "cpu"]
        names = [n for n in parts[2].split("/") if n and n != ".."]
        for base in bases:
            found += [base.joinpath(*names[:depth]) for depth in range(1, len(names) + 1)]
    return found


def _limit(folder: Path) -> float | None:
    """Cores allowed by one cgroup folder, None when it sets no limit."""
    quota, period = [*_read(folder / "cpu.max").split(), "", ""][:2]
    if not quota:
        quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
    try:
        allowed, interval = float(quota), float(period)
    except ValueError:  # "max", or no such file
        return None
    return allowed / interval if allowed > 0 and interval > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
