"""A real sshd on loopback with keys and configuration of its own, and Pythons that make it the device a test wants."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


class Loopback:
    """`address()` is a device: this machine, with its cache, sensors and lock in `folder`. `config` is for ssh."""

    def __init__(self, folder: Path):
        assert SSHD is not None
        self.folder, self.sensors, self.cache = folder, folder / "sensors", folder / "cache"
        self.known_hosts, self.config = folder / "known_hosts", folder / "ssh_config"
        for name in ("host", "other_host", "user", "stranger"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        shutil.copy(folder / "user.pub", folder / "authorized_keys")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        for name in ("tmp", "bin"):
            (folder / name).mkdir()
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nStrictModes no\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nUsePAM no\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
            f"SetEnv AUTOPRUNE_SENSORS_ROOT={self.sensors} XDG_CACHE_HOME={self.cache} TMPDIR={folder}/tmp\n")
        self.reset()
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        log = folder / "log"
        self.process = subprocess.Popen([SSHD, "-D", "-E", str(log), "-f", str(folder / "sshd_config")])
        until = time.monotonic() + 10
        while not log.exists() or "listening" not in log.read_text():
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(log.read_text() if log.exists() else "sshd did not start")
            time.sleep(0.02)

    @property
    def user(self) -> str:
        return pwd.getpwuid(os.getuid()).pw_name

    def address(self, python: Path | str | None = None) -> str:
        return f"ssh://{self.user}@127.0.0.1:{self.port}{python or self.python('plain')}"

    def reset(self) -> None:
        """The right keys, no sensors, and an empty cache."""
        self.trust("host")
        self.use_key("user")
        for folder in (self.sensors, self.cache):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()

    def trust(self, key: str) -> None:
        """Make `key` the known host key; "" knows none."""
        known = (self.folder / f"{key}.pub").read_text() if key else ""
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {known}" if known else "")

    def use_key(self, key: str) -> None:
        self.config.write_text(f"Host *\n  IdentityFile {self.folder}/{key}\n  IdentitiesOnly yes\n"
                               f"  UserKnownHostsFile {self.known_hosts}\n  GlobalKnownHostsFile /dev/null\n")

    def python(self, name: str, before: str = "", site: str = "", modules: dict[str, str] | None = None) -> Path:
        """A Python on the "device": a shell script that runs `before`, then Python with a `sitecustomize` of text
        `site` and with `modules` in front of what is installed.
        """
        path, extra = self.folder / "bin" / name, self.folder / "bin" / f"{name}-modules"
        shutil.rmtree(extra, ignore_errors=True)
        extra.mkdir()
        for module, text in {**({"sitecustomize": site} if site else {}), **(modules or {})}.items():
            (extra / f"{module}.py").write_text(text)
        path.write_text(f'#!/bin/sh\n{before}\nPYTHONPATH={extra} exec {sys.executable} "$@"\n')
        path.chmod(0o755)
        return path

    def sensor(self, name: str, text: str) -> Path:
        path = self.sensors / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def cut(self) -> int:
        """Kill the connections that are open, not the server; how many there were."""
        sessions = _children(self.process.pid)
        for pid in sessions:
            os.kill(pid, signal.SIGKILL)
        return len(sessions)

    def kill_agents(self) -> int:
        """Kill the processes that the connections have started; how many there were."""
        agents = [p for p in _descendants(self.process.pid) if "readline" in _command(p)]
        for pid in agents:
            os.kill(pid, signal.SIGKILL)
        return len(agents)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


def _children(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            if int(status.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(status.parent.name))
    return found


def _descendants(pid: int) -> list[int]:
    return [d for child in _children(pid) for d in (child, *_descendants(child))]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
