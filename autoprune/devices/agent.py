"""The agent: the process that times ONNX models, on this machine and on any other. JSON lines in and out.

It is handed to a Python on the device (`python3 -c`, see `worker_process.py`) and needs nothing there
but numpy and onnxruntime, so it imports nothing of autoprune and keeps to Python 3.9. It is a process of its own
because training changes thread counts, and because a crash in the runtime must cost one candidate, not the search.

One request per line, `{"op": …, "id": 1, …}`, and one answer: `{"id": 1, "ok": true, …}`, or `{"id": 1, "ok": false,
"kind": …, "error": "…"}` with a kind of `busy`, `disk`, `missing`, `model`, `provider` or `throttled`.

- `hello`: facts about the device (see `hello`); never loads onnxruntime. `cache` and `cache_bytes` choose the folder
  of stored files and how large it may grow.
- `has` with `files` (SHA-256 → bytes): which are `missing`; the others stay until the next `has`.
- `put` with `sha256` and `size`, then so many raw bytes.
- `measure` with `candidate`, `reference` or null, `inputs` (an .npz) or null (all by their SHA-256), `threads`,
  `provider`, `min_runs`, `min_s`, `warmup_runs`, `warmup_s`, `repeats`, `profile_runs`, `wait_s`, `cool_down_s`.

Ends when stdin closes, also in the middle of a measurement.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["main", "make_inputs", "statistics", "usable_cores"]

PROTOCOL = 1
_NOISY = 1.15  # p90/p10
_DRIFT = 0.05
_BIG_CAPACITY, _BIG_CLOCK = 0.7, 0.85  # of the largest core's; smaller ones are the LITTLE of big.LITTLE
_THROTTLED_NOW, _SINCE_BOOT = 0xF, 16  # bits of the Raspberry Pi's firmware; the same bits << 16 say "since boot"
_THROTTLE_BITS = ("under-voltage", "clock capped", "throttled", "soft temperature limit")
_FLOATS = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16"}
_INTS = {"tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(int16)": "int16", "tensor(int8)": "int8",
         "tensor(uint8)": "uint8", "tensor(uint16)": "uint16", "tensor(uint32)": "uint32", "tensor(uint64)": "uint64",
         "tensor(bool)": "bool"}


class Refused(Exception):
    """A request that cannot be met: `kind` is for programs, the text for people."""

    def __init__(self, kind: str, text: str):
        super().__init__(text)
        self.kind = kind


# --- the device's cores and sensors; AUTOPRUNE_SENSORS_ROOT replaces "/" in tests ----------------------------------


def _root() -> Path:
    return Path(os.environ.get("AUTOPRUNE_SENSORS_ROOT", "/"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return ""


def _number(path: Path) -> float | None:
    try:
        value = float(_read(path))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def usable_cores(root: Path | None = None) -> int:
    """How many cores this process may really use, at least 1: CPU affinity, the big cores only where there are big and
    LITTLE ones, and the tightest cgroup v1 or v2 limit above this process; not `os.cpu_count()`.

    A limit of 1.5 cores counts as 1: a second thread would be throttled. `root` is where `proc` and `sys` are; missing
    or unreadable files mean no limit.
    """
    root = root or _root()
    cores = len(big_cores(root)) or os.cpu_count() or 1
    limits = [limit for folder in _cgroups(root) for limit in [_limit(folder)] if limit is not None]
    return max(1, min([cores, *(math.floor(limit) for limit in limits)]))


def big_cores(root: Path) -> list[int]:
    """The cores of this process's affinity that are not LITTLE ones; empty where affinity is unknown.

    The kernel's `cpu_capacity` tells; where it says nothing, the highest clock does.
    """
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    cpus = root / "sys/devices/system/cpu"
    for name, share in (("cpu_capacity", _BIG_CAPACITY), ("cpufreq/cpuinfo_max_freq", _BIG_CLOCK)):
        sizes = {core: _number(cpus / f"cpu{core}" / name) for core in allowed}
        known = {core: size for core, size in sizes.items() if size is not None and size > 0}
        if allowed and len(known) == len(allowed):
            return [core for core in allowed if known[core] >= share * max(known.values())]
    return allowed


def _cgroups(root: Path) -> list[Path]:
    """The cgroup folders of this process and all their parents, v2 and v1 (v1: the `cpu` controller)."""
    top = root / "sys/fs/cgroup"
    found = [top, top / "cpu", top / "cpu,cpuacct"]
    for line in _read(root / "proc/self/cgroup").splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3 or (parts[0] != "0" and "cpu" not in parts[1].split(",")):
            continue
        bases = [top] if parts[0] == "0" else [top / parts[1], top / "cpu"]
        names = [n for n in parts[2].split("/") if n and n != ".."]
        for base in bases:
            found += [base.joinpath(*names[:depth]) for depth in range(1, len(names) + 1)]
    return found


def _limit(folder: Path) -> float | None:
    """Cores allowed by one cgroup folder, None when it sets no limit."""
    quota, period = [*_read(folder / "cpu.max").split(), "", ""][:2]
    if not quota:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    try:
        allowed, interval = float(quota), float(period)
    except ValueError:  # "max", or no such file
        return None
    return allowed / interval if allowed > 0 and interval > 0 else None


def _throttle_bits() -> int | None:
    """The Raspberry Pi firmware's throttle bits, from the kernel or from `vcgencmd`; None elsewhere."""
    text = _read(_root() / "sys/devices/platform/soc/soc:firmware/get_throttled")
    if not text:
        command = next((str(p) for p in (_root() / "usr/bin/vcgencmd", _root() / "opt/vc/bin/vcgencmd") if p.exists()),
                       None)
        if command is None:
            return None
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run([command, "get_throttled"], capture_output=True, timeout=5, check=True)
            text = done.stdout.decode(errors="replace").partition("=")[2]
    try:
        return int(text.strip().replace("0x", ""), 16)
    except ValueError:
        return None


def _throttled(before: int | None, after: int | None) -> list[str]:
    """What slows the chip now or has slowed it between two readings, in words."""
    if before is None or after is None:
        return []
    bits = (before | after) & _THROTTLED_NOW | (after & ~before) >> _SINCE_BOOT & _THROTTLED_NOW
    return [name for place, name in enumerate(_THROTTLE_BITS) if bits >> place & 1]


def _governor() -> str:
    """The clock governors in use ("ondemand"), empty where there is none."""
    found = {_read(p) for p in (_root() / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")}
    return ", ".join(sorted(found - {""}))


def _runtime_version() -> str:
    """onnxruntime's version, read and not imported: on a processor it was not built for, importing it may kill."""
    import importlib.util

    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or not spec.origin:
        return ""
    found = re.search(r"^__version__\s*=\s*[\"']([^\"']+)", _read(Path(spec.origin)), re.MULTILINE)
    return found.group(1) if found else "unknown"


def hello() -> dict[str, Any]:
    """Facts about the device. Units: GHz, °C, bytes; empty or null for what it does not tell."""
    import importlib.util

    root, cpus = _root(), _root() / "sys/devices/system/cpu"
    clocks = [f for p in sorted(cpus.glob("cpu[0-9]*/cpufreq/cpuinfo_max_freq")) for f in [_number(p)] if f]
    heat = [t for p in sorted((root / "sys/class/thermal").glob("thermal_zone*/temp")) for t in [_number(p)] if t]
    memory = dict(re.findall(r"^(\w+):\s+(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE))
    info = _read(root / "proc/cpuinfo")
    features = re.search(r"^(?:Features|flags)\s*:\s*(.*)$", info, re.MULTILINE)
    bits, load = _throttle_bits(), _read(root / "proc/loadavg").split()
    return {
        "protocol": PROTOCOL, "pid": os.getpid(), "model": _read(root / "proc/device-tree/model")[:100],
        "system": platform.system(), "machine": platform.machine(), "is_64bit": sys.maxsize > 2**32,
        "python": platform.python_version(), "numpy": importlib.util.find_spec("numpy") is not None,
        "onnxruntime": _runtime_version(), "cores": usable_cores(), "all_cores": os.cpu_count() or 1,
        "features": features.group(1).split()[:400] if features else [], "governor": _governor(),
        "max_ghz": max(clocks) / 1e6 if clocks else None, "temperature_c": max(heat) / 1e3 if heat else None,
        "throttled": None if bits is None else _throttled(bits, bits),
        "memory_bytes": int(memory.get("MemTotal", 0)) * 1024, "free_bytes": int(memory.get("MemAvailable", 0)) * 1024,
        "load": float(load[0]) if load else None}


# --- files sent here, by their content's hash -----------------------------------------------------------------------


class Cache:
    """Files by SHA-256 in one folder; the oldest go when it would hold more than `limit` bytes."""

    def __init__(self, folder: str | None, limit: int):
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.folder, self.limit = Path(folder) if folder else base / "autoprune" / "models", limit
        self.needed: set[str] = set()

    def path(self, sha256: str) -> Path:
        """Where a file is or would be. Raises `Refused` for what is no hash."""
        if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
            raise Refused("model", f"not a SHA-256: {sha256!r}")
        return self.folder / sha256

    def existing(self, sha256: str) -> str:
        """The path of a file that is here. Raises `Refused` when it is not."""
        if not self.path(sha256).is_file():
            raise Refused("missing", sha256)
        return str(self.path(sha256))

    def missing(self, files: dict[str, int]) -> list[str]:
        """Those of `files` (hash → bytes) that are not here, and keep the others."""
        self.needed = set(files)
        absent = []
        for sha256, size in files.items():
            try:
                here = self.path(sha256).stat().st_size == size
            except OSError:
                here = False
            if here:
                with contextlib.suppress(OSError):
                    os.utime(self.path(sha256))
            else:
                absent.append(sha256)
        return absent

    def put(self, sha256: str, size: int, source: Any) -> None:
        """Store `size` bytes of `source`; all of them are read whatever happens, and a file is complete or absent.

        Raises `Refused` when the disk is full or the content has another hash, `EOFError` when `source` ends.
        """
        digest = hashlib.sha256()
        body = _chunks(source, size, digest)
        partial = self.folder / f"{os.getpid()}.part"
        try:
            target = self.path(sha256)
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(size)
            with open(partial, "wb") as handle:
                for chunk in body:
                    handle.write(chunk)
            if digest.hexdigest() != sha256:
                raise Refused("missing", f"{sha256} arrived damaged")
            os.replace(partial, target)
        except OSError as error:
            raise Refused("disk", f"{size} bytes do not fit in {self.folder}: {error.strerror or error}") from error
        finally:
            for _ in body:  # what is left of the file is no request
                pass
            with contextlib.suppress(OSError):
                partial.unlink()

    def _make_room(self, size: int) -> None:
        files = sorted((p.stat().st_mtime, p) for p in self.folder.iterdir() if p.is_file())
        total = size + sum(p.stat().st_size for _, p in files)
        for _, path in files:
            if total > self.limit and path.name not in self.needed:
                total -= path.stat().st_size
                path.unlink()


def _chunks(source: Any, size: int, digest: Any) -> Iterator[bytes]:
    while size:
        chunk = source.read(min(size, 1 << 20))
        if not chunk:
            raise EOFError
        size -= len(chunk)
        digest.update(chunk)
        yield chunk


# --- measuring ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _turn(wait_s: float) -> Iterator[None]:
    """Hold this user's measuring lock: two searches that time at once would both be wrong. The system releases it if
    the process dies. Where there is no `fcntl` or no writable temporary folder, nothing is locked.
    """
    try:
        import fcntl

        path = Path(tempfile.gettempdir()) / f"autoprune-measure-{os.getuid()}.lock"
        handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except (ImportError, AttributeError, OSError):
        yield
        return
    try:
        until = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > until:
                    raise Refused("busy", f"held for {wait_s:g} s: {path}") from None
                _stop_if_abandoned()
                time.sleep(0.02)
        yield
    finally:
        os.close(handle)


def _stop_if_abandoned() -> None:
    """Exit when nobody holds the other end of stdin: a lost search must not keep the device busy."""
    if hasattr(select, "poll"):
        poll = select.poll()
        gone = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)
        poll.register(0, gone)
        if any(event & gone for _, event in poll.poll(0)):
            os._exit(1)


def make_inputs(signature: list[tuple[str, str, list[Any]]]) -> dict[str, Any]:
    """Inputs by name for `(name, type, shape)` of onnxruntime: seeded uniform floats in [0, 1), zeros for integers.

    Symbolic dimensions become 1. Raises `ValueError` for types that are no tensor of numbers.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    made: dict[str, Any] = {}
    for name, kind, shape in signature:
        sides = [d if isinstance(d, int) and d > 0 else 1 for d in shape]
        if kind in _FLOATS:
            made[name] = rng.random(sides, dtype=np.float32).astype(_FLOATS[kind])
        elif kind in _INTS:
            made[name] = np.zeros(sides, dtype=_INTS[kind])
        else:
            raise ValueError(f"input {name!r} is {kind}; give it with inputs={{...}}")
    return made


def _runner(path: str, inputs_path: str | None, request: dict[str, Any]) -> Callable[[], None]:
    """A function that runs the model once."""
    return _bound(_session(path, request), inputs_path, request["provider"])


def _session(path: str, request: dict[str, Any], profile: str | None = None) -> Any:
    import onnxruntime as ort

    provider = request["provider"]
    if provider not in ort.get_available_providers():
        raise Refused("provider", f"{provider} is not among {', '.join(ort.get_available_providers())}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = request["threads"]
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    session = ort.InferenceSession(path, options, providers=list(dict.fromkeys([provider, "CPUExecutionProvider"])))
    if session.get_providers()[0] != provider:
        raise Refused("provider", f"{provider} could not start; onnxruntime fell back to {session.get_providers()[0]}")
    return session


def _bound(session: Any, inputs_path: str | None, provider: str) -> Callable[[], None]:
    """A function that runs the model once on inputs bound beforehand, on the provider's own memory."""
    import numpy as np
    import onnxruntime as ort

    if inputs_path is None:
        inputs = make_inputs([(i.name, i.type, list(i.shape)) for i in session.get_inputs()])
    else:
        with np.load(inputs_path, allow_pickle=False) as stored:
            inputs = {name: stored[name] for name in stored.files}
    wanted = {i.name for i in session.get_inputs()}
    if set(inputs) != wanted:
        raise ValueError(f"inputs are {sorted(inputs)}, the model wants {sorted(wanted)}")
    binding, place = session.io_binding(), "cpu" if provider == "CPUExecutionProvider" else "cuda"
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value), place, 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, place)
    if place == "cpu":
        return lambda: session.run_with_iobinding(binding)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run


def _warm_up(run: Callable[[], None], runs: int, seconds: float) -> float:
    """Run until both limits are met; the last run's seconds."""
    start, done, last = time.perf_counter_ns(), 0, 0.0
    while done < max(1, runs) or time.perf_counter_ns() - start < seconds * 1e9:
        before = time.perf_counter_ns()
        run()
        last = (time.perf_counter_ns() - before) / 1e9
        done += 1
    return last


def _time(runners: list[Callable[[], None]], request: dict[str, Any]) -> list[list[float]]:
    """Milliseconds per run and model, in blocks A B B A …; the run after a switch refills caches and is dropped."""
    guess_s = [_warm_up(run, request["warmup_runs"], request["warmup_s"]) for run in runners]
    min_runs, min_s = request["min_runs"], request["min_s"]
    block = [max(3, min_runs // 4, min(200, round(min_s / 8 / max(g, 1e-7)))) for g in guess_s]
    times: list[list[float]] = [[] for _ in runners]
    order = list(range(len(runners)))
    while any(len(t) < min_runs or sum(t) < 1e3 * min_s for t in times):
        for which in order:
            _stop_if_abandoned()
            if len(runners) > 1:
                runners[which]()
            for _ in range(block[which]):
                before = time.perf_counter_ns()
                runners[which]()
                times[which].append((time.perf_counter_ns() - before) / 1e6)
        order.reverse()
    return times


def statistics(times_ms: list[float]) -> dict[str, float]:
    """Minimum, quantiles and number of run times."""
    import numpy as np

    p10, p50, p90, p99 = (float(v) for v in np.percentile(times_ms, [10, 50, 90, 99]))
    return {"min_ms": min(times_ms), "p10_ms": p10, "p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "n": len(times_ms)}


def drift(times_ms: list[float]) -> float:
    """Second half against first half of the medians, as a signed fraction."""
    import numpy as np

    half = len(times_ms) // 2
    return float(np.median(times_ms[half:]) / np.median(times_ms[:half])) - 1 if half else 0.0


def _calmest(runners: list[Callable[[], None]], request: dict[str, Any]) -> dict[str, Any]:
    """Time once, again when noisy or drifting (at most `repeats` times), and keep the calmest attempt."""
    found: list[tuple[float, dict[str, Any]]] = []
    while len(found) <= request["repeats"]:
        times = _time(runners, request)
        moved, spread = drift(times[-1]), statistics(times[0])
        badness = max(spread["p90_ms"] / spread["p10_ms"] / _NOISY, abs(moved) / _DRIFT)
        found.append((badness, {"candidate": spread, "drift": moved,
                                "reference": statistics(times[1]) if len(times) > 1 else None}))
        if badness <= 1:
            break
        time.sleep(min(0.5, request["min_s"]))  # let a neighbour finish, or the chip cool down
    return {**min(found, key=lambda f: f[0])[1], "attempts": len(found)}


def _cool(limit_s: float) -> int | None:
    """Wait until nothing slows the chip any more, at most `limit_s` seconds; its bits then."""
    until = time.monotonic() + limit_s
    while (bits := _throttle_bits()) is not None and bits & _THROTTLED_NOW and time.monotonic() < until:
        _stop_if_abandoned()
        time.sleep(min(0.5, limit_s))
    return bits


def _unthrottled(runners: list[Callable[[], None]], request: dict[str, Any]) -> dict[str, Any]:
    """`_calmest`; what was timed on a throttled chip is thrown away, and timed once more after cooling down."""
    why: list[str] = []
    for _ in range(2):
        before = _cool(request["cool_down_s"])
        if before is None or not before & _THROTTLED_NOW:
            found = _calmest(runners, request)
            why = _throttled(before, _throttle_bits())
            if not why:
                return found
        else:
            why = _throttled(before, before)
    raise Refused("throttled", ", ".join(why))


def _nodes(path: str, inputs_path: str | None, request: dict[str, Any]) -> list[dict[str, Any]]:
    """Milliseconds of every node in the fastest three quarters of `profile_runs` runs with onnxruntime's profiler, in
    execution order: a mean, because the profiler counts whole microseconds.
    """
    runs = request["profile_runs"]
    with tempfile.TemporaryDirectory(prefix="autoprune-profile-") as folder:
        session = _session(path, request, os.path.join(folder, "p"))
        run = _bound(session, inputs_path, request["provider"])
        for _ in range(max(2, request["warmup_runs"]) + runs):
            run()
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    starts = sorted(e["ts"] for e in events if e.get("cat") == "Session" and e.get("name") == "model_run")[-runs:]
    times: dict[tuple[str, str, str], list[float]] = {}
    shapes: dict[tuple[str, str, str], list[int]] = {}
    for event in sorted((e for e in events if e.get("cat") == "Node"), key=lambda e: e["ts"]):
        name = event["name"]
        if name.endswith("_kernel_time") and event["ts"] >= starts[0]:
            key = (name[:-len("_kernel_time")], event["args"]["op_name"], event["args"].get("node_index", ""))
            which = sum(s <= event["ts"] for s in starts) - 1
            times.setdefault(key, [0.0] * runs)[which] += event["dur"] / 1e3  # a body runs its nodes more than once
            shapes[key] = [s for o in event["args"].get("output_type_shape", [])[:1] for s in next(iter(o.values()))]
    fast = max(1, round(0.75 * runs))
    return [{"name": key[0], "op": key[1], "ms": sum(sorted(ms)[:fast]) / fast, "shape": shapes[key]}
            for key, ms in times.items()]


class Agent:
    """What lives from one request to the next: the stored files, and the dense model's session."""

    def __init__(self) -> None:
        self._cache = Cache(None, 0)
        self._kept: tuple[str, Callable[[], None]] | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request. Raises whatever goes wrong."""
        op = request["op"]
        if op == "hello":
            self._cache = Cache(request["cache"], request["cache_bytes"])
            return hello()
        if op == "has":
            return {"missing": self._cache.missing(request["files"])}
        if op == "put":
            self._cache.put(request["sha256"], request["size"], sys.stdin.buffer)
            return {}
        if op == "measure":
            with _turn(request["wait_s"]):
                return self._measure(request)
        raise ValueError(f"unknown op {op!r}")

    def _measure(self, request: dict[str, Any]) -> dict[str, Any]:
        import onnxruntime as ort

        inputs = None if request["inputs"] is None else self._cache.existing(request["inputs"])
        candidate = self._cache.existing(request["candidate"])
        runners = [_runner(candidate, inputs, request)]
        if request["reference"] is not None:
            key = json.dumps([request[k] for k in ("reference", "inputs", "threads", "provider")])
            if self._kept is None or self._kept[0] != key:  # the dense model is the same for a whole search
                self._kept = None  # never two of them in memory
                self._kept = key, _runner(self._cache.existing(request["reference"]), inputs, request)
            runners.append(self._kept[1])
        found = _unthrottled(runners, request)
        nodes = _nodes(candidate, inputs, request) if request["profile_runs"] else []
        return {**found, "nodes": nodes, "runtime_version": ort.__version__, "governor": _governor()}


def main() -> None:
    """Serve requests until stdin closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not land between the answers
    big = big_cores(_root())
    if big:
        os.sched_setaffinity(0, big)  # before onnxruntime makes its threads: they inherit it
    agent = Agent()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            answer = {"id": request["id"], "ok": True, **agent.answer(request)}
        except EOFError:
            return
        except Exception as error:  # the runtime raises many classes; all of them cost one candidate only
            kind = error.kind if isinstance(error, Refused) else "model"
            text = str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
            answer = {"id": request["id"], "ok": False, "kind": kind, "error": text[:2000]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
