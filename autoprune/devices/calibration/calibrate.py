"""`calibrate` times small nets on a device, learns what its kernels cost, and writes a device file.

Every net is timed whole and node by node, in turns with a fixed probe; what drifted with the machine's speed is scaled
back by the probe, what was noisy is left out, and nodes are made to add up to their net. A fifth of the nets is held
out to tell the error; the shipped model is then fitted to all of them.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.devices.calibration.calibrated import without_overhead
from autoprune.devices.calibration.kernels import KernelModel
from autoprune.devices.calibration.nets import calibration_nets, probe
from autoprune.devices.device import Device, load_device
from autoprune.devices.measure import Measurer
from autoprune.devices.measurement import NodeTime
from autoprune.devices.new_device import check_name
from autoprune.devices.node import Node
from autoprune.devices.nodes import read_nodes
from autoprune.devices.toml_file import device_text
from autoprune.errors import ConfigError, DeviceError
from autoprune.files import replace_file

__all__ = ["Timed", "calibrate", "join", "reachable", "same_layout", "time_net"]

_LEAST_NETS = 40
_NOISY, _SLOW, _APART = 1.15, 0.15, 1.2
_HELD_OUT = 5  # every fifth net
_SMALL_MS, _FEW = 0.01, 10  # a small node; nets that stand in where none has such nodes on average
_INTERVAL = (0.05, 0.95)


@dataclass(frozen=True)
class Timed:
    """One net: its latency and the probe's in the same measurement (ms), its nodes with what the profiler saw (ms).

    The probe's is the median of its runs, the net's is that times their ratio in turns. `spread` is the median of the
    net's runs over their lower quartile: what other programs add comes in bursts.
    """

    ms: float
    probe_ms: float
    nodes: tuple[tuple[Node, float], ...]
    spread: float


def same_layout(device: Device, machine: str) -> bool:
    """Whether graphs optimised on this machine get the layout that they get on the device."""
    return device.address is None or (machine == platform.machine() and machine in ("x86_64", "AMD64"))


def reachable(device: Device) -> Device:
    """The device behind a calibrated one, to be measured: at its address, or this machine. Connects to nothing."""
    if device.address is not None:
        return replace(load_device(device.address), runtime_version=device.runtime_version)
    return load_device("cpu")


def join(nodes: Sequence[Node], times: Sequence[NodeTime]) -> list[tuple[Node, float]]:
    """Nodes of the optimised graph with what each took; nodes that only one side knows are left out.

    By name; onnxruntime numbers its layout changes anew in every session, so these are found by their shape.
    """
    named = {node.name: node for node in nodes}
    moves: dict[tuple[int, ...], list[Node]] = defaultdict(list)
    for node in nodes:
        if node.op == "nchwc.ReorderOutput":
            moves[node.out_shapes[0]].append(node)
    found = []
    for timed in times:
        if timed.op == "ReorderOutput":
            match = moves[timed.shape].pop() if moves[timed.shape] else None
        else:
            match = named.get(timed.name)
        if match is not None:
            found.append((match, timed.ms))
    return found


def time_net(measurer: Measurer, onnx_bytes: bytes, layout: bool, *, runs: int = 8, seconds: float = 0.005,
             warmup_runs: int = 2) -> Timed:
    """Time one net whole and node by node, in turns with the probe. Raises `DeviceError` when it cannot be timed, or
    when the device runs another graph than the one that is priced here.
    """
    found = measurer.measure(onnx_bytes, reference=probe(), min_runs=runs, min_s=seconds, warmup_runs=warmup_runs,
                             warmup_s=0.0, repeats=0, profile_runs=runs)
    nodes = join(read_nodes(onnx_bytes, layout=layout), found.nodes)
    if len(nodes) < 0.8 * len(found.nodes):
        raise DeviceError("the device runs another graph than this machine's onnxruntime makes",
                          given=f"{len(nodes)} of {len(found.nodes)} nodes have the same names",
                          fix="install the same onnxruntime version on both")
    assert found.reference_stats is not None  # a reference was given
    probe_ms = found.reference_stats.p50_ms
    return Timed(found.ratio * probe_ms, probe_ms, tuple(nodes), found.stats.p50_ms / found.stats.p25_ms)


def calibrate(device: Device | str, name: str, folder: str | Path = ".", *, threads: int | None = None,
              minutes: float = 4.0, models: Sequence[bytes] = (), seed: int = 0,
              on_progress: Callable[[str], None] | None = None) -> Device:
    """Calibrate `device` (this machine, or one at an address) and write `NAME.toml` and `NAME.kernels.npz`.

    `minutes` is how long nets are timed; fitting takes about half a minute more. `models` are ONNX models to be timed
    too. Raises `ConfigError` for bad arguments, `DeviceError` when too few nets could be timed or the machine is too
    noisy.
    """
    found = load_device(device)
    check_name(name)
    if found.is_measured and found.provider != "CPUExecutionProvider":
        raise ConfigError("only CPUs are calibrated: for a GPU onnxruntime makes other nodes of a net than here",
                          given=found.name, allowed="cpu, ssh://user@host, adb://serial",
                          fix=f"--device {found.name} measures every candidate")
    if not 0.1 <= minutes <= 600:
        raise ConfigError("the time to calibrate must be between 0.1 and 600 minutes", given=f"{minutes} minutes")
    _check_folder(Path(folder), name)
    say = on_progress or (lambda _: None)
    with Measurer(found, threads) as measurer:
        hello = measurer.hello()
        layout = same_layout(found, hello.machine)
        used = measurer.measure(probe()).latency
        timed = _gather(measurer, itertools.chain(models, calibration_nets(seed)), layout, 60 * minutes, say)
    kept, probe_ms = _usable(timed)
    overhead_ms = _overhead(kept)
    kept = [t for t in (_adding_up(t, overhead_ms) for t in kept) if t is not None]
    if len(kept) < _LEAST_NETS:
        raise DeviceError("too few nets were timed well enough to learn from",
                          given=f"{len(kept)} of {len(timed)}, wanted {_LEAST_NETS}",
                          fix="stop other programs on the device, give it more --minutes, or time with --threads 1: "
                              "threads that wait for each other wait for every other program, too")
    say(f"fitting to {len(kept)} nets, {sum(len(t.nodes) for t in kept)} nodes")
    model = KernelModel.fit([t.nodes for t in kept], seed)
    ratios = _held_out(kept, overhead_ms, model)
    return _write(Path(folder), name, found, model, ratios, {
        "threads": used.threads, "layout": layout, "overhead_ms": overhead_ms, "probe_ms": probe_ms,
        "nets": len(kept), "nodes": sum(len(t.nodes) for t in kept), "processor": hello.model or hello.machine},
        used.runtime_version)


def _check_folder(folder: Path, name: str) -> None:
    """Minutes of timing are not lost to a folder that cannot be written to, nor another device file to them."""
    path = folder / f"{name}.toml"
    if path.exists() and load_device(str(path)).calibration is None:
        raise ConfigError(f"{path} exists, and is no calibration that could be renewed", given=name,
                          fix="another --name, or another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError("the device file cannot be written", given=f"{folder}: {error.strerror or error}",
                          fix="name a folder that you may write to") from error


def _overhead(kept: Sequence[Timed]) -> float:
    """Milliseconds that the profiler itself takes per node: what the nodes add up to beyond the whole, in nets of small
    nodes, where that is most of it.
    """
    beyond = sorted((t.ms / len(t.nodes), (sum(ms for _, ms in t.nodes) - t.ms) / len(t.nodes)) for t in kept)
    small = [ms for per_node, ms in beyond if per_node < _SMALL_MS]
    return max(0.0, float(np.median(small or [ms for _, ms in beyond[:_FEW]]))) if kept else 0.0


def _adding_up(timed: Timed, overhead_ms: float) -> Timed | None:
    """The net with its nodes scaled to add up to the whole: they were timed in other runs, at another moment, and
    medians of parts add up to less than the median of a sum. None where that is too far for both to be true.
    """
    own_ms = without_overhead((ms for _, ms in timed.nodes), overhead_ms)
    factor = timed.ms / sum(own_ms)
    if not 1 / _APART <= factor <= _APART:
        return None
    return replace(timed, nodes=tuple((node, overhead_ms + factor * ms)
                                      for (node, _), ms in zip(timed.nodes, own_ms, strict=True)))


def _gather(measurer: Measurer, nets: Iterable[bytes], layout: bool, seconds: float,
            say: Callable[[str], None]) -> list[Timed]:
    start, timed, failed, last = time.monotonic(), list[Timed](), 0, 0.0
    for net in nets:
        spent = time.monotonic() - start
        if spent > seconds:
            break
        if spent - last > 5:
            last = spent
            say(f"timed {len(timed)} nets, {len(_usable(timed)[0])} undisturbed, {seconds - spent:.0f} s left")
        try:
            timed.append(time_net(measurer, net, layout))
        except DeviceError as error:
            say(f"a net is left out: {error.message}")
            failed += 1
            if failed > 10 and failed > len(timed):
                raise
    return timed


def _usable(timed: Sequence[Timed]) -> tuple[list[Timed], float]:
    """The calm ones, scaled to the probe's median; and that median (ms)."""
    probe_ms = float(np.median([t.probe_ms for t in timed])) if timed else 0.0
    kept = []
    for t in timed:
        factor = probe_ms / t.probe_ms
        if t.spread <= _NOISY and abs(factor - 1) <= _SLOW:
            kept.append(Timed(t.ms * factor, probe_ms, tuple((n, ms * factor) for n, ms in t.nodes), t.spread))
    return kept, probe_ms


def _held_out(kept: Sequence[Timed], overhead_ms: float, fitted: KernelModel) -> np.ndarray:
    """measured / predicted of every fifth net, with kernels learnt from the others only (at the length scales of the
    `fitted` one, a handful of numbers for thousands of nodes).
    """
    test = kept[::_HELD_OUT]
    model = KernelModel.fit([t.nodes for i, t in enumerate(kept) if i % _HELD_OUT], like=fitted)
    predicted = [sum(without_overhead(model.ms([n for n, _ in t.nodes]).tolist(), overhead_ms)) for t in test]
    return np.array([t.ms / p for t, p in zip(test, predicted, strict=True)])


def _write(folder: Path, name: str, device: Device, model: KernelModel, ratios: np.ndarray,
           facts: dict[str, object], runtime_version: str) -> Device:
    """The two files. The kernels first: a device file never points to kernels that are not there."""
    content = io.BytesIO()
    arrays: dict[str, Any] = {**model.to_arrays()}
    np.savez_compressed(content, **arrays)
    kernels = folder / f"{name}.kernels.npz"
    replace_file(kernels, content.getvalue())
    size = np.abs(np.log(ratios))
    low, high = np.quantile(ratios, _INTERVAL)
    where = device.address or "this machine"
    error = {
        "p50": round(float(np.median(size)), 4), "p90": round(float(np.quantile(size, 0.9)), 4), "rows": len(ratios),
        "lo_ratio": round(min(1.0, float(low)), 4), "hi_ratio": round(max(1.0, float(high)), 4),
        "source": f"{len(ratios)} of the nets timed, left out of the fit; the interval holds 90 % of them"}
    top = {"schema": 1, "name": name, "kind": "calibrated", "description": f"{where}, calibrated",
           "align": device.align, "sparsity": list(device.sparsity), "address": device.address}
    tables: dict[str, dict[str, object]] = {
        "runtime": {"name": device.runtime, "version": runtime_version, "provider": device.provider,
                    "precision": device.precision},
        "calibration": {"kernels": kernels.name, "sha256": hashlib.sha256(content.getvalue()).hexdigest(), **facts},
        "error": error}
    path = folder / f"{name}.toml"
    replace_file(path, "# Made by `autoprune devices calibrate`; do not edit numbers by hand.\n"
                 + device_text(top, tables))
    return load_device(str(path))
