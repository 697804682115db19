from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.devices.address import Address
from autoprune.devices.device import Device, load_device
from autoprune.devices.remote import ssh_command
from autoprune.errors import ConfigError


@pytest.mark.parametrize(("text", "parts"), [
    ("ssh://pi@raspberrypi.local", ("ssh", "raspberrypi.local", "pi", None, "python3")),
    ("ssh://board:2222/", ("ssh", "board", None, 2222, "python3")),
    ("ssh://pi@[fe80::1]:22/usr/bin/python3.11", ("ssh", "fe80::1", "pi", 22, "/usr/bin/python3.11")),
    ("ssh://pi@board/~/venv/bin/python", ("ssh", "board", "pi", None, "venv/bin/python")),
    ("adb://emulator-5554", ("adb", "emulator-5554", None, None, "/data/local/tmp/onnxruntime_perf_test")),
    ("adb://192.168.1.7:5555/data/local/tmp/ort/perf",
     ("adb", "192.168.1.7:5555", None, None, "/data/local/tmp/ort/perf")),
])
def test_addresses(text, parts):
    address = Address.parse(text)
    assert (address.scheme, address.host, address.user, address.port, address.program) == parts
    device = load_device(text)
    assert (device.kind, device.name, device.address, device.alignment()) == ("measured-remote", text, text, 8)


@pytest.mark.parametrize("text", [
    "ssh://", "ssh://-oProxyCommand=evil", "ssh://pi@-host", "ssh://-l@host", "ssh://host:0", "ssh://host:70000",
    "ssh://host:22:22", "ssh://ho st", "ssh://host\n", "ssh://host/$(reboot)", "ssh://host/a;b", "ssh://host/'a'",
    "ssh://host/~/-c", "ssh://host/-c", "ssh://ho`st`", "ssh://host/a b", "adb://-s", "adb://a b", "adb://x/$HOME",
    "telnet://host", "ssh://pi:secret@host", "SSH://host"])
def test_what_is_no_address(text):
    with pytest.raises(ConfigError) as caught:
        load_device(text)
    assert "secret" not in str(caught.value)
    assert caught.value.fix


@given(st.text(max_size=30), st.sampled_from(["ssh://", "adb://", "ssh://a@", "ssh://a/", ""]))
def test_any_text_is_an_address_or_an_error(text, start):
    try:
        address = Address.parse(start + text)
    except ConfigError:
        return
    for part in (address.host, address.user or "x", address.program):
        assert part.isascii()
        assert not part.startswith("-")
        assert not set(part) & set(" \t\n\"'`$\\;&|<>()*?!#~{}")


def test_the_ssh_command_is_strict_and_a_list(monkeypatch):
    monkeypatch.delenv("AUTOPRUNE_SSH_CONFIG", raising=False)
    command = ssh_command(Address.parse("ssh://pi@board:2222/~/venv/bin/python"))
    assert "-F" not in command
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes"} <= set(command)
    assert command[-7:-1] == ["-p", "2222", "-l", "pi", "--", "board"]
    assert command[-1].startswith('venv/bin/python -c "')
    assert not set("$`!\\") & set(command[-1])


def test_remote_devices_in_files(tmp_path):
    text = ('schema = 1\nname = "board"\nkind = "measured-remote"\ndescription = "mine"\nsparsity = []\nthreads = 2\n'
            'address = "ssh://pi@board"\n[runtime]\nname = "onnxruntime"\nprovider = "CPUExecutionProvider"\n'
            'precision = "fp32"\n')
    file = tmp_path / "board.toml"
    file.write_text(text)
    device = load_device(str(file))
    assert device.address == device.resolved == "ssh://pi@board"
    assert Device.from_json(device.to_json()) == device
    for good, bad, message in (
            ("ssh://pi@board", "ssh://pi board", "line 7: address: not the address of a device"),
            ('address = "ssh://pi@board"\n', "", "address is missing"),
            ("measured-remote", "measured-local", "line 7: address is for kinds measured-remote and calibrated only"),
            ("measured-remote", "measured-remot", "did you mean 'measured-remote'?")):
        file.write_text(text.replace(good, bad))
        with pytest.raises(ConfigError) as caught:
            load_device(str(file))
        assert message in str(caught.value)
