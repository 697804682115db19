"""Latency from shipped facts: an additive roofline over the nodes of the optimised graph.

What this is not: a measurement. It was fitted to published medians, knows one version of a runtime, an idle device at
its full clock and no throttling; trust the interval, not the number, and compare candidates rather than quote one.

For node i with instruction counts of one thread (`costs.py`; `fixed` is what a call of that kind costs whatever its
size, and runs on one thread), T threads, clock f and B = 2 · memcpy (it reads and writes):

    cycles = FMLA / fmla_per_cycle + (instructions − FMLA − fixed) / issue_width
    t      = stall · ρ · (T/4)^thread_exponent · cycles / (T · f)  +  ρ · fixed / (issue_width · f)
           + k_act · bytes(activations) / B  +  k_w · bytes(weights) / B  +  tau / f

with k_w = k_gemv for a matrix-vector product (every weight is read from memory for one multiply-add) and k_weights
elsewhere, ρ = in_order_factor on an in-order core, 1 otherwise. The same formula holds for every CPU and runtime; which
table of instructions, and which constants, is in the device's file. GPUs are priced by `roofline.py`. Where the numbers
come from: each TOML, docs/decisions/2026-11-20-device-profiles.md and 2026-11-21-profiles-of-other-devices.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoprune.devices.costs import call_instructions, counts, fixed_instructions, int8_counted
from autoprune.devices.device import Device, ErrorFigures, ProfileConstants
from autoprune.devices.latency import Latency, check_percentile
from autoprune.devices.node import Node
from autoprune.devices.node_table import ms_by_operator
from autoprune.devices.roofline import RooflineConstants, roofline_ms
from autoprune.errors import ConfigError, UnmeasurableError

__all__ = ["UNPRICED_RANGE", "node_ms", "predict", "predict_table", "prices"]

_REFERENCE_THREADS = 4  # `stall` was fitted to rows measured with 4 threads
UNPRICED_RANGE = 4.0  # a node nobody counted may be this many times cheaper or dearer than its stand-in


def predict(nodes: Sequence[Node], device: Device, percentile: str = "p50", threads: int | None = None) -> Latency:
    """Latency of one inference, in milliseconds, with the interval that held 80 % of held-out measurements.

    `threads` overrides the device's. Raises `DeviceError` for an empty graph, `ConfigError` for a device without
    profile constants, an unknown percentile, or more threads than cores.
    """
    check_percentile(percentile)
    table = predict_table(nodes, device, threads)
    constants, error = _constants(device)
    total_ms = sum(ms for _, ms in table)
    unpriced = [(node, ms) for node, ms in table if not _priced(node, constants)]
    unpriced_ms = sum(ms for _, ms in unpriced)
    lo_ms = total_ms * error.lo_ratio - unpriced_ms * (1 - 1 / UNPRICED_RANGE) * error.lo_ratio
    hi_ms = total_ms * error.hi_ratio + unpriced_ms * (UNPRICED_RANGE - 1) * error.hi_ratio
    return Latency(ms=total_ms, lo_ms=lo_ms, hi_ms=hi_ms, percentile=percentile, source="profile",
                   device=device.resolved, runtime=device.runtime, runtime_version=device.runtime_version,
                   threads=_threads(device, threads), n=error.rows, notes=_notes(unpriced, total_ms, percentile)
                   + _int8_notes(nodes, constants))


def predict_table(nodes: Sequence[Node], device: Device, threads: int | None = None) -> list[tuple[Node, float]]:
    """`(node, milliseconds)` in execution order; the sum is the predicted latency. Free nodes cost 0.

    The cost of the call itself is spread evenly over the nodes that do something.
    """
    constants, _ = _constants(device)
    if not nodes:
        raise UnmeasurableError("the graph has no nodes, so there is nothing to price",
                                fix="check the export: onnxruntime folded the whole model into constants")
    used = _threads(device, threads)
    working = [node for node in nodes if node.cls != "free"]
    call_ms = _call_ms(constants)
    if not working:
        return [(node, call_ms / len(nodes)) for node in nodes]
    share_ms = call_ms / len(working)
    return [(node, 0.0 if node.cls == "free" else node_ms(node, constants, used) + share_ms) for node in nodes]


def _call_ms(constants: ProfileConstants | RooflineConstants) -> float:
    if isinstance(constants, RooflineConstants):
        return constants.call_us / 1e3
    rho = constants.in_order_factor if constants.in_order else 1.0
    return rho * call_instructions(constants.costs) / (constants.issue_width * constants.clock_ghz * 1e6)


def prices(nodes: Sequence[Node], device: Device, threads: int | None = None) -> list[float]:
    """Milliseconds of each node, without its share of the call."""
    constants, _ = _constants(device)
    used = _threads(device, threads)
    return [0.0 if node.cls == "free" else node_ms(node, constants, used) for node in nodes]


def node_ms(node: Node, constants: ProfileConstants | RooflineConstants, threads: int) -> float:
    """Milliseconds of one node, without its share of the call."""
    if isinstance(constants, RooflineConstants):
        return roofline_ms(node, constants)
    count, fixed = counts(node, constants.costs), fixed_instructions(node, constants.costs)
    rho = constants.in_order_factor if constants.in_order else 1.0
    hz = constants.clock_ghz * 1e6  # cycles per millisecond
    cycles = count.fmla / constants.fmla_per_cycle \
        + max(0.0, count.insn - count.fmla - fixed) / constants.issue_width
    slowdown = constants.stall * rho * math.pow(threads / _REFERENCE_THREADS, constants.thread_exponent)
    bandwidth = 2 * constants.memcpy_gbs * 1e6  # bytes per millisecond
    size = 1 if node.cls.startswith("int8") else constants.value_bytes
    k_weights = constants.k_gemv if node.features["gemv_weights"] else constants.k_weights
    return (slowdown * cycles / (threads * hz) + rho * fixed / (constants.issue_width * hz)
            + constants.k_act * size * (node.in_elems + node.out_elems) / bandwidth
            + k_weights * size * node.weights / bandwidth + constants.tau_us_ghz / constants.clock_ghz / 1e3)


def _constants(device: Device) -> tuple[ProfileConstants | RooflineConstants, ErrorFigures]:
    if device.profile is None or device.error is None:
        raise ConfigError(f"device {device.name!r} has no profile to predict from", given=f"kind {device.kind}",
                          fix=f"measure it instead: autoprune profile --device {device.name}")
    return device.profile, device.error


def _threads(device: Device, threads: int | None) -> int:
    constants, _ = _constants(device)
    used = threads if threads is not None else device.threads or constants.cores
    if not 1 <= used <= constants.cores:
        raise ConfigError(f"{device.name} cannot run that many threads", given=str(used),
                          allowed=f"1 to {constants.cores}")
    return used


def _priced(node: Node, constants: ProfileConstants | RooflineConstants) -> bool:
    """Whether the operator itself was counted or fitted; int8 only where it was counted as int8."""
    if not node.cls.startswith("int8"):
        return node.priced
    return node.priced and isinstance(constants, ProfileConstants) and int8_counted(constants.costs)


def _int8_notes(nodes: Sequence[Node], constants: ProfileConstants | RooflineConstants) -> tuple[str, ...]:
    if any(node.cls.startswith("int8") and _priced(node, constants) for node in nodes):
        return ("int8 kernels are priced by counted instructions; the interval is that of fp32 models: no int8 model "
                "was among the rows that the profile was fitted to",)
    return ()


def _notes(unpriced: Sequence[tuple[Node, float]], total_ms: float, percentile: str) -> tuple[str, ...]:
    notes = [f"operator {op} never priced ({math.ceil(100 * ms / total_ms)} % of the sum, by a stand-in)"
             for op, ms in sorted(ms_by_operator(unpriced).items())]
    if percentile != "p50":
        notes.append(f"a profile knows medians only; {percentile} on the device will be higher")
    return tuple(notes)
