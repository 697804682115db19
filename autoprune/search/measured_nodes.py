"""What the nodes of measured candidates took: kept beside the study, and the table of plans that learns from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from autoprune.devices import calibration
from autoprune.devices.calibration.calibrate import same_layout
from autoprune.devices.device import Device
from autoprune.devices.measurement import Measurement
from autoprune.files import writing
from autoprune.graph.graph import Graph
from autoprune.graph.plan import Plan
from autoprune.search.plan_latency import PlanLatency

__all__ = ["MeasuredNodes"]

_STAND_INS = {"cuda": "l4", "tensorrt": "l4", "x86_64": "x86-avx512", "AMD64": "x86-avx512", "aarch64": "rpi5",
              "arm64": "rpi5"}
_KERNELS = Path(calibration.__file__).with_name("x86_64.toml")  # made by `autoprune devices calibrate cpu --threads 1`


def _stand_in(device: Device, machine: str) -> str:
    """A device that resembles a measured one: it gives a plan's latency its shape, measurements the rest. With blocks
    of 16 channels, as this machine's runtime makes them, it is kernels that were timed (one thread); else a profile.
    """
    blocked = machine in ("x86_64", "AMD64") and device.alignment() == 16
    if blocked and device.name not in _STAND_INS and same_layout(device, machine):
        return str(_KERNELS)
    return _STAND_INS.get(device.name, _STAND_INS.get(machine, "rpi4"))


class MeasuredNodes:
    """A file of JSON lines: the plan, its measurement with the milliseconds of every node."""

    def __init__(self, path: Path, graph: Graph, device: Device):
        self.path, self.graph, self._device = path, graph, device
        self._table: PlanLatency | None = None

    def keep(self, plan: Plan, measured: Measurement) -> None:
        """Write a measurement down, and learn from it."""
        line = json.dumps({"plan": plan.to_json(), "measured": measured.to_json()})
        with writing("what was measured", self.path, len(line)), self.path.open("a+b") as file:
            if file.tell():
                file.seek(-1, 2)
                if file.read() != b"\n":  # the process died in the middle of a line
                    file.write(b"\n")
            file.write(line.encode() + b"\n")
        if self._table is not None:
            self._table.learn(plan, measured)

    def read(self) -> Iterator[tuple[Plan, Measurement]]:
        """What was kept, in order. A line that was cut short is left out, and one of a version that measured less."""
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                    found = Plan.from_json(row["plan"]), Measurement.from_json(row["measured"])
                except (json.JSONDecodeError, KeyError, TypeError):
                    continue
                yield found

    def table(self, machine: str) -> PlanLatency:
        """Latency of plans without making them, learnt from all that was kept so far and from what will be. `machine`
        is what the device calls its processor (`Hello.machine`).
        """
        if self._table is None:
            self._table = PlanLatency(self.graph, _stand_in(self._device, machine))
            for plan, measured in self.read():
                self._table.learn(plan, measured)
        return self._table
