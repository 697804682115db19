"""`Device`: what a device is. Shipped ones are `devices/*.toml`; a path to such a file works as well."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from autoprune import resources
from autoprune.devices.address import Address
from autoprune.devices.roofline import RooflineConstants
from autoprune.devices.toml_file import read_device_file
from autoprune.errors import ConfigError, did_you_mean

__all__ = ["Calibration", "Device", "ErrorFigures", "Fact", "ProfileConstants", "RooflineConstants", "list_devices",
           "load_device"]


@dataclass(frozen=True)
class Fact:
    """Something known about a device, and where it is written."""

    value: str | int | float
    source: str


@dataclass(frozen=True)
class ErrorFigures:
    """How wrong the profile was on measurements held out when it was fitted.

    `p50` and `p90` are quantiles of |log(predicted/measured)| (0.06 is about 6 %), `rows` how many measurements they
    come from. `lo_ratio` and `hi_ratio` bound measured/predicted for 80 % of them (90 % of a calibration's).
    """

    p50: float
    p90: float
    rows: int
    lo_ratio: float
    hi_ratio: float
    source: str


@dataclass(frozen=True)
class ProfileConstants:
    """What the additive model needs (see `profile.py` for the formula).

    Units: GHz; GB/s copied by one memcpy; 128-bit FMLA and instructions per cycle; µs·GHz per node. `stall`,
    `in_order_factor`, `k_act`, `k_weights` and `k_gemv` are dimensionless; `thread_exponent` is that of the slowdown
    (threads/4). `costs` names the table of instructions (`costs.py`), `value_bytes` is 4 for fp32 and 2 for fp16.
    """

    costs: str
    value_bytes: int
    cores: int
    clock_ghz: float
    fmla_per_cycle: float
    issue_width: float
    memcpy_gbs: float
    in_order: bool
    stall: float
    in_order_factor: float
    thread_exponent: float
    k_act: float
    k_weights: float
    k_gemv: float
    tau_us_ghz: float


@dataclass(frozen=True)
class Calibration:
    """What a calibration found, beside the kernels' prices, which are in the file `kernels` (its path, and its hash).

    `overhead_ms` is what the runtime's profiler takes per node, `probe_ms` what the probe took, `layout` whether the
    runtime changes the layout there as it does on this machine, `nets` and `nodes` how much was timed.
    """

    kernels: str
    sha256: str
    threads: int
    layout: bool
    overhead_ms: float
    probe_ms: float
    nets: int
    nodes: int
    processor: str


@dataclass(frozen=True)
class Device:
    """A device that a model can be timed on or priced for.

    `kind` is "measured-local" (this machine, through onnxruntime), "measured-remote" (the same on another machine,
    whose `address` is given), "calibrated" (priced by what its own kernels took) or "profile" (priced from facts).
    `runtime_version` of a measured device is the one it must have, "" for any. `threads` None means all usable cores.
    `align` 0 means that `alignment` decides. `alias_of` is the device that this name stands for, or None; `announce` is
    what to tell the user then. `sparsity` names the weight patterns that the runtime turns into speed: none of the
    shipped runtimes does.
    """

    name: str
    kind: str
    description: str
    runtime: str
    runtime_version: str
    provider: str
    precision: str
    threads: int | None
    align: int
    alias_of: str | None = None
    announce: str = ""
    sparsity: tuple[str, ...] = ()
    facts: Mapping[str, Fact] = field(default_factory=dict)
    error: ErrorFigures | None = None
    profile: ProfileConstants | RooflineConstants | None = None
    address: str | None = None
    calibration: Calibration | None = None

    @property
    def is_measured(self) -> bool:
        """Whether its latencies are measured rather than predicted."""
        return self.kind in ("measured-local", "measured-remote")

    @property
    def resolved(self) -> str:
        """The name of the real device: `alias_of` for an alias, the address of a remote one, else `name`."""
        return self.alias_of or (self.address if self.is_measured else None) or self.name

    def alignment(self) -> int:
        """Kept channels should be multiples of this.

        For this machine: onnxruntime's block width, 16 with AVX-512, 8 with AVX2, 4 on Arm (128-bit vectors and no
        staircase beyond them), and 8 where nothing is known, as of a device elsewhere.
        """
        if self.align or self.address is not None:
            return self.align or 8
        if platform.machine().lower() in ("aarch64", "arm64", "armv7l"):
            return 4
        return 16 if "avx512f" in _cpu_flags() else 8

    def mask_note(self, pattern: str) -> str:
        """Whether the runtime makes use of a pattern of zeros in the weights, as the file says; nothing is measured."""
        if pattern in self.sparsity:
            return (f"the latency does not count the masks, but the file of {self.name} says that its runtime computes "
                    f"{pattern} weights faster: measure it")
        return (f"masks do not change the latency on {self.name}: {self.runtime} computes masked weights ({pattern}) "
                "like any others; they are for size")

    def require_int8(self) -> None:
        """Raise `ConfigError` for a device whose runtime does not run our models in int8."""
        if self.runtime != "onnxruntime":
            raise ConfigError("int8 is for devices that run onnxruntime", given=f"{self.name}: {self.runtime}",
                              allowed="cpu, ssh://…, or a profile such as rpi4",
                              fix='the model in fp32; of a search, precisions = ["fp32"] in the space')

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        data = asdict(replace(self, facts={}))
        return {**data, "sparsity": list(self.sparsity), "facts": {k: asdict(f) for k, f in self.facts.items()}}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Device:
        """The inverse of `to_json`. Raises `ConfigError` when keys are missing or unknown."""
        known = {f.name for f in fields(cls)}
        if not isinstance(data, dict) or set(data) - known or not {"name", "kind", "runtime"} <= set(data):
            raise ConfigError("not a device record", given=str(data)[:200], allowed=", ".join(sorted(known)))
        try:
            error, profile, calibration = data.get("error"), data.get("profile"), data.get("calibration")
            return cls(**{
                **data, "sparsity": tuple(data.get("sparsity", ())),
                "facts": {k: Fact(**f) for k, f in data.get("facts", {}).items()},
                "error": None if error is None else ErrorFigures(**error),
                "profile": None if profile is None else _profile(profile),
                "calibration": None if calibration is None else Calibration(**calibration)})
        except (TypeError, AttributeError) as bad:
            raise ConfigError("not a device record", given=str(bad)) from bad


def load_device(name: str | os.PathLike[str] | Device) -> Device:
    """A shipped device by name, the device in a `.toml` file by path, or the one at an `ssh://` or `adb://` address; a
    `Device` itself.

    Raises `ConfigError` for an unknown name (with what was probably meant), for a broken file (with every problem and
    its line) and for a broken address. Connects to nothing.
    """
    if isinstance(name, Device):
        return name
    if not isinstance(name, str | os.PathLike):
        raise ConfigError("not a device", given=repr(name), allowed="a name, a device file, an address, or a Device",
                          fix='device="rpi4"')
    name = os.fspath(name)
    if "://" in name:
        scheme = Address.parse(name).scheme
        return Device(name=name, kind="measured-remote", description=f"a device over {scheme}, measured",
                      runtime="onnxruntime", runtime_version="", provider="CPUExecutionProvider", precision="fp32",
                      threads=None, align=0, address=name)
    path = Path(name)
    if path.suffix == ".toml":
        return _load(path, seen=())
    known = {p.stem: p for p in resources.folder("devices").glob("*.toml")}
    if name not in known:
        raise ConfigError("unknown device", given=repr(name), allowed=did_you_mean(name, known),
                          fix=f"--device {name}.toml" if Path(f"{name}.toml").is_file() else "autoprune devices list")
    return _load(known[name], seen=())


def list_devices() -> list[Device]:
    """Every shipped device, by name; aliases included."""
    return [_load(p, seen=()) for p in sorted(resources.folder("devices").glob("*.toml"))]


def _load(path: Path, seen: tuple[str, ...]) -> Device:
    data = read_device_file(path)
    if "alias_of" in data:
        target = data["alias_of"]
        sibling = path.parent / f"{target}.toml"
        if target in seen or target == data["name"]:
            raise ConfigError(f"{path}: an alias leads back to itself", given=" → ".join([*seen, target]))
        if not sibling.is_file():
            others = [p.stem for p in path.parent.glob("*.toml")]
            raise ConfigError(f"{path}: alias_of names no device", given=repr(target),
                              allowed=did_you_mean(target, others))
        device = _load(sibling, (*seen, data["name"]))
        return replace(device, name=data["name"], alias_of=device.resolved, announce=data["announce"],
                       description=data["description"])
    profile, error, runtime = data.get("profile") or data.get("roofline"), data.get("error"), data["runtime"]
    calibration = data.get("calibration")
    return Device(
        name=data["name"], kind=data["kind"], description=data["description"], runtime=runtime["name"],
        runtime_version=runtime.get("version", ""), provider=runtime["provider"], precision=runtime["precision"],
        threads=data.get("threads"), announce=data.get("announce", ""), align=data.get("align", 0),
        address=data.get("address"), sparsity=tuple(data["sparsity"]),
        facts={k: Fact(f["value"], f["source"]) for k, f in data.get("facts", {}).items()},
        error=None if error is None else ErrorFigures(**error),
        profile=None if profile is None else _profile({k: v for k, v in profile.items() if k != "source"}),
        calibration=None if calibration is None else Calibration(
            **{**calibration, "kernels": str(path.resolve().parent / calibration["kernels"])}))


def _profile(values: Mapping[str, Any]) -> ProfileConstants | RooflineConstants:
    return RooflineConstants(**values) if "launch_us" in values else ProfileConstants(**values)


def _cpu_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()
