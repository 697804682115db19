"""Published TensorRT fp16 rows of five GPUs → the three constants of `autoprune/devices/roofline.py`."""

from __future__ import annotations

import csv
from pathlib import Path

import gpu_nets
import numpy as np
from scipy.optimize import least_squares

from autoprune.devices.node import Node
from autoprune.devices.roofline import RooflineConstants, roofline_ms

__all__ = ["GPUS", "GpuFit"]

# name in the rows → dense fp16 TFLOP/s, GB/s; Orin NX 16 GB: 100 sparse int8 TOPS, 102.4 GB/s (NVIDIA module page)
GPUS = {"NVIDIA A100": (312., 1555.), "NVIDIA L4": (121., 300.), "Jetson Orin Nano Super": (17., 102.),
        "Jetson Orin NX 16GB": (25., 102.4), "Jetson Nano": (.472, 25.6)}
ARCHITECTURE = {"Jetson Orin Nano Super": "Orin", "Jetson Orin NX 16GB": "Orin"}  # left out together
START = np.log([.4, .6, 4.])


class GpuFit:
    """Rows, fits and held-out errors. Rows of a server that times pre- and post-processing as well are left out."""

    def __init__(self, data: Path):
        nets = gpu_nets.nets()
        text = (data / "published_latencies.csv").read_text(encoding="utf-8")
        self.rows = [r for r in csv.DictReader(text.splitlines())
                     if r["device"] in GPUS and r["model"] in nets and "TensorRT" in r["runtime"]
                     and r["precision"] in ("fp16", "fp16?")]
        self.nets: list[list[Node]] = [nets[r["model"]] for r in self.rows]
        self.log_ms = np.log([float(r["latency_ms"]) for r in self.rows])
        self.family = np.array([ARCHITECTURE.get(r["device"], r["device"]) for r in self.rows])
        self.model = np.array([r["model"] for r in self.rows])

    def constants(self, p: np.ndarray, peak_tflops: float, bandwidth_gbs: float) -> RooflineConstants:
        """One GPU's."""
        compute, memory, launch = (round(float(v), 4) for v in np.exp(p))
        return RooflineConstants(peak_tflops=peak_tflops, bandwidth_gbs=bandwidth_gbs, value_bytes=2,
                                 compute_efficiency=compute, memory_efficiency=memory, launch_us=launch, call_us=0.)

    def predict(self, p: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """log ms of the picked rows."""
        found = []
        for i in np.flatnonzero(rows):
            constants = self.constants(p, *GPUS[self.rows[i]["device"]])
            found.append(sum(roofline_ms(n, constants) for n in self.nets[i]))
        return np.log(found)

    def fit(self, rows: np.ndarray) -> np.ndarray:
        """Robust log least squares with a weak prior."""
        def residual(p: np.ndarray) -> np.ndarray:
            return np.r_[self.predict(p, rows) - self.log_ms[rows], .3 * (p - START)]
        return least_squares(residual, START, loss="soft_l1", f_scale=.2, diff_step=1e-3).x

    def held_out(self, by: np.ndarray) -> np.ndarray:
        """log(predicted/measured) of every row with its value of `by` left out."""
        errors = np.zeros(len(self.rows))
        for value in sorted(set(by)):
            errors[by == value] = self.predict(self.fit(by != value), by == value) - self.log_ms[by == value]
        return errors
