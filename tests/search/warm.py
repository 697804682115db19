"""Imported by the fork server of `test_kill`: everything that the first trace and export of a process load."""

from __future__ import annotations

import contextlib
import warnings

import torch

torch.set_num_threads(1)  # a process with threads must not fork

with warnings.catch_warnings(), contextlib.suppress(Exception):  # if it fails, the children only start more slowly
    warnings.simplefilter("ignore")
    from tiny import TinyNet

    import autoprune.front.export
    import autoprune.front.report
    import autoprune.search.finish  # noqa: F401
    from autoprune.graph.graph import trace
    from autoprune.graph.macs import count
    from autoprune.graph.onnx_template import OnnxTemplate

    _net = TinyNet().eval()
    _graph = trace(_net, torch.zeros(1, 1, 8, 8))
    OnnxTemplate(_graph)
    count(_graph.dense(), _graph.example_inputs)
