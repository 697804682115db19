"""The same agent with the aarch64 wheel, under emulation: `make_arm64.sh` makes the root file system."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from autoprune.devices.device import load_device
from autoprune.devices.measure import Measurer
from autoprune.errors import DeviceError

ROOT = Path(os.environ.get("AUTOPRUNE_ARM64", "/var/tmp/autoprune-arm64"))
QUICK = {"min_runs": 4, "min_s": 0.0, "warmup_runs": 1, "warmup_s": 0.0, "repeats": 0}

pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(not (ROOT / "usr/bin/python3").exists() or os.getuid() != 0,
                                 reason=f"needs root, and {ROOT} made by tests/devices/make_arm64.sh")]


@pytest.fixture
def board(loopback):
    chroot = f"exec chroot {ROOT} /usr/bin/env -u AUTOPRUNE_SENSORS_ROOT -u XDG_CACHE_HOME -u TMPDIR python3"
    with Measurer(load_device(loopback.address(loopback.python("arm64", before=f'{chroot} "$@"'))), threads=1) as it:
        yield it


def test_an_arm64_board_is_measured(board, cnn):
    hello = board.hello()
    assert (hello.machine, hello.is_64bit, bool(hello.onnxruntime)) == ("aarch64", True, True)
    found = board.measure(cnn(16), reference=cnn(32), profile_runs=2, **QUICK)
    assert found.latency.runtime_version == hello.onnxruntime
    assert found.reference is not None
    assert found.reference.ms > found.latency.ms  # four times the multiply-adds, emulated alike
    assert {"Gemm", "GlobalAveragePool"} <= {n.op for n in found.nodes}


def test_a_model_that_it_cannot_run(board, matmul, unpriced):
    with pytest.raises(DeviceError, match="the model wants"):
        board.measure(matmul(), inputs={"z": np.ones((8, 64), np.float32)}, **QUICK)
    assert board.measure(unpriced, **QUICK).latency.ms > 0
