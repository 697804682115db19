"""`Address`: where a remote device is. Checked here once, so that no part of it can be an option or reach a shell."""

from __future__ import annotations

import re
from dataclasses import dataclass

from autoprune.errors import ConfigError

__all__ = ["Address"]

_FORMS = "ssh://[user@]host[:port][/path/to/python] or adb://serial[/path/to/onnxruntime_perf_test]"
_PROGRAM = r"(?P<program>/(?:~/)?[A-Za-z0-9_.][A-Za-z0-9_.+/-]*)?/?"
_SSH = re.compile(r"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@)?"
                  r"(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?" + _PROGRAM)
_ADB = re.compile(r"adb://(?P<host>[A-Za-z0-9_][A-Za-z0-9_.:-]*)" + _PROGRAM)
_DEFAULT = {"ssh": "python3", "adb": "/data/local/tmp/onnxruntime_perf_test"}


@dataclass(frozen=True)
class Address:
    """A parsed address. `scheme` is "ssh" or "adb"; `host` a host name, an alias of the user's ssh configuration, an IP
    address, or adb's serial number. `program` is the Python (ssh) or the onnxruntime_perf_test (adb) on the device, by
    default `python3` and `/data/local/tmp/onnxruntime_perf_test`; `ssh://pi@host/~/venv/bin/python` starts at the home
    folder.
    """

    scheme: str
    host: str
    user: str | None
    port: int | None
    program: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises `ConfigError` for anything but a plain address; passwords have no place in one."""
        found = _SSH.fullmatch(text) or _ADB.fullmatch(text)
        if found is None:
            if re.match(r"ssh://[^/@]*:[^/@]*@", text):
                raise ConfigError("an address holds no password", allowed=_FORMS,
                                  fix="use a key: ssh-copy-id user@host")
            raise ConfigError("not the address of a device", given=repr(text[:200]), allowed=_FORMS,
                              fix="docs/remote-devices.md")
        scheme, parts = text.partition(":")[0], found.groupdict()
        port = None if parts.get("port") is None else int(parts["port"])
        if port is not None and not 1 <= port <= 65535:
            raise ConfigError("not a port", given=str(port), allowed="1 to 65535",
                              fix="leave it out for the port of your ssh configuration")
        program = parts["program"] or _DEFAULT[scheme]
        return cls(scheme, parts["host"].strip("[]"), parts.get("user"), port, program.removeprefix("/~/"))
