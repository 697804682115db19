from __future__ import annotations

import pytest

from autoprune.devices.device import list_devices, load_device
from autoprune.devices.new_device import derive, write_device
from autoprune.devices.nodes import read_nodes
from autoprune.devices.profile import predict
from autoprune.errors import ConfigError


def test_a_file_that_loads_again(tmp_path):
    made = derive("mine", load_device("raspberrypi"), {"clock_ghz": 1.5, "cores": 2, "in_order": True})
    write_device(made, tmp_path / "mine.toml")
    again = load_device(str(tmp_path / "mine.toml"))
    assert again == made
    assert again.profile is not None
    assert (again.profile.clock_ghz, again.profile.cores, again.threads) == (1.5, 2, 2)
    assert again.facts["clock_ghz"].source == "given on the command line"
    assert again.facts["like"].value == "rpi4"
    assert set(again.facts) == {"like", "clock_ghz", "cores", "in_order"}


@pytest.mark.parametrize("like", ["rpi5", "rpi4"])
def test_the_interval_is_no_narrower_than_between_boards(like):
    widths = [d.error.hi_ratio / d.error.lo_ratio for d in list_devices() if d.error is not None]
    error = derive("mine", load_device(like), {}).error
    assert error is not None
    assert error.hi_ratio / error.lo_ratio == max(widths)
    assert "never compared" in error.source


def test_a_slower_clock_is_slower(cnn):
    nodes, like = read_nodes(cnn(32)), load_device("rpi4")
    assert predict(nodes, derive("a", like, {"clock_ghz": 0.9})).ms > 1.5 * predict(nodes, like).ms
    assert derive("a", like, {}, threads=1).threads == 1
    assert derive("a", like, {"clock_ghz": 0.9}).threads == like.threads


def test_a_new_device_from_a_new_device(tmp_path):
    write_device(derive("one", load_device("rpi5"), {"clock_ghz": 2.0}), tmp_path / "one.toml")
    two = derive("two", load_device(str(tmp_path / "one.toml")), {"memcpy_gbs": 4.0})
    assert two.profile is not None
    assert (two.profile.clock_ghz, two.profile.memcpy_gbs, two.facts["like"].value) == (2.0, 4.0, "one")


@pytest.mark.parametrize(("name", "like", "facts", "threads", "words"), [
    ("mine", "cpu", {}, None, "is measured"), ("rpi5", "rpi4", {}, None, "ships with"),
    ("../mine", "rpi4", {}, None, "not a device name"), ("mine.toml", "rpi4", {}, None, "not a device name"),
    ("", "rpi4", {}, None, "not a device name"), ("mine", "rpi4", {"clock": 1.0}, None, "unknown fact"),
    ("mine", "rpi4", {"clock_ghz": 0.0}, None, "clock_ghz is out of range"),
    ("mine", "rpi4", {"memcpy_gbs": float("nan")}, None, "memcpy_gbs is out of range"),
    ("mine", "rpi4", {"clock_ghz": 1500.0}, None, "clock_ghz is out of range"),
    ("mine", "rpi4", {"cores": 2.5}, None, "cores is out of range"),
    ("mine", "rpi4", {"in_order": 1}, None, "in_order is out of range"),
    ("mine", "rpi4", {"cores": 2}, 4, "more threads than cores"), ("mine", "rpi4", {}, 0, "threads")])
def test_what_is_refused(name, like, facts, threads, words):
    with pytest.raises(ConfigError, match=words) as caught:
        derive(name, load_device(like), facts, threads=threads)
    assert caught.value.allowed


def test_a_file_is_not_overwritten(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("precious")
    made = derive("mine", load_device("rpi4"), {}, description='a "quoted"\nline')
    with pytest.raises(ConfigError, match="there already"):
        write_device(made, path)
    assert path.read_text() == "precious"
    write_device(made, path, force=True)
    assert load_device(str(path)) == made
    with pytest.raises(ConfigError, match="cannot be written"):
        write_device(made, tmp_path / "nowhere" / "mine.toml")
