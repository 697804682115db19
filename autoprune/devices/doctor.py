"""Is this machine fit to measure on? Versions, cores, governor, providers, and a noise test with a verdict."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from autoprune.devices.agent import usable_cores
from autoprune.devices.device import Device
from autoprune.devices.measure import Measurer

__all__ = ["examine", "noise_test"]

_PACKAGES = ("autoprune", "torch", "optuna", "onnx", "onnxscript", "onnxruntime", "numpy", "fvcore", "safetensors")
_QUIET, _USABLE = 0.03, 0.10


def examine(device: Device) -> list[tuple[str, str, str]]:
    """(what, value, verdict) lines; a verdict is "ok", or what to do about it."""
    rows = [("python", platform.python_version(), "ok")]
    for package in _PACKAGES:
        try:
            rows.append((package, metadata.version(package), "ok"))
        except metadata.PackageNotFoundError:
            rows.append((package, "not installed", f"pip install -c constraints.txt {package}"))
    cores = usable_cores()
    rows.append(("usable cores", str(cores), "ok"))
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if governor.is_file():
        name = governor.read_text().strip()
        rows.append(("governor", name, "ok" if name == "performance" else "sudo cpupower frequency-set -g performance"))
    load = Path("/proc/loadavg").read_text().split()[0] if Path("/proc/loadavg").is_file() else ""
    if load:
        busy = float(load) > 0.5 * cores
        rows.append(("load", load, "stop what runs beside the measurement" if busy else "ok"))
    rows.append(_providers())
    source = "measured here" if device.kind == "measured-local" else "predicted from a profile, not measured"
    rows.append((f"device {device.name}", f"{source}; widths in multiples of {device.alignment()}", "ok"))
    return rows


def _providers() -> tuple[str, str, str]:
    try:
        import onnxruntime
    except ImportError as error:
        return ("providers", str(error), "pip install onnxruntime")
    return ("providers", ", ".join(onnxruntime.get_available_providers()), "ok")


def noise_test(device: Device) -> dict[str, Any]:
    """Measure one small model three times: the spread of the medians, and what that is good for."""
    model = _probe()
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


def _probe() -> bytes:
    """Two convolutions of 64 channels at 28×28."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(0)
    weights = [numpy_helper.from_array(generator.standard_normal((64, 64, 3, 3)).astype(np.float32), f"w{i}")
               for i in range(2)]
    nodes = [helper.make_node("Conv", ["x", "w0"], ["h"], pads=[1, 1, 1, 1]),
             helper.make_node("Conv", ["h", "w1"], ["y"], pads=[1, 1, 1, 1])]
    tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 64, 28, 28]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "probe", tensors[:1], tensors[1:], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(made.SerializeToString())
