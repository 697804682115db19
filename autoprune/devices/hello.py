"""`Hello`: what a device says about itself, read without trust, and whether it is fit to measure on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from autoprune.errors import DeviceError

__all__ = ["Hello"]

_INSTALL = ("on the device: python3 -m venv ~/autoprune && ~/autoprune/bin/pip install numpy onnxruntime; "
            "then --device ssh://user@host/~/autoprune/bin/python")


@dataclass(frozen=True)
class Hello:
    """Facts about a device. Units: GHz, °C, bytes; empty, None or 0 for what it does not tell.

    `cores` are those that may be used (see `agent/facts.py`), `throttled` what slows the chip right now (None where the
    device cannot tell), `load` the system's load over the last minute.
    """

    model: str
    system: str
    machine: str
    is_64bit: bool
    python: str
    numpy: bool
    onnxruntime: str
    cores: int
    all_cores: int
    features: tuple[str, ...]
    governor: str
    max_ghz: float | None
    temperature_c: float | None
    throttled: tuple[str, ...] | None
    memory_bytes: int
    free_bytes: int
    load: float | None

    @classmethod
    def read(cls, answer: Mapping[str, Any]) -> Hello:
        """From an agent's answer. Raises `DeviceError` for anything missing, mistyped or out of range."""
        readers: dict[str, Callable[[Any], Any]] = {
            **dict.fromkeys(("model", "system", "machine", "python", "onnxruntime", "governor"), _text),
            **dict.fromkeys(("is_64bit", "numpy"), _flag), **dict.fromkeys(("cores", "all_cores"), _count),
            **dict.fromkeys(("max_ghz", "temperature_c", "load"), _number),
            **dict.fromkeys(("memory_bytes", "free_bytes"), _size), "features": _texts,
            "throttled": lambda value: None if value is None else _texts(value)}
        try:
            return cls(**{name: read(answer[name]) for name, read in readers.items()})
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DeviceError("the device told nonsense about itself", given=f"{type(error).__name__}: {error}"[:300],
                              fix="is it really the address of the device?") from error

    def check(self, runtime_version: str) -> None:
        """Raises `DeviceError` when models cannot be measured there; `runtime_version` is the one that is wanted, ""
        for any.
        """
        if not self.is_64bit:
            raise DeviceError("the device's system is a 32-bit one, for which there is no onnxruntime",
                              given=f"{self.machine}, Python {self.python}",
                              fix="install a 64-bit system (Raspberry Pi OS 64-bit, Bookworm or newer)")
        for package, there in (("numpy", self.numpy), ("onnxruntime", bool(self.onnxruntime))):
            if not there:
                raise DeviceError(f"the device's Python has no {package}", given=f"Python {self.python}", fix=_INSTALL)
        if self.onnxruntime == "1.21.0" and self.machine == "aarch64" and "atomics" not in self.features:
            raise DeviceError("onnxruntime 1.21.0 dies on Armv8.0 processors with an illegal instruction",
                              given=f"{self.model or self.machine}, onnxruntime {self.onnxruntime}",
                              fix="on the device: pip install 'onnxruntime>1.21.0'")
        if runtime_version and self.onnxruntime != runtime_version:
            raise DeviceError("the device has another onnxruntime than its file says", given=self.onnxruntime,
                              allowed=runtime_version,
                              fix=f"on the device: pip install onnxruntime=={runtime_version}, or change "
                                  "runtime.version in the device file")


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 200 or not value.isprintable():
        raise ValueError(f"not a short line of text: {str(value)[:50]!r}")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > 1000:
        raise ValueError(f"not a short list: {str(value)[:50]!r}")
    return tuple(_text(v) for v in value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"not true or false: {str(value)[:50]!r}")
    return value


def _count(value: Any) -> int:
    if _size(value) not in range(1, 65537):
        raise ValueError(f"not a number of cores: {str(value)[:50]!r}")
    return int(value)


def _size(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**60:
        raise ValueError(f"not a whole number: {str(value)[:50]!r}")
    return value


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > 1e6:
        raise ValueError(f"not a sensible number: {str(value)[:50]!r}")
    return float(value)
