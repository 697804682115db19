from __future__ import annotations

import ast
import hashlib
import io
import os
import threading
from pathlib import Path

import pytest

from autoprune.devices import agent
from autoprune.devices.agent import facts
from autoprune.devices.agent.refused import Refused
from autoprune.devices.agent.store import Cache
from autoprune.devices.device import load_device
from autoprune.devices.measure import Measurer
from autoprune.errors import DeviceError


@pytest.fixture
def sixteen(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)


def _file(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 16), ("400000 100000", 4), ("150000 100000", 1),
                                              ("20000 100000", 1), ("garbage", 16)])
def test_cgroup_v2(tmp_path, sixteen, quota, cores):
    _file(tmp_path / "proc/self/cgroup", "0::/a/b\n")
    _file(tmp_path / "sys/fs/cgroup/a/cpu.max", quota)
    assert facts.usable_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 16), ("300000", 3)])
def test_cgroup_v1(tmp_path, sixteen, quota, cores):
    _file(tmp_path / "proc/self/cgroup", "3:cpu,cpuacct:/docker/x\n2:memory:/docker/x\n")
    _file(tmp_path / "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us", quota)
    _file(tmp_path / "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us", "100000")
    assert facts.usable_cores(tmp_path) == cores


def test_nothing_readable_means_affinity(tmp_path, sixteen):
    assert facts.usable_cores(tmp_path) == 16


def test_here():
    assert facts.usable_cores() >= 1


@pytest.mark.parametrize(("name", "sizes", "cores"), [
    ("cpu_capacity", [250] * 4 + [850] * 3 + [1024], 4), ("cpu_capacity", [1024] * 8, 8),
    ("cpufreq/cpuinfo_max_freq", [1416000] * 4 + [1800000] * 4, 4),
    ("cpufreq/cpuinfo_max_freq", [5000000, 5200000], 2)])
def test_little_cores_are_left_out(tmp_path, monkeypatch, name, sizes, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(len(sizes))), raising=False)
    for core, size in enumerate(sizes):
        _file(tmp_path / f"sys/devices/system/cpu/cpu{core}/{name}", f"{size}\n")
    assert facts.usable_cores(tmp_path) == cores
    pinned = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, which: pinned.extend(which), raising=False)
    monkeypatch.setenv("AUTOPRUNE_SENSORS_ROOT", str(tmp_path))
    facts.pin_to_big_cores()
    assert pinned == list(range(len(sizes)))[-cores:]


def test_throttling_is_now_or_newly_set_since_boot():
    assert facts.throttled(0, 0) == facts.throttled(None, None) == facts.throttled(0xF0000, 0xF0000) == []
    assert facts.throttled(0x1, 0x10001) == ["under-voltage"]
    assert facts.throttled(0x40000, 0xC0000) == ["soft temperature limit"]


def test_the_whole_agent_is_one_text_for_python_3_9():
    for part in ast.walk(ast.parse(agent.source())):
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and "__future__" in part.value:
            tree = ast.parse(part.value, feature_version=(3, 9))
            modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
            assert all(m.startswith("autoprune.devices.agent.") for m in modules if m.startswith("autoprune"))
            zips = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "zip"]
            assert not any(n.keywords for n in zips)  # `strict` came with 3.10


def _put(cache: Cache, content: bytes, claimed: str | None = None) -> str:
    sha256 = claimed or hashlib.sha256(content).hexdigest()
    cache.put(sha256, len(content), io.BytesIO(content))
    return sha256


def test_files_are_kept_by_content(tmp_path):
    cache = Cache(str(tmp_path / "c"), 1000)
    one = _put(cache, b"one")
    assert Path(cache.existing(one)).read_bytes() == b"one"
    assert cache.missing({one: 3}) == []
    assert cache.missing({one: 4, "0" * 64: 1}) == [one, "0" * 64]  # cut short, and never sent
    for claimed in ("0" * 64, "../../etc/passwd", "", 3):
        source = io.BytesIO(b"twoNEXT")
        with pytest.raises(Refused):
            cache.put(claimed, 3, source)
        assert source.read() == b"NEXT"  # the file was taken off the line all the same
    with pytest.raises(EOFError):
        cache.put(one, 10, io.BytesIO(b"short"))
    assert [p.name for p in cache.folder.iterdir()] == [one]


def test_the_oldest_files_make_room(tmp_path):
    cache = Cache(str(tmp_path), 100)
    first, second = _put(cache, b"a" * 40), _put(cache, b"b" * 40)
    for age, sha256 in ((1, second), (2, first)):
        os.utime(cache.path(sha256), (1e9 - age, 1e9 - age))
    assert cache.missing({first: 40, "0" * 64: 1}) == ["0" * 64]  # needed now, so it stays
    third = _put(cache, b"c" * 40)
    assert {p.name for p in tmp_path.iterdir()} == {first, third}


def test_it_ends_with_its_search(matmul):
    """Also in the middle of a measurement: a search that was killed must not keep the device busy."""
    with Measurer(load_device("cpu"), threads=1, timeout_s=60) as it:
        it.measure(matmul(), min_runs=1, min_s=0.0, repeats=0)
        process = it._worker._process
        assert process is not None
        assert process.stdin is not None
        threading.Timer(0.3, process.stdin.close).start()
        with pytest.raises(DeviceError, match="died before it answered"):
            it.measure(matmul(), min_runs=1, min_s=50.0, repeats=0)
