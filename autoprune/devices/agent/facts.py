"""What the agent knows about the device that it runs on: cores, clocks, heat, throttling, versions.

AUTOPRUNE_SENSORS_ROOT replaces "/" in tests.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["BIG_CLOCK", "THROTTLED_NOW", "governor", "hello", "larger", "pin_to_big_cores", "throttle_bits",
           "throttled", "usable_cores"]

_BIG_CAPACITY, BIG_CLOCK = 0.7, 0.85  # of the largest core's; smaller ones are the LITTLE of big.LITTLE
THROTTLED_NOW, _SINCE_BOOT = 0xF, 16  # bits of the Raspberry Pi's firmware; the same bits << 16 say "since boot"
_THROTTLE_BITS = ("under-voltage", "clock capped", "throttled", "soft temperature limit")


def _root() -> Path:
    return Path(os.environ.get("AUTOPRUNE_SENSORS_ROOT", "/"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return ""


def _number(path: Path) -> float | None:
    try:
        value = float(_read(path))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def usable_cores(root: Path | None = None) -> int:
    """How many cores this process may really use, at least 1: CPU affinity, the big cores only where there are big and
    LITTLE ones, and the tightest cgroup v1 or v2 limit above this process; not `os.cpu_count()`.

    A limit of 1.5 cores counts as 1: a second thread would be throttled. `root` is where `proc` and `sys` are; missing
    or unreadable files mean no limit.
    """
    root = root or _root()
    cores = len(_big_cores(root)) or os.cpu_count() or 1
    limits = [limit for folder in _cgroups(root) for limit in [_limit(folder)] if limit is not None]
    return max(1, min([cores, *(math.floor(limit) for limit in limits)]))


def _big_cores(root: Path) -> list[int]:
    """The cores of this process's affinity that are not LITTLE ones; empty where affinity is unknown.

    The kernel's `cpu_capacity` tells; where it says nothing, the highest clock does.
    """
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    cpus = root / "sys/devices/system/cpu"
    for name, share in (("cpu_capacity", _BIG_CAPACITY), ("cpufreq/cpuinfo_max_freq", BIG_CLOCK)):
        sizes = {core: _number(cpus / f"cpu{core}" / name) or 0.0 for core in allowed}
        if allowed and all(sizes.values()):
            return larger(sizes, share)
    return allowed


def larger(sizes: dict[int, float], share: float) -> list[int]:
    """The cores that are at least `share` of the largest."""
    return [core for core, size in sizes.items() if size >= share * max(sizes.values())]


def pin_to_big_cores() -> None:
    """Keep this process, and the threads that onnxruntime will make, off the LITTLE cores."""
    cores = _big_cores(_root())
    if cores:
        os.sched_setaffinity(0, cores)


def _cgroups(root: Path) -> list[Path]:
    """The cgroup folders of this process and all their parents, v2 and v1 (v1: the `cpu` controller)."""
    top = root / "sys/fs/cgroup"
    found = [top, top / "cpu", top / "cpu,cpuacct"]
    for line in _read(root / "proc/self/cgroup").splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3 or (parts[0] != "0" and "cpu" not in parts[1].split(",")):
            continue
        bases = [top] if parts[0] == "0" else [top / parts[1], top / "cpu"]
        names = [n for n in parts[2].split("/") if n and n != ".."]
        for base in bases:
            found += [base.joinpath(*names[:depth]) for depth in range(1, len(names) + 1)]
    return found


def _limit(folder: Path) -> float | None:
    """Cores allowed by one cgroup folder, None when it sets no limit."""
    quota, period = [*_read(folder / "cpu.max").split(), "", ""][:2]
    if not quota:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    try:
        allowed, interval = float(quota), float(period)
    except ValueError:  # "max", or no such file
        return None
    return allowed / interval if allowed > 0 and interval > 0 else None


def throttle_bits() -> int | None:
    """The Raspberry Pi firmware's throttle bits, from the kernel or from `vcgencmd`; None elsewhere."""
    told = [_read(p) for p in (_root() / "sys/devices/platform").glob("soc*/soc*:firmware/get_throttled")]
    text, command = "".join(told[:1]), _root() / "usr/bin/vcgencmd"
    if not text and command.exists():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run([str(command), "get_throttled"], capture_output=True, timeout=5, check=True)
            text = done.stdout.decode(errors="replace").partition("=")[2]
    try:
        return int(text.strip().replace("0x", ""), 16)
    except ValueError:
        return None


def throttled(before: int | None, after: int | None) -> list[str]:
    """What slows the chip now or has slowed it between two readings, in words."""
    if before is None or after is None:
        return []
    bits = (before | after) & THROTTLED_NOW | (after & ~before) >> _SINCE_BOOT & THROTTLED_NOW
    return [name for place, name in enumerate(_THROTTLE_BITS) if bits >> place & 1]


def governor() -> str:
    """The clock governors in use ("ondemand"), empty where there is none."""
    found = {_read(p) for p in (_root() / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")}
    return ", ".join(sorted(found - {""}))


def _runtime_version() -> str:
    """onnxruntime's version, read and not imported: on a processor it was not built for, importing it may kill."""
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or not spec.origin:
        return ""
    found = re.search(r"^__version__\s*=\s*[\"']([^\"']+)", _read(Path(spec.origin)), re.MULTILINE)
    return found.group(1) if found else "unknown"


def hello() -> dict[str, Any]:
    """Facts about the device. Units: GHz, °C, bytes; empty or null for what it does not tell."""
    root, cpus = _root(), _root() / "sys/devices/system/cpu"
    clocks = [f for p in sorted(cpus.glob("cpu[0-9]*/cpufreq/cpuinfo_max_freq")) for f in [_number(p)] if f]
    heat = [t for p in sorted((root / "sys/class/thermal").glob("thermal_zone*/temp")) for t in [_number(p)] if t]
    memory = dict(re.findall(r"^(\w+):\s+(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE))
    info = _read(root / "proc/cpuinfo")
    features = re.search(r"^(?:Features|flags)\s*:\s*(.*)$", info, re.MULTILINE)
    bits, load = throttle_bits(), _read(root / "proc/loadavg").split()
    return {
        "model": _read(root / "proc/device-tree/model")[:100], "system": platform.system(),
        "machine": platform.machine(), "is_64bit": sys.maxsize > 2**32,
        "python": platform.python_version(), "numpy": importlib.util.find_spec("numpy") is not None,
        "onnxruntime": _runtime_version(), "cores": usable_cores(), "all_cores": os.cpu_count() or 1,
        "features": features.group(1).split()[:400] if features else [], "governor": governor(),
        "max_ghz": max(clocks) / 1e6 if clocks else None, "temperature_c": max(heat) / 1e3 if heat else None,
        "throttled": None if bits is None else throttled(bits, bits),
        "memory_bytes": int(memory.get("MemTotal", 0)) * 1024, "free_bytes": int(memory.get("MemAvailable", 0)) * 1024,
        "load": float(load[0]) if load else None}
