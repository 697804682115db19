"""What a second device costs: `python benchmarks/search/second_device.py [--tasks …]` (five minutes a task).

A search of each net of `real_tasks.py` for one board, at one budget, then one for another board that takes over its
scores. Wall clock of both, the process's start and the recommended model's longer tuning and export included →
benchmarks/results/search_second_device.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from real_tasks import TASKS

from autoprune.search.run_folder import environment

RESULTS = Path(__file__).parents[1] / "results" / "search_second_device.json"
FIRST, SECOND = "rpi4", "rpi5"
SEARCH = """
import sys, warnings
sys.path.insert(0, sys.argv[1])
warnings.simplefilter("ignore")
import autoprune, torch
from real_tasks import trained
torch.set_num_threads(1)
name, device, run, reuse, trials = sys.argv[2:]
front = autoprune.search(trained(name), device, "0.5x", run=run, workers=0, reuse=reuse or None,
                         trials=int(trials) if trials else None)
print(len(front.candidates), front.met)
"""


def timed(name: str, device: str, run: Path, reuse: str, trials: str) -> dict[str, Any]:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", SEARCH, str(Path(__file__).parent), name, device, str(run),
                           reuse, trials], check=True, stdout=subprocess.PIPE, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    seconds = time.perf_counter() - start
    count, met = done.stdout.split()[-2:]
    return {"seconds": round(seconds, 1), "candidates": int(count), "met": met == "True"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--trials", type=int, default=80)
    args = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in args.tasks:
        with tempfile.TemporaryDirectory() as folder:
            first = timed(name, FIRST, Path(folder) / "first", "", str(args.trials))
            second = timed(name, SECOND, Path(folder) / "second", str(Path(folder) / "first"), "")
        results[name] = {"first": first, "second": second, "share": round(second["seconds"] / first["seconds"], 3)}
        print(name, results[name], flush=True)
        results["environment"] = environment()
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
