"""The agent on another machine: the system's `ssh` with argument lists, and what its failures mean.

Only text from this file reaches the device's shell, and a path to its Python that `Address` has checked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from autoprune.devices.address import Address
from autoprune.devices.agent import source
from autoprune.devices.worker_process import BOOTSTRAP, WorkerLost, WorkerProcess
from autoprune.errors import DeviceError

__all__ = ["ssh_command", "ssh_worker"]

_OPTIONS = ("BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=10", "ServerAliveInterval=5",
            "ServerAliveCountMax=3", "ControlMaster=no", "ClearAllForwardings=yes", "PermitLocalCommand=no",
            "RemoteCommand=none")
_FAILURES = (
    (r"REMOTE HOST IDENTIFICATION HAS CHANGED", "the device's host key is not the one that is known",
     "if the device was reinstalled: ssh-keygen -R {known}, then ssh {target} by hand; if not, find out who answers"),
    (r"Host key verification failed|host key is known", "the device's host key is not known yet",
     "connect once by hand and compare the fingerprint: ssh {target}"),
    (r"Permission denied|Too many authentication failures", "the device refused the key",
     "ssh-copy-id {target}; then `ssh -o BatchMode=yes {target} true` must succeed"),
    (r"Could not resolve hostname", "there is no such host", "check the name: ping {host}"),
    (r"Connection (timed out|refused)|Operation timed out|No route to host|Network is unreachable|banner exchange",
     "the device cannot be reached", "is it on, in this network, and does it run sshd? ssh {target}"),
)


def ssh_command(address: Address) -> list[str]:
    """The command that starts the agent. AUTOPRUNE_SSH_CONFIG names another file than `~/.ssh/config`."""
    config = os.environ.get("AUTOPRUNE_SSH_CONFIG")
    return ["ssh", *(["-F", config] if config else []), "-T", "-a", "-x",
            *(word for option in _OPTIONS for word in ("-o", option)),
            *(["-p", str(address.port)] if address.port else []), *(["-l", address.user] if address.user else []),
            "--", address.host, f'{address.program} -c "{BOOTSTRAP}"']


def ssh_worker(address: Address) -> WorkerProcess:
    """The agent on `address`, with the device's own Python. Nothing is started before the first `ask`."""
    return WorkerProcess(ssh_command(address), source(), _explain(address))


def _explain(address: Address) -> Callable[[int | None, str], DeviceError | None]:
    target = f"{address.user}@{address.host}" if address.user else address.host
    port = f"-p {address.port} " if address.port else ""
    known = f"'[{address.host}]:{address.port}'" if address.port else address.host

    def explain(code: int | None, words: str) -> DeviceError | None:
        last = words.splitlines()[-1] if words else "no message"
        if code == 255:  # ssh's own failures
            for pattern, message, fix in _FAILURES:
                if re.search(pattern, words):
                    named = fix.format(host=address.host, known=known, target=port + target)
                    return DeviceError(message, given=last, fix=named)
            return WorkerLost("the connection to the device was lost, or its agent was killed", given=last,
                              fix="check the network and the device's memory (dmesg), then run the same command again")
        if code in (126, 127):
            return DeviceError("the device has no such Python", given=f"{address.program}: {last}",
                               fix="install it there (sudo apt install python3), or name another one: "
                                   f"ssh://{target}/~/venv/bin/python")
        if "SyntaxError" in words:
            return DeviceError("the device's Python is too old", given=f"{address.program}: {last}",
                               allowed="Python 3.9 or newer", fix="install a newer one, and name it in the address")
        return None

    return explain
