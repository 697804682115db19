"""Android through `adb`, with the `onnxruntime_perf_test` that the user has built and put on the device.

The agent's JSON lines, answered by a process on this machine: `adb push` for models, `adb shell` to run them. What
perf_test cannot do is refused or missing: inputs of one's own, node times, sensors, and the version of onnxruntime.
Candidate and reference run in turns, but each in a process of its own.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from autoprune.devices.address import Address
from autoprune.devices.agent.facts import BIG_CLOCK, larger
from autoprune.devices.agent.refused import Refused
from autoprune.devices.agent.serve import serve
from autoprune.devices.agent.timing import Blocks, statistics, summary, turn
from autoprune.devices.worker_process import BOOTSTRAP, WorkerProcess

__all__ = ["AdbAgent", "adb_worker"]

_FOLDER = "/data/local/tmp/autoprune"
_MOST_RUNS = 100_000


def adb_worker(address: Address) -> WorkerProcess:
    """A process of this machine that measures on the Android device `address`."""
    text = (f"sys.path[:] = {sys.path!r}\nfrom autoprune.devices.adb import main\n"
            f"main({address.host!r}, {address.program!r})\n")
    return WorkerProcess([sys.executable, "-c", BOOTSTRAP], text)


class AdbAgent:
    """Answers the agent's requests for one device. `program` is the path of onnxruntime_perf_test there."""

    def __init__(self, serial: str, program: str):
        self._serial, self._program = serial, program
        self._cores = [0]  # the big ones, once the device has said hello

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request. Raises `Refused` for what perf_test or adb cannot do."""
        op = request["op"]
        if op == "hello":
            return self._hello()
        if op == "has":
            there = self._shell("mkdir", "-p", _FOLDER, "&&", "ls", _FOLDER).split()
            return {"missing": [sha for sha in request["files"] if f"{sha}.onnx" not in there]}
        if op == "put":
            return self._put(request["sha256"], request["size"])
        if op == "measure":
            with turn(request["wait_s"]):
                return self._measure(request)
        raise ValueError(f"unknown op {op!r}")

    def _hello(self) -> dict[str, Any]:
        machine = self._shell("uname", "-m")
        if self._shell("ls", self._program, "||", "true") != self._program:
            raise Refused("setup", f"{self._program} is not there; build it from onnxruntime's sources with the "
                                   "Android NDK (there is no prebuilt one) and `adb push` it")
        clocks = self._shell("cat", "/sys/devices/system/cpu/cpu?/cpufreq/cpuinfo_max_freq", "||", "true").split()
        sizes = {core: float(clock) for core, clock in enumerate(clocks) if clock.isdigit()}
        self._cores = larger(sizes, BIG_CLOCK) or [0]
        return {"model": self._shell("getprop", "ro.product.model")[:100], "system": "Android", "machine": machine,
                "is_64bit": machine in ("aarch64", "x86_64"), "python": "none", "numpy": True,
                "onnxruntime": "unknown", "cores": len(self._cores), "all_cores": len(sizes) or 1, "features": [],
                "governor": "", "max_ghz": max(sizes.values()) / 1e6 if sizes else None, "temperature_c": None,
                "throttled": None, "memory_bytes": 0, "free_bytes": 0, "load": None}

    def _put(self, sha256: str, size: int) -> dict[str, Any]:
        content = sys.stdin.buffer.read(size)
        if hashlib.sha256(content).hexdigest() != sha256:
            raise Refused("missing", f"{sha256} arrived damaged")
        with tempfile.TemporaryDirectory(prefix="autoprune-adb-") as folder:
            file = Path(folder) / f"{sha256}.onnx"
            file.write_bytes(content)
            self._adb("push", str(file), f"{_FOLDER}/{file.name}.part")
        self._shell("mv", f"{_FOLDER}/{sha256}.onnx.part", f"{_FOLDER}/{sha256}.onnx")
        return {}

    def _measure(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["inputs"] is not None or request["profile_runs"]:
            raise Refused("setup", "onnxruntime_perf_test takes no inputs and tells no node times: measure without")
        candidate, reference = request["candidate"], request["reference"]
        warm = self._times(candidate, 3, request)
        runs = max(request["min_runs"], min(_MOST_RUNS, round(1e3 * request["min_s"] / statistics(warm)["p50_ms"])))
        order = [candidate] * 2 if reference is None else [reference, candidate, candidate, reference]
        times: dict[str, Blocks] = {sha: [] for sha in order}
        for sha in order:
            times[sha].append(self._times(sha, (runs + 1) // 2, request))
        return {**summary([times[sha] for sha in (candidate, reference) if sha is not None]), "attempts": 1,
                "nodes": [], "runtime_version": "unknown", "governor": ""}

    def _times(self, sha256: str, runs: int, request: dict[str, Any]) -> list[float]:
        """Milliseconds of `runs` runs after the warm-up ones, as perf_test's result file tells them."""
        warm, result = request["warmup_runs"], f"{_FOLDER}/result.csv"
        self._shell("rm", "-f", result)
        self._shell(f"LD_LIBRARY_PATH={PurePosixPath(self._program).parent}",
                    "taskset", f"{sum(1 << core for core in self._cores):x}",
                    self._program, "-I", "-z", "-e", "cpu", "-m", "times", "-r", str(warm + runs),
                    "-x", str(request["threads"]), "-y", "1", "-o", "99", f"{_FOLDER}/{sha256}.onnx", result)
        found = re.findall(r"^[^,\n]*,([0-9.e+-]+),", self._shell("cat", result), re.MULTILINE)
        if len(found) != warm + runs:
            raise Refused("model", f"perf_test told {len(found)} runs instead of {warm + runs}")
        return [1e3 * float(seconds) for seconds in found[warm:]]

    def _shell(self, *words: str) -> str:
        """What a command on the device prints. Its words are ours, or checked: adb joins them for a shell."""
        return self._adb("shell", *words)

    def _adb(self, *words: str) -> str:
        try:
            done = subprocess.run(["adb", "-s", self._serial, *words], capture_output=True, check=False,
                                  stdin=subprocess.DEVNULL)
        except OSError as error:
            raise Refused("setup", f"adb cannot be started ({error.strerror}); install Android's platform tools"
                          ) from error
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()[-500:]
            absent = re.search("not found|offline|unauthorized|no devices", said)
            if re.search("No space left", said):
                raise Refused("disk", said)
            raise Refused("setup" if words[0] != "shell" or absent else "model", f"adb {words[0]}: {said}")
        return done.stdout.decode(errors="replace").strip()


def main(serial: str, program: str) -> None:
    """Serve requests until stdin closes."""
    serve(AdbAgent(serial, program).answer)
