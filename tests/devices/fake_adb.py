"""An `adb` that behaves like the real one (push, shell with exit codes, unknown serials) for a phone in a folder."""

from __future__ import annotations

import sys
from pathlib import Path

SERIAL = "R58M123ABC"

_ADB = """#!{python}
import os, subprocess, sys
phone = {phone!r}
arguments = sys.argv[1:]
if arguments[:2] != ["-s", {serial!r}]:
    sys.exit(f"adb: device '{{arguments[1]}}' not found")
command, words = arguments[2], arguments[3:]
def on_phone(text):
    return text.replace("/data/", phone + "/data/").replace("/sys/", phone + "/sys/")
if command == "push":
    if os.path.exists(phone + "/full"):
        sys.exit("adb: error: failed to copy: remote couldn't create file: No space left on device")
    subprocess.run(["cp", words[0], on_phone(words[1])], check=True)
    print("1 file pushed, 0 skipped.")
elif command == "shell":  # the words are joined, and a shell of the phone reads them
    path = phone + "/bin:" + os.environ["PATH"]
    done = subprocess.run(["sh", "-c", on_phone(" ".join(words))], capture_output=True,
                          env={{**os.environ, "PATH": path}})
    sys.stdout.buffer.write(done.stdout.replace(phone.encode(), b""))
    sys.stderr.buffer.write(done.stderr)
    sys.exit(done.returncode)
else:
    sys.exit("adb: unknown command " + command)
"""

_PERF_TEST = """#!{python}
import getopt, sys
options, (model, result) = getopt.getopt(sys.argv[1:], "Ize:m:r:x:y:o:")
options = dict(options)
if options["-m"] != "times" or options["-e"] != "cpu":
    sys.exit("unknown")
size = len(open(model, "rb").read())
with open(result, "a") as out:
    for run in range(int(options["-r"])):
        seconds = size * 1e-8 * (3 if run < 2 else 1) + run % 3 * 1e-7
        out.write(f"model,{{seconds:.6g}},1234,99,{{run}}\\n")
"""


def make_phone(folder: Path) -> Path:
    """A phone with four LITTLE and four big cores; the folder that `adb` is in."""
    programs = {"host/adb": _ADB, "bin/taskset": '#!/bin/sh\necho $1 > {phone}/mask; shift; exec "$@"\n',
                "bin/getprop": "#!/bin/sh\necho Pixel 6\n", "data/local/tmp/onnxruntime_perf_test": _PERF_TEST}
    for name, text in programs.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(python=sys.executable, phone=str(folder), serial=SERIAL))
        path.chmod(0o755)
    for core in range(8):
        clock = folder / f"sys/devices/system/cpu/cpu{core}/cpufreq/cpuinfo_max_freq"
        clock.parent.mkdir(parents=True)
        clock.write_text("1803000\n" if core < 4 else "2802000\n")
    return folder / "host"
