"""Is a machine fit to measure on? Versions, cores, governor, heat, providers, and a noise test with a verdict."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from autoprune.devices.agent import facts
from autoprune.devices.calibration.nets import probe
from autoprune.devices.device import Device
from autoprune.devices.hello import Hello
from autoprune.devices.measure import Measurer

__all__ = ["examine", "noise_test"]

_PACKAGES = ("autoprune", "torch", "optuna", "onnx", "onnxscript", "onnxruntime", "numpy", "fvcore", "safetensors")
_QUIET, _USABLE = 0.03, 0.10
_HOT_C = 75.0

Row = tuple[str, str, str]


def examine(device: Device) -> list[Row]:
    """(what, value, verdict) lines; a verdict is "ok", or what to do about it.

    About this machine, and about the device where it is another one. Raises `DeviceError` when that cannot be reached
    or not be measured on at all.
    """
    rows = [("python", platform.python_version(), "ok")]
    for package in _PACKAGES:
        try:
            rows.append((package, metadata.version(package), "ok"))
        except metadata.PackageNotFoundError:
            rows.append((package, "not installed", f"pip install -c constraints.txt {package}"))
    if device.address is None:
        rows += [*_facts(Hello.read(facts.hello())), _providers()]
    else:
        with Measurer(device) as measurer:
            hello = measurer.hello()
        rows += [("device", f"{hello.model or hello.machine}, {hello.system}", "ok"),
                 ("its python", hello.python, "ok"), ("its onnxruntime", hello.onnxruntime, "ok"), *_facts(hello)]
    if device.is_measured:
        source = "measured here" if device.address is None else "measured there"
    else:
        source = f"predicted ({device.kind}), not measured"
    return [*rows, (f"device {device.name}", f"{source}; widths in multiples of {device.alignment()}", "ok")]


def _facts(hello: Hello) -> list[Row]:
    of = f" of {hello.all_cores}" if hello.cores < hello.all_cores else ""
    rows = [("usable cores", f"{hello.cores}{of}", "ok")]
    if hello.max_ghz is not None:
        rows.append(("clock", f"{hello.max_ghz:.2f} GHz", "ok"))
    if hello.governor:
        fine = hello.governor == "performance"
        rows.append(("governor", hello.governor, "ok" if fine else "sudo cpupower frequency-set -g performance"))
    if hello.temperature_c is not None:
        hot = hello.temperature_c > _HOT_C
        rows.append(("temperature", f"{hello.temperature_c:.0f} °C", "a heat sink or fan" if hot else "ok"))
    if hello.throttled is not None:
        now = ", ".join(hello.throttled)
        rows.append(("throttled", now or "no", "cool it, or give it a stronger power supply" if now else "ok"))
    if hello.memory_bytes:
        rows.append(("memory", f"{hello.free_bytes / 2**30:.1f} of {hello.memory_bytes / 2**30:.1f} GiB free", "ok"))
    if hello.load is not None:
        busy = hello.load > 0.5 * hello.cores
        rows.append(("load", f"{hello.load:g}", "stop what runs beside the measurement" if busy else "ok"))
    return rows


def _providers() -> Row:
    try:
        import onnxruntime
    except ImportError as error:
        return ("providers", str(error), "pip install onnxruntime")
    return ("providers", ", ".join(onnxruntime.get_available_providers()), "ok")


def noise_test(device: Device) -> dict[str, Any]:
    """Measure one small model three times: the spread of the medians, and what that is good for."""
    model = probe()
    with Measurer(device) as measurer:
        found = [measurer.measure(model, min_runs=30, min_s=0.5) for _ in range(3)]
    medians = [m.latency.ms for m in found]
    spread = (max(medians) - min(medians)) / min(medians)
    if spread <= _QUIET:
        verdict = "quiet: differences above 3 % are real"
    elif spread <= _USABLE:
        verdict = "usable: only differences above 10 % are real"
    else:
        verdict = "too noisy: stop other programs, or measure on another machine"
    return {"medians_ms": medians, "spread": spread, "verdict": verdict, "quiet": spread <= _USABLE}
