from __future__ import annotations

import re
import subprocess
import sys

import pytest

from autoprune import resources
from autoprune.devices.device import Device, list_devices, load_device
from autoprune.errors import ConfigError

PIS = ("rpi3bplus", "rpi4", "rpi5", "rpizero2w")


def test_every_shipped_file_loads_and_round_trips():
    devices = list_devices()
    assert {d.name for d in devices} == {p.stem for p in resources.folder("devices").glob("*.toml")}
    assert {"cpu", "raspberrypi", *PIS} <= {d.name for d in devices}
    for device in devices:
        assert Device.from_json(device.to_json()) == device
        assert device.sparsity == ()
        assert device.alignment() in (4, 8, 16)


def test_every_device_of_the_list_ships():
    wanted = """cpu raspberrypi rpi3bplus rpi4 rpi5 rpizero2w jetson-nano jetson-orin-nano pixel4 pixel6 pixel8
        snapdragon-8gen1 snapdragon-8gen2 snapdragon-8gen3 iphone-a15 iphone-a16 iphone-a17pro x86-avx2 x86-avx512 t4
        a100 rtx3090 rtx4090 l4 h100"""
    assert set(wanted.split()) <= {d.name for d in list_devices()}


@pytest.mark.parametrize("name", [d.name for d in list_devices() if d.kind == "profile"])
def test_a_profile_states_its_sources(name):
    device = load_device(name)
    assert device.runtime
    assert device.runtime_version
    assert device.precision in ("fp32", "fp16")
    assert device.threads
    assert device.align in (4, 8, 16)
    assert device.error is not None
    assert device.error.source
    assert 0 < device.error.p50 < device.error.p90
    assert device.error.rows > 0
    assert device.facts
    assert all(f.source for f in device.facts.values())


def test_an_alias_says_so_and_is_the_other_device():
    alias, real = load_device("raspberrypi"), load_device("rpi4")
    assert (alias.name, alias.alias_of, alias.resolved) == ("raspberrypi", "rpi4", "rpi4")
    assert "rpi4" in alias.announce
    assert alias.profile == real.profile


def test_unknown_device_did_you_mean():
    with pytest.raises(ConfigError, match="did you mean 'rpi4'"):
        load_device("rpi44")


def test_a_device_file_that_is_there_is_suggested(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "orangepi.toml").touch()
    with pytest.raises(ConfigError, match="unknown device") as caught:
        load_device("orangepi")
    assert caught.value.fix == "--device orangepi.toml"


def test_a_path_works_as_a_name(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text((resources.folder("devices") / "rpi5.toml").read_text())
    assert load_device(str(path)).profile == load_device("rpi5").profile


@pytest.mark.parametrize(("key", "value", "most"), [("clock_ghz", 1500, "20"), ("hi_ratio", 5000.0, "1000"),
                                                     ("threads", 100_000, "4096")])
def test_a_number_in_another_unit_is_refused(tmp_path, key, value, most):
    text = (resources.folder("devices") / "rpi4.toml").read_text()
    path = tmp_path / "units.toml"
    path.write_text(re.sub(rf"^{key} = [\d.]+", f"{key} = {value}", text, flags=re.MULTILINE))
    with pytest.raises(ConfigError, match=f"{key} is out of range: {value}, not above 0 and at most {most}"):
        load_device(str(path))


def test_a_broken_file_lists_every_problem_with_its_line(tmp_path):
    text = (resources.folder("devices") / "rpi4.toml").read_text()
    text = text.replace("stall = ", "stal = ").replace('kind = "profile"', 'kind = "profil"')
    text = text.replace("cores = 4", 'cores = "four"').replace("schema = 1", "schema = 9")
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_device(str(path))
    message = str(caught.value)
    wanted = ("profile.stall is missing", "unknown key profile.stal; did you mean 'stall'", "kind is 'profil'",
              "profile.cores must be a whole number, not 'four'", "schema is 9")
    for part in wanted:
        assert part in message
    number = 1 + text.splitlines().index(next(line for line in text.splitlines() if line.startswith("stal = ")))
    assert f"line {number}: unknown key profile.stal" in message


@pytest.mark.parametrize("text", ["name = ", "", "schema = 1\nalias_of = 3\n",
                                  "facts = 3\nprofile = []\nsparsity = [1]"])
def test_hostile_files_are_config_errors(tmp_path, text):
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load_device(str(path))


def test_missing_file_and_alias_loops(tmp_path):
    with pytest.raises(ConfigError):
        load_device(str(tmp_path / "no.toml"))
    for name, target in (("a", "b"), ("b", "a"), ("c", "nowhere")):
        (tmp_path / f"{name}.toml").write_text(
            f'schema = 1\nname = "{name}"\nalias_of = "{target}"\nannounce = "x"\ndescription = "x"\n')
    with pytest.raises(ConfigError, match="back to itself"):
        load_device(str(tmp_path / "a.toml"))
    with pytest.raises(ConfigError, match="names no device"):
        load_device(str(tmp_path / "c.toml"))


def test_importing_the_room_is_light():
    code = ("import sys\nimport autoprune.nas.oracle, autoprune.devices.agent.serve, autoprune.devices.profiler\n"
            "print([m for m in ('torch', 'numpy', 'onnx', 'onnxruntime') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=resources.folder("devices").parent)
    assert done.stdout.strip() == "[]"
