"""Latency and size of one net in int8 and in fp32 on this CPU, at a few widths: `python benchmarks/int8.py`.

Both are measured in turns in one run (`MeasuredProfiler.compare`), with random weights: latency does not depend on
them. On a machine with other load compare the p10s: a longer run is interrupted more often than a short one.
"""

from __future__ import annotations

import torch
from torch import nn

from autoprune.devices.profiler import MeasuredProfiler, open_profiler
from autoprune.graph.graph import trace
from autoprune.graph.onnx import export_onnx
from autoprune.graph.onnx_int8 import quantize, weight_bytes
from autoprune.graph.plan import Plan

CHANNELS, SIDE = 64, 32
KEPT = (1.0, 0.5)


class Net(nn.Module):
    """Four 3x3 convolutions of 64 channels in two residual blocks on 32x32 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.inner = nn.ModuleList(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(2))
        self.outer = nn.ModuleList(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(2))
        self.head = nn.Linear(CHANNELS, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        for inner, outer in zip(self.inner, self.outer, strict=True):
            x = torch.relu(x + outer(torch.relu(inner(x))))
        found: torch.Tensor = self.head(x.mean((2, 3)))
        return found


def main() -> None:
    torch.manual_seed(0)
    example = torch.randn(1, 3, SIDE, SIDE)
    graph = trace(Net().eval(), example)
    batches = [torch.randn(16, 3, SIDE, SIDE) for _ in range(2)]
    with open_profiler("cpu", threads=1) as profiler:
        assert isinstance(profiler, MeasuredProfiler)
        for kept in KEPT:
            plan = Plan.uniform(graph, kept, align=16)
            fp32 = export_onnx(graph.cut(plan), example)
            int8 = quantize(fp32, example, batches)
            found = profiler.compare(int8, fp32)
            print(f"{kept:.0%} of the channels: median {found.latency.ms:.2f} / {found.reference.ms:.2f} ms = {found}, "
                  f"p10 {found.latency.lo_ms:.2f} / {found.reference.lo_ms:.2f} ms = "
                  f"{found.latency.lo_ms / found.reference.lo_ms:.2f}x, "
                  f"{weight_bytes(int8):,} / {weight_bytes(fp32):,} bytes")


if __name__ == "__main__":
    main()
