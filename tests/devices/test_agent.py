from __future__ import annotations

import os

import pytest

from autoprune.devices.agent import facts


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
