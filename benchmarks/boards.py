"""`device_facts.csv` → what the additive formula needs to know of a CPU."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from autoprune.devices.device import ProfileConstants

__all__ = ["ASSUMED_MEMCPY", "CORES", "Board", "all_facts", "boards"]

CORES = {  # instructions decoded (or dispatched) per cycle, in the order that names are looked for
    "A53": (2, "Arm Cortex-A53 TRM: dual issue, in order"),
    "A57": (3, "Arm UAN 0015B, Cortex-A57 Software Optimization Guide: 3-wide decode"),
    "A72": (3, "Arm UAN 0016A, Cortex-A72 Software Optimization Guide: 3-wide decode"),
    "A78": (4, "Arm Cortex-A78 Software Optimization Guide: 4-wide decode"),
    "A76": (4, "Arm PJDOC-466751330-7215, Cortex-A76 Software Optimization Guide: 4-wide decode"),
    "A710": (5, "Arm Cortex-A710 Software Optimization Guide: 5-wide dispatch"),
    "A715": (5, "Arm Cortex-A715 Software Optimization Guide: 5-wide decode"),
    "A720": (5, "Arm Cortex-A720 Software Optimization Guide: 5-wide decode"),
    "X1": (5, "Arm Cortex-X1 Software Optimization Guide: 5-wide decode"),
    "X2": (5, "Arm Cortex-X2 Software Optimization Guide: 5-wide decode"),
    "X3": (6, "Arm Cortex-X3 Software Optimization Guide: 6-wide decode"),
    "X4": (10, "Arm Cortex-X4 Software Optimization Guide: 10-wide decode"),
    "A15": (8, "Apple performance core: 8-wide decode, Apple Silicon CPU Optimization Guide"),
    "A16": (8, "Apple performance core: 8-wide decode, Apple Silicon CPU Optimization Guide"),
    "A17": (9, "Apple A17 Pro performance core: 9-wide decode, as reported at its launch"),
    "x86": (4, "not used: the x86 table counts multiply-adds only")}
ASSUMED_MEMCPY = 0.3  # of the theoretical bandwidth where no memcpy is published: 0.32 and 0.33 on RK3588 and Pi 5


@dataclass(frozen=True)
class Board:
    """Facts of one CPU; means over the cores in use where clusters differ, weighted so that the sums are right."""

    row: dict[str, str]
    cores: int
    clock_ghz: float
    fmla_per_cycle: float
    issue_width: float
    memcpy_gbs: float
    in_order: bool
    measured_memcpy: bool
    core_sources: str

    def constants(self) -> dict[str, Any]:
        """What `ProfileConstants` has of it, by its names there."""
        return {f.name: getattr(self, f.name) for f in fields(ProfileConstants) if hasattr(self, f.name)}


def all_facts(data: Path) -> dict[str, dict[str, str]]:
    """The rows of the file, by profile name."""
    text = (data / "device_facts.csv").read_text(encoding="utf-8")
    return {row["profile"]: row for row in csv.DictReader(text.splitlines())}


def boards(data: Path) -> dict[str, Board]:
    """Every CPU of the file."""
    return {name: _board(row) for name, row in all_facts(data).items() if not row["cores_used"].endswith("SM")
            and name != "i7-12700h" and "GPU" not in row["device"] and "cores" not in row["soc_or_chip"]}


def _board(row: dict[str, str]) -> Board:
    counts = [int(v) for v in row["cores_used"].split("+")]
    clocks = [float(v) for v in row["clock_ghz"].split("+")]
    flops = [float(v) for v in row["fp32_flops_per_cycle_per_core"].split("+")]
    names = _core_names(row, len(counts))
    total = sum(counts)
    clock = sum(n * f for n, f in zip(counts, clocks, strict=True)) / total
    share = [n * f / (total * clock) for n, f in zip(counts, clocks, strict=True)]
    memcpy, measured = _memcpy(row)
    return Board(row=row, cores=total, clock_ghz=round(clock, 3),
                 fmla_per_cycle=round(sum(s * v / 8 for s, v in zip(share, flops, strict=True)), 3),
                 issue_width=round(sum(s * CORES[c][0] for s, c in zip(share, names, strict=True)), 3),
                 memcpy_gbs=memcpy, in_order=row["in_order"] == "1", measured_memcpy=measured,
                 core_sources="; ".join(dict.fromkeys(CORES[c][1] for c in names)))


def _core_names(row: dict[str, str], clusters: int) -> list[str]:
    if row["profile"].startswith("x86"):
        return ["x86"] * clusters
    text = row["soc_or_chip"].split("(+")[0].replace("/A710", "").replace("Tegra X1", "")
    found = re.findall(r"A7\d\d|A\d\d|X\d", text)
    names = [n for n in found if n in CORES]
    return names[:clusters] if len(names) >= clusters else names * clusters


def _memcpy(row: dict[str, str]) -> tuple[float, bool]:
    """GB/s of one memcpy (the middle where a range is published), and whether it was measured."""
    text = row["bw_measured_gbs"]
    if "memcpy" in text:
        span = [float(v) for v in re.findall(r"\d+\.?\d*", text.split("memcpy")[0])]
        return round(sum(span) / len(span), 3), True
    return round(ASSUMED_MEMCPY * float(row["bw_theoretical_gbs"]), 2), False
