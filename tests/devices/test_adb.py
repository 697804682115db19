from __future__ import annotations

import os

import pytest
from fake_adb import SERIAL, make_phone

from autoprune.devices.device import load_device
from autoprune.devices.measure import Measurer
from autoprune.errors import DeviceError

QUICK = {"min_runs": 8, "min_s": 0.0, "warmup_runs": 4, "warmup_s": 0.0, "repeats": 0}


@pytest.fixture
def phone(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{make_phone(tmp_path)}:{os.environ['PATH']}")
    return tmp_path


def test_a_phone_is_measured_on_its_big_cores(phone, matmul):
    with Measurer(load_device(f"adb://{SERIAL}")) as device:
        assert device.hello().model == "Pixel 6"
        found = device.measure(matmul(32), reference=matmul(64), **QUICK)
        assert (found.latency.device, found.latency.threads, found.latency.n) == (f"adb://{SERIAL}", 4, 8)
        assert found.reference is not None
        assert found.latency.ms < found.reference.ms < 0.3  # the slow first runs are not counted
        assert (phone / "mask").read_text() == f"{0b11110000:x}\n"
        assert len(list((phone / "data/local/tmp/autoprune").glob("*.onnx"))) == 2
        with pytest.raises(DeviceError, match="no node times"):
            device.measure(matmul(32), profile_runs=2, **QUICK)


@pytest.mark.parametrize(("address", "message"), [
    ("adb://nobody", "not found"), (f"adb://{SERIAL}/data/local/tmp/other", "no prebuilt one")])
def test_phones_that_are_not_ready(phone, matmul, address, message):
    with Measurer(load_device(address)) as device, pytest.raises(DeviceError, match=message) as caught:
        device.measure(matmul(), **QUICK)
    assert caught.value.fix


def test_a_full_phone_and_a_failing_program(phone, matmul):
    with Measurer(load_device(f"adb://{SERIAL}")) as device:
        device.hello()
        (phone / "full").touch()
        with pytest.raises(DeviceError, match="no room"):
            device.measure(matmul(), **QUICK)
        (phone / "full").unlink()
        program = phone / "data/local/tmp/onnxruntime_perf_test"
        text = program.read_text()
        for broken, words in (("echo Segmentation fault >&2; exit 139", "Segmentation fault"),
                              ('for result; do :; done; echo x,nan,1 > "$result"', "told 0 runs")):
            program.write_text(f"#!/bin/sh\n{broken}\n")
            with pytest.raises(DeviceError, match=words):
                device.measure(matmul(), **QUICK)
        program.write_text(text)
        assert device.measure(matmul(), **QUICK).latency.ms > 0


def test_no_adb_on_this_machine(matmul, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with Measurer(load_device(f"adb://{SERIAL}")) as device, pytest.raises(DeviceError, match="platform tools"):
        device.measure(matmul(), **QUICK)
