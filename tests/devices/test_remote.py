"""Measuring over ssh, against a real sshd on loopback."""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from loopback import Loopback

from autoprune.devices.device import load_device
from autoprune.devices.doctor import examine
from autoprune.devices.measure import Measurer
from autoprune.devices.worker_process import WorkerProcess
from autoprune.errors import AutopruneError, ConfigError, DeviceError
from autoprune.nas.oracle import LatencyOracle

pytestmark = pytest.mark.system

QUICK = {"min_runs": 8, "min_s": 0.0, "warmup_runs": 1, "warmup_s": 0.0, "repeats": 0}
LONG = {"min_runs": 1, "min_s": 0.8, "warmup_runs": 1, "warmup_s": 0.0, "repeats": 0}


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """The requests that were sent, by name."""
    names: list[str] = []
    ask = WorkerProcess.ask

    def spy(self, request, *rest):
        names.append(request["op"])
        return ask(self, request, *rest)

    monkeypatch.setattr(WorkerProcess, "ask", spy)
    return names


def _device(loopback: Loopback, **python: object) -> Measurer:
    where = loopback.python("special", **python) if python else None
    return Measurer(load_device(loopback.address(where)), threads=1, timeout_s=60)


def test_a_measurement_over_ssh(loopback, cnn, asked):
    with _device(loopback) as device:
        found = device.measure(cnn(8), reference=cnn(16), profile_runs=2, **QUICK)
        assert (found.latency.source, found.latency.device) == ("measured", loopback.address())
        assert found.latency.runtime_version
        assert found.reference is not None
        assert any(n.op == "Gemm" for n in found.nodes)
        device.measure(cnn(8), reference=cnn(16), **QUICK)
    assert asked == ["hello", "has", "put", "put", "measure", "has", "measure"]
    with _device(loopback) as device:  # the files outlive the connection
        device.measure(cnn(8), **QUICK)
    assert asked[-3:] == ["hello", "has", "measure"]


def test_the_oracle_takes_an_address(loopback, matmul, monkeypatch):
    with LatencyOracle(loopback.address(), threads=1) as oracle:
        assert oracle(matmul()).device == oracle.device.name == loopback.address()


def _refused(loopback: Loopback, message: str, model: bytes, **python: object) -> AutopruneError:
    """The error of a device whose Python is special in some way; it names the fix."""
    with _device(loopback, **python) as device, pytest.raises(DeviceError, match=message) as caught:
        device.measure(model, **QUICK)
    assert caught.value.fix
    return caught.value


def test_keys_that_do_not_fit(loopback, matmul):
    loopback.trust("other_host")
    _refused(loopback, "host key is not the one", matmul())
    loopback.trust("")
    assert "ssh -p" in str(_refused(loopback, "not known yet", matmul()).fix)
    loopback.reset()
    loopback.use_key("stranger")
    _refused(loopback, "refused the key", matmul())


@pytest.mark.parametrize(("address", "message"), [
    ("ssh://127.0.0.1:1", "cannot be reached"), ("ssh://no-such-host.invalid", "no such host")])
def test_nobody_there(loopback, matmul, address, message):
    with Measurer(load_device(address)) as device, pytest.raises(DeviceError, match=message):
        device.measure(matmul(), **QUICK)


def test_no_python(loopback, matmul):
    address = loopback.address("/no/such/python3")
    with Measurer(load_device(address)) as device, pytest.raises(DeviceError, match="no such Python"):
        device.measure(matmul(), **QUICK)


ARMV8_0 = "import platform; platform.machine = lambda: 'aarch64'"


@pytest.mark.parametrize(("python", "message"), [
    ({"site": "import sys; sys.maxsize = 2**31 - 1"}, "32-bit"),
    ({"site": "import importlib.util as u; f = u.find_spec\n"
              "u.find_spec = lambda name, *r: None if name == 'onnxruntime' else f(name, *r)"}, "no onnxruntime"),
    ({"site": ARMV8_0, "modules": {"onnxruntime": "__version__ = '1.21.0'"}}, "illegal instruction"),
    ({"before": "echo SyntaxError: invalid syntax >&2; exit 1"}, "too old"),
], ids=["32bit", "no-onnxruntime", "armv8.0", "old-python"])
def test_devices_that_cannot_be_measured_on(loopback, matmul, python, message):
    loopback.sensor("proc/cpuinfo", "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\n")
    _refused(loopback, message, matmul(), **python)


def test_1_21_0_is_fine_from_armv8_1_on(loopback):
    loopback.sensor("proc/cpuinfo", "processor\t: 0\nFeatures\t: fp asimd crc32 atomics\n")
    modules = {"onnxruntime": "__version__ = '1.21.0'"}
    with _device(loopback, site=ARMV8_0, modules=modules) as device:
        assert device.hello().onnxruntime == "1.21.0"


def test_another_onnxruntime_than_the_file_says(loopback, matmul, tmp_path):
    file = tmp_path / "board.toml"
    file.write_text('schema = 1\nname = "board"\nkind = "measured-remote"\ndescription = "mine"\nsparsity = []\n'
                    f'address = "{loopback.address()}"\n[runtime]\nname = "onnxruntime"\nversion = "1.2.3"\n'
                    'provider = "CPUExecutionProvider"\nprecision = "fp32"\n')
    with Measurer(load_device(str(file))) as device, pytest.raises(DeviceError, match="another onnxruntime") as caught:
        device.measure(matmul(), **QUICK)
    assert caught.value.allowed == "1.2.3"


@pytest.mark.parametrize(("before", "message"), [
    ("echo hello world", "no answer"), ("echo 7", "no answer"), ("echo '{\"id\": 1}'", "no answer"),
    ("yes", "no answer"), ("head -c 5000000 /dev/zero", "too much text"),
    ("head -c 3000 /dev/urandom; echo", "no answer")])
def test_garbage(loopback, matmul, before, message):
    _refused(loopback, message, matmul(), before=f"{before}; exec cat > /dev/null #")


@contextmanager
def _every(action: Callable[[], int], times: int) -> Iterator[list[int]]:
    """Run `action` again and again beside the measurement, until it has hit something `times` times."""
    hits, done = [0], threading.Event()

    def loop() -> None:
        while hits[0] < times and not done.wait(0.1):
            hits[0] += action()

    thread = threading.Thread(target=loop)
    thread.start()
    yield hits
    done.set()
    thread.join()


@pytest.mark.parametrize("how", ["cut", "kill_agents"])
def test_a_lost_connection_is_made_again_once(loopback, matmul, asked, how):
    with _device(loopback) as device:
        device.measure(matmul(), **QUICK)
        hit = getattr(loopback, how)
        with _every(lambda: hit() if asked[-1] == "measure" else 0, 1) as hits:
            assert device.measure(matmul(), **LONG).latency.ms > 0
        assert hits == [1]
        assert asked == ["hello", "has", "put", "measure", "has", "measure", "hello", "has", "measure"]
        with _every(hit, 100), pytest.raises(DeviceError, match="lost"):
            device.measure(matmul(), **LONG)
        assert device.measure(matmul(), **QUICK).latency.ms > 0


def test_another_onnxruntime_after_reconnecting(loopback, matmul):
    with _device(loopback, before="true") as device:
        device.measure(matmul(), **QUICK)
        loopback.python("special", modules={"onnxruntime": "__version__ = '9.9'"})
        loopback.kill_agents()
        with pytest.raises(DeviceError, match="the device changed"):
            device.measure(matmul(), **QUICK)


def test_a_timeout(loopback, matmul):
    with _device(loopback) as device:
        device.measure(matmul(), **QUICK)
        device.timeout_s = 0.4
        with pytest.raises(DeviceError, match=r"longer than 0\.4 s"):
            device.measure(matmul(), min_runs=1, min_s=30.0, repeats=0)


def test_no_room_for_the_model(loopback, matmul):
    with _device(loopback, before="ulimit -f 20") as device:  # 10 KB to a file, as a quota would
        with pytest.raises(DeviceError, match="no room"):
            device.measure(matmul(256), **QUICK)
        assert device.measure(matmul(16), **QUICK).latency.ms > 0  # the connection is still in step
    assert len(list((loopback.cache / "autoprune" / "models").iterdir())) == 1


def test_a_full_disk(loopback, matmul):
    full = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(loopback.cache)], capture_output=True)
    if full.returncode:
        pytest.skip("may not mount a file system here")
    try:
        with _device(loopback) as device:
            with pytest.raises(DeviceError, match="No space left"):
                device.measure(matmul(256), **QUICK)
            assert device.measure(matmul(16), **QUICK).latency.ms > 0
    finally:
        subprocess.run(["umount", "-l", str(loopback.cache)], check=True)


def test_one_search_at_a_time(loopback, matmul):
    lock = loopback.folder / "tmp" / f"autoprune-measure-{os.getuid()}.lock"
    with _device(loopback) as device, lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        device.hello()
        device.timeout_s = 2.0
        with pytest.raises(DeviceError, match="another measurement"):
            device.measure(matmul(), **QUICK)


def _firmware(loopback: Loopback, *readings: str) -> None:
    """A vcgencmd that tells these throttle bits one after the other, and then the last one."""
    count = loopback.sensor("count", "0")
    program = loopback.sensor("usr/bin/vcgencmd", (
        f"#!/bin/sh\nn=$(($(cat {count}) + 1)); echo $n > {count}\nset -- {' '.join(readings)}\n"
        "[ $n -gt $# ] && n=$#\neval echo throttled=\\${$n}\n"))
    program.chmod(0o755)


def test_what_was_timed_on_a_throttled_chip_is_thrown_away(loopback, matmul, asked):
    with _device(loopback) as device:
        device.cool_down_s = 0.1
        # hello; before and after the first; before and after the repeat. 0x5…: since boot
        _firmware(loopback, "0x0", "0x0", "0x40000", "0x40000", "0x40000")
        assert device.hello().throttled == ()
        assert device.measure(matmul(), **QUICK).latency.ms > 0
        _firmware(loopback, "0x0", "0x50005", "0x50005")
        with pytest.raises(DeviceError, match="slowed down") as caught:
            device.measure(matmul(), **QUICK)
        assert caught.value.given == "under-voltage, throttled"
        _firmware(loopback, "0x50005", "0x50000")  # cools down in time
        assert device.measure(matmul(), **QUICK).latency.ms > 0


def test_facts_of_the_device(loopback, matmul):
    loopback.sensor("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0")
    loopback.sensor("proc/meminfo", "MemTotal:  3884364 kB\nMemAvailable:  3411000 kB\n")
    loopback.sensor("proc/loadavg", "0.10 0.20 0.30 1/100 99\n")
    loopback.sensor("sys/class/thermal/thermal_zone0/temp", "48312\n")
    loopback.sensor("sys/devices/platform/soc/soc:firmware/get_throttled", "4\n")
    for core in range(os.cpu_count() or 1):
        loopback.sensor(f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor", "ondemand\n")
        loopback.sensor(f"sys/devices/system/cpu/cpu{core}/cpufreq/cpuinfo_max_freq", "1800000\n")
    with _device(loopback) as device:
        hello = device.hello()
        assert (hello.model, hello.governor, hello.max_ghz) == ("Raspberry Pi 4 Model B Rev 1.4", "ondemand", 1.8)
        assert (hello.temperature_c, hello.throttled, hello.load) == (48.312, ("throttled",), 0.1)
    rows = {what: verdict for what, _, verdict in examine(load_device(loopback.address()))}
    assert "performance" in rows["governor"]
    assert rows["throttled"] != "ok"
    loopback.sensor("sys/devices/platform/soc/soc:firmware/get_throttled", "0\n")
    with _device(loopback) as device:
        assert "clock governor ondemand, not performance" in device.measure(matmul(), **QUICK).latency.notes


def test_bad_threads_are_refused_once_connected(loopback, matmul):
    with Measurer(load_device(loopback.address()), threads=1000) as device, pytest.raises(ConfigError, match="threads"):
        device.measure(matmul(), **QUICK)


def test_no_ssh_on_this_machine(loopback, matmul, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with _device(loopback) as device, pytest.raises(ConfigError, match="cannot start ssh"):
        device.measure(matmul(), **QUICK)
