"""A whole calibration of this machine, as short as one can be; what its files promise, and what is refused."""

from __future__ import annotations

import hashlib
import itertools
import math
import platform
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from autoprune import resources
from autoprune.devices.calibration import calibrate as calibration
from autoprune.devices.calibration.calibrate import Timed, calibrate, join, reachable, same_layout
from autoprune.devices.calibration.calibrated import load_kernels
from autoprune.devices.calibration.kernels import KernelModel
from autoprune.devices.calibration.nets import calibration_nets
from autoprune.devices.calibration.profiler import CalibratedProfiler
from autoprune.devices.device import Device, load_device
from autoprune.devices.measure import Measurer
from autoprune.devices.measurement import NodeTime
from autoprune.devices.node import Node
from autoprune.devices.prices import nodes_for, predict, predict_table
from autoprune.errors import ConfigError, DeviceError

Make = Callable[..., bytes]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Device, Path, list[str]]:
    """A machine that is busy with other things times few nets well, and slowly; here any will do."""
    folder, said = tmp_path_factory.mktemp("calibration") / "new", list[str]()
    gather = calibration._gather
    with pytest.MonkeyPatch.context() as patch:
        for limit, value in (("_LEAST_NETS", 6), ("_NOISY", 1e3), ("_SLOW", 1e3), ("_APART", 1e3)):
            patch.setattr(calibration, limit, value)
        patch.setattr(calibration, "_gather", lambda measurer, nets, layout, seconds, say: gather(
            measurer, itertools.islice(nets, 8), layout, math.inf, say))
        return calibrate("cpu", "mine", folder, threads=1, minutes=0.1, on_progress=said.append), folder, said


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is opened and asked, and never measures."""
    measurer = mock.MagicMock(spec=Measurer)
    measurer.__enter__.return_value = measurer
    measurer.hello.return_value = mock.Mock(machine="x86_64", model="a machine")
    measurer.measure.return_value = mock.Mock(latency=mock.Mock(threads=1, runtime_version="1.0"))
    monkeypatch.setattr(calibration, "Measurer", lambda *_: measurer)


@pytest.fixture
def copied(made: tuple[Device, Path, list[str]], tmp_path: Path) -> Path:
    """The two files in another folder."""
    for path in made[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    load_kernels.cache_clear()
    return tmp_path


def test_the_files(made: tuple[Device, Path, list[str]]) -> None:
    device, folder, said = made
    assert {p.name for p in folder.iterdir()} == {"mine.toml", "mine.kernels.npz"}
    assert load_device(str(folder / "mine.toml")) == device
    assert Device.from_json(device.to_json()) == device
    assert (device.kind, device.is_measured, device.name) == ("calibrated", False, "mine")
    assert device.runtime_version
    found = device.calibration
    assert found is not None
    assert (found.threads, found.layout) == (1, True)
    assert found.nets >= 6
    assert found.nodes > found.nets
    assert found.probe_ms > 0
    assert any("fitting to" in text for text in said)
    assert device.error is not None
    assert device.error.lo_ratio <= 1 <= device.error.hi_ratio
    assert device.error.rows == -(-found.nets // 5)


def test_it_predicts(made: tuple[Device, Path, list[str]], cnn: Make) -> None:
    device = made[0]
    small, large = (predict(nodes_for(cnn(width), device), device) for width in (8, 256))
    for latency in (small, large):
        assert 0 < latency.lo_ms <= latency.ms <= latency.hi_ms
        assert (latency.source, latency.device, latency.threads) == ("calibrated", "mine", 1)
    assert large.ms > small.ms
    table = predict_table(nodes_for(cnn(8), device), device)
    assert sum(ms for _, ms in table) == pytest.approx(small.ms)
    assert all(ms > 0 for _, ms in table)
    assert any("medians only" in note for note in predict(nodes_for(cnn(8), device), device, "p90").notes)
    with Measurer(load_device("cpu"), 1) as measurer:
        measured = measurer.measure(cnn(256)).latency.ms
    assert measured / 20 < large.ms < measured * 20


def test_what_is_refused_of_a_calibrated_device(made: tuple[Device, Path, list[str]], cnn: Make) -> None:
    device = made[0]
    nodes = nodes_for(cnn(8), device)
    with pytest.raises(ConfigError, match="another number of threads") as caught:
        predict(nodes, device, threads=2)
    assert "--threads" in str(caught.value)
    with pytest.raises(DeviceError, match="no nodes"):
        predict([], device)
    with pytest.raises(ConfigError, match="percentile"):
        predict(nodes, device, "p1")
    with pytest.raises(ConfigError, match="cannot be measured"):
        calibrate(device, "again")


def test_two_models_compare_alike_in_either_order(made: tuple[Device, Path, list[str]], cnn: Make,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are learnt from before either is told: a device that takes twice its prices, and thrice for large nets."""
    device = made[0]

    def time_net(_: object, net: bytes, *__: object, **___: object) -> Timed:
        factor = 2 if net == cnn(8) else 3
        assert device.calibration is not None
        return Timed(factor * predict(nodes_for(net, device), device).ms, device.calibration.probe_ms, (), 1.0)

    monkeypatch.setattr("autoprune.devices.calibration.profiler.time_net", time_net)
    found = []
    for models in ((cnn(8), cnn(64)), (cnn(64), cnn(8))):
        with CalibratedProfiler(device) as profiler:
            found.append(profiler.compare(*models))
    assert found[0].ratio == pytest.approx(1 / found[1].ratio)
    assert found[0].latency.ms == pytest.approx(found[1].reference.ms)
    assert found[0].lo is None


def test_what_is_recommended_is_measured_on_the_device(made: tuple[Device, Path, list[str]], cnn: Make,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    device, asked = made[0], list[int]()

    def time_net(_: object, net: bytes, *__: object, runs: int, **___: object) -> Timed:
        asked.append(runs)
        assert device.calibration is not None
        if len(asked) > 1:
            raise DeviceError("the device cannot be reached")
        return Timed(7.0, 2 * device.calibration.probe_ms, (), 1.0)  # on a machine that is half as fast just now

    monkeypatch.setattr("autoprune.devices.calibration.profiler.time_net", time_net)
    with CalibratedProfiler(device) as profiler:
        assert profiler.measured_again(cnn(8), 1.0) == pytest.approx([3.5])
        assert profiler.measured_again(cnn(8), 1.0) == []
        assert asked[0] >= 30
    with CalibratedProfiler(device, lessons=0) as profiler:
        assert profiler.measured_again(cnn(8), 1.0) == []


@pytest.mark.parametrize(("harm", "words"), [
    (lambda path: path.unlink(), "are missing"), (lambda path: path.write_bytes(path.read_bytes() + b"x"), "not those"),
    (lambda path: path.write_bytes(b""), "not those")])
def test_kernels_missing_or_changed(copied: Path, cnn: Make, harm: Callable[[Path], object], words: str) -> None:
    device = load_device(str(copied / "mine.toml"))
    nodes = nodes_for(cnn(8), device)
    harm(copied / "mine.kernels.npz")
    with pytest.raises(DeviceError, match=words) as caught:
        predict(nodes, device)
    assert "calibrate again" in str(caught.value)


def test_kernels_that_are_none(copied: Path, cnn: Make) -> None:
    """The hash is right and the content is not: an archive of something else, or no archive at all."""
    for content in (b"garbage", b"PK\x03\x04 garbage"):
        (copied / "mine.kernels.npz").write_bytes(content)
        device = load_device(str(copied / "mine.toml"))
        assert device.calibration is not None
        found = replace(device.calibration, sha256=hashlib.sha256(content).hexdigest())
        with pytest.raises(DeviceError, match="cannot be read"):
            predict(nodes_for(cnn(8), device), replace(device, calibration=found))


def test_the_files_may_move_together(copied: Path, made: tuple[Device, Path, list[str]], cnn: Make) -> None:
    moved = load_device(str(copied / "mine.toml"))
    nodes = nodes_for(cnn(8), moved)
    assert predict(nodes, moved).ms == predict(nodes, made[0]).ms


@pytest.mark.parametrize("name", ["", "a b", "a/b", "../a", "a.toml", "-", "a\nb", "rpi4"])
def test_bad_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name"):
        calibrate("cpu", name, tmp_path, minutes=0.1)
    assert list(tmp_path.iterdir()) == []


def test_another_device_file_is_not_overwritten(tmp_path: Path) -> None:
    shipped = (resources.folder("devices") / "rpi5.toml").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(shipped, encoding="utf-8")
    with pytest.raises(ConfigError, match="no calibration that could be renewed"):
        calibrate("cpu", "mine", tmp_path, minutes=0.1)
    assert (tmp_path / "mine.toml").read_text(encoding="utf-8") == shipped


def test_blocked_channels_are_not_read_on_another_processor(made: tuple[Device, Path, list[str]], cnn: Make,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    calibration = made[0].calibration
    assert calibration is not None
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(ConfigError, match="blocked channels"):
        nodes_for(cnn(8), replace(made[0], calibration=replace(calibration, layout=True)))


@pytest.mark.parametrize("minutes", [0.0, -1.0, 0.05, 601.0, float("nan"), float("inf")])
def test_bad_minutes(minutes: float, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="minutes"):
        calibrate("cpu", "mine", tmp_path, minutes=minutes)


def test_devices_and_threads_that_cannot_be_calibrated(tmp_path: Path) -> None:
    for device, threads, words in (("rpi4", 1, "cannot be measured"), ("nowhere", 1, "unknown device"),
                                   ("cpu", 10_000, "more threads"), ("cuda", 1, "only CPUs")):
        with pytest.raises(ConfigError, match=words):
            calibrate(device, "mine", tmp_path, threads=threads, minutes=0.1)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_found_before_anything_is_timed(tmp_path: Path,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(calibration, "Measurer", lambda *_: pytest.fail("a device was opened"))
    with pytest.raises(ConfigError, match="cannot be written"):
        calibrate("cpu", "mine", tmp_path / "file", minutes=0.1)


@pytest.mark.parametrize("moment", ["_gather", "_held_out", "device_text"])
@pytest.mark.usefixtures("idle")
def test_an_interrupted_calibration_leaves_no_half_device(moment: str, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    nets = [Timed(0.3, 1.0, ((Node(f"n{i}", "Add", "add", in_elems=i + 1, out_elems=i + 1), 0.1),) * 3, 1.1)
            for i in range(10)]
    monkeypatch.setattr(calibration, "_LEAST_NETS", 6)
    monkeypatch.setattr(calibration, "_gather", lambda *_: nets)
    monkeypatch.setattr(calibration, moment, interrupt)
    with pytest.raises(KeyboardInterrupt):
        calibrate("cpu", "mine", tmp_path, threads=1, minutes=0.1)
    assert not list(tmp_path.glob("*.toml*"))
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.usefixtures("idle")
def test_too_few_nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_gather", lambda *_: [])
    with pytest.raises(DeviceError, match="too few nets") as caught:
        calibrate("cpu", "mine", tmp_path, threads=1, minutes=0.1)
    assert "--minutes" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_nodes_are_made_to_add_up_to_their_net() -> None:
    nodes = tuple(Node(f"n{i}", "Add", "add") for i in range(3))
    timed = Timed(1.1, 1.0, tuple(zip(nodes, (0.51, 0.51, 0.01), strict=True)), 1.0)
    found = calibration._adding_up(timed, 0.01)
    assert found is not None
    assert sum(ms - 0.01 for _, ms in found.nodes) == pytest.approx(1.1)
    assert [ms for _, ms in found.nodes] == pytest.approx([0.56, 0.56, 0.01], abs=2e-3)
    assert calibration._adding_up(Timed(1.3, 1.0, timed.nodes, 1.0), 0.01) is None  # of another moment altogether


def test_what_drifted_is_scaled_back_and_what_was_noisy_left_out() -> None:
    node = Node("n", "Add", "add")
    timed = [Timed(2.0, 1.0, ((node, 1.0),), 1.0), Timed(2.2, 1.1, ((node, 1.1),), 1.0),
             Timed(9.0, 1.0, ((node, 1.0),), 1.31), Timed(9.0, 1.2, ((node, 1.0),), 1.0),
             Timed(9.0, 0.8, ((node, 1.0),), 1.0)]
    kept, probe_ms = calibration._usable(timed)
    assert probe_ms == 1.0
    assert [(round(t.ms, 9), t.probe_ms, round(t.nodes[0][1], 9)) for t in kept] == [(2.0, 1.0, 1.0)] * 2
    assert calibration._usable([]) == ([], 0.0)


def test_held_out_nets_are_not_learnt_from() -> None:
    """Every fifth net is three times as slow as the others: its ratio says so."""
    def node(size: int) -> Node:
        return Node("n", "Add", "add", in_elems=size, out_elems=size, in_shapes=((size,),), out_shapes=((size,),))

    kept = [Timed((0.3 if i % 5 == 0 else 0.1) * 4, 1.0, ((node(1000), 0.3 if i % 5 == 0 else 0.1),) * 4, 1.0)
            for i in range(40)]
    ratios = calibration._held_out(kept, 0.0, KernelModel.fit([t.nodes for t in kept]))
    assert len(ratios) == 8
    np.testing.assert_allclose(ratios, 3.0, rtol=0.05)


def test_nodes_are_joined_by_name_and_moves_by_shape() -> None:
    def move(name: str, size: int) -> Node:
        return Node(name, "nchwc.ReorderOutput", "unknown", out_shapes=((1, size),))

    nodes = [Node("a", "Conv", "conv"), move("r1", 4), move("r2", 8), Node("b", "Conv", "conv")]
    times = [NodeTime("a", "Conv", 1.0, (1, 4)), NodeTime("r7", "ReorderOutput", 2.0, (1, 8)),
             NodeTime("r8", "ReorderOutput", 3.0, (1, 9)), NodeTime("c", "Conv", 4.0, (1, 4))]
    assert [(node.name, ms) for node, ms in join(nodes, times)] == [("a", 1.0), ("r2", 2.0)]


def test_layouts_agree_only_between_like_machines() -> None:
    here, there = load_device("cpu"), load_device("ssh://pi@somewhere")
    assert same_layout(here, "whatever")
    assert not same_layout(there, "riscv64")
    assert same_layout(there, platform.machine()) == (platform.machine() in ("x86_64", "AMD64"))


def test_a_device_calibrated_over_ssh_is_found_again(copied: Path) -> None:
    path = copied / "mine.toml"
    text = path.read_text().replace('kind = "calibrated"', 'kind = "calibrated"\naddress = "ssh://pi@somewhere"')
    assert tomllib.loads(text)["address"]
    path.write_text(text)
    device = load_device(str(path))
    behind = reachable(device)
    assert (behind.address, behind.is_measured) == ("ssh://pi@somewhere", True)
    assert behind.runtime_version == device.runtime_version
    assert reachable(replace(device, address=None)).name == "cpu"


def test_further_models_are_timed_first(cnn: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    def time_net(_: object, net: bytes, layout: bool) -> Timed:
        seen.append(net)
        if len(seen) == 2:
            raise DeviceError("one net that cannot be timed")
        return Timed(1.0, 1.0, (), 1.0)

    monkeypatch.setattr(calibration, "time_net", time_net)
    nets = itertools.chain([cnn(8)], itertools.islice(calibration_nets(), 3))
    said: list[str] = []
    found = calibration._gather(mock.Mock(spec=Measurer), nets, True, math.inf, said.append)
    assert seen[0] == cnn(8)
    assert (len(seen), len(found)) == (4, 3)
    assert "a net is left out: one net that cannot be timed" in said


def test_a_device_on_which_nothing_can_be_timed(cnn: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Timed:
        raise DeviceError("it is on fire")

    monkeypatch.setattr(calibration, "time_net", fails)
    with pytest.raises(DeviceError, match="on fire"):
        calibration._gather(mock.Mock(spec=Measurer), [cnn(8)] * 50, True, math.inf, print)


def test_what_the_profiler_takes_is_read_off_nets_of_small_nodes() -> None:
    """2 µs a node; in a net of large nodes the noise of the whole is more than all of that."""
    def net(count: int, node_ms: float, noise: float) -> Timed:
        nodes = tuple((Node(f"n{i}", "Add", "add"), node_ms + 0.002) for i in range(count))
        return Timed(count * node_ms * (1 + noise), 1.0, nodes, 1.0)

    small = [net(100, 0.003, noise) for noise in (-0.02, 0.0, 0.02)]
    large = [net(10, 5.0, noise) for noise in (0.01, 0.02, 0.03, 0.04, 0.05)]
    assert calibration._overhead([*large, *small]) == pytest.approx(0.002, rel=0.01)
    assert calibration._overhead(large) == 0.0  # nothing to see
