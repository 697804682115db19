"""The main job, timed: `python benchmarks/main_job.py [--only rpi|cpu|help] [--out benchmarks/results/main_job.json]`.

Runs the command line in empty folders, as a user would, and prints the figures of docs/benchmarks.md:

- `autoprune search --device raspberrypi --budget 20ms`: wall clock, candidates, front, the recommended point on the
  test split, and the share of the wall clock that is not training, evaluating or measuring;
- `autoprune search --device cpu --budget 0.5x`: the exported model measured in turns with the dense one;
- `autoprune --help`: median of 5, and whether torch was imported.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import autoprune
from autoprune.front.plot import front_svg

AUTOPRUNE = [sys.executable, "-m", "autoprune"]


def search(device: str, budget: str, folder: Path) -> dict[str, Any]:
    start = time.perf_counter()
    done = subprocess.run([*AUTOPRUNE, "search", "--device", device, "--budget", budget, "--run", "run"], cwd=folder,
                          capture_output=True, text=True, check=False)
    elapsed_s = time.perf_counter() - start
    sys.stdout.write(done.stdout)
    front = autoprune.load_front(folder / "run")
    dense = front.dense
    out: dict[str, Any] = {
        "command": f"autoprune search --device {device} --budget {budget}", "exit_code": done.returncode,
        "elapsed_s": round(elapsed_s, 1), "candidates": sum(c.status == "ok" for c in front.candidates),
        "failed": sum(c.status != "ok" for c in front.candidates), "front_points": len(front.points),
        "seconds": dict(front.seconds),
    }
    used = sum(front.seconds.get(k, 0.0) for k in ("train", "evaluate", "measure"))
    out["overhead_share"] = round(1 - used / elapsed_s, 3)
    if front.recommended is not None and dense.test is not None and dense.latency is not None:
        point = front.pick(trial=front.recommended)
        out.update(
            recommended=point.number, latency=str(point.latency), dense_latency=str(dense.latency),
            predicted_speedup=round(dense.ms / point.candidate.ms, 2), test=point.score.value,
            dense_test=dense.test.value,
            drop_points=round(100 * (dense.test.value - point.score.value), 2))
    return out


def measured_speedup(folder: Path, repeats: int = 5) -> dict[str, Any]:
    """The picked ONNX file in turns with the dense model exported the same way; medians of `repeats` measurements."""
    from autoprune.devices.measure import Measurer
    from autoprune.graph.onnx import export_onnx

    front = autoprune.load_front(folder / "run")
    picked = (folder / "run" / "picked" / f"{front.recommended:04d}" / "model.onnx").read_bytes()
    task = autoprune.load_task()
    dense = export_onnx(task.model, task.example_inputs)
    ratios = []
    with Measurer(autoprune.load_device("cpu")) as measurer:
        for _ in range(repeats):
            found = measurer.measure(picked, reference=dense, min_runs=60, min_s=1.0, warmup_s=0.5)
            assert found.reference is not None
            ratios.append(found.reference.ms / found.latency.ms)
    return {"speedups": [round(r, 3) for r in ratios], "median_speedup": round(statistics.median(ratios), 3)}


def help_time() -> dict[str, Any]:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([*AUTOPRUNE, "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - start)
    listing = subprocess.run([sys.executable, "-X", "importtime", "-m", "autoprune", "--help"], capture_output=True,
                             text=True, check=True).stderr
    return {"median_s": round(statistics.median(times), 3), "torch_imported": "| torch\n" in listing.replace(" ", "")
            or " torch\n" in listing}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["rpi", "cpu", "help"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "main_job.json")
    parser.add_argument("--svg", type=Path, help="also write the picture of the Raspberry Pi front, docs/front.svg")
    args = parser.parse_args()
    results = json.loads(args.out.read_text()) if args.out.is_file() and args.only else {}
    results["machine"] = {
        "processor": platform.processor() or platform.machine(), "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{p: metadata.version(p) for p in ("torch", "onnxruntime", "optuna", "autoprune")}}
    with tempfile.TemporaryDirectory() as name:
        if args.only in (None, "help"):
            results["help"] = help_time()
        for key, device, budget in (("rpi", "raspberrypi", "20ms"), ("cpu", "cpu", "0.5x")):
            if args.only in (None, key):
                folder = Path(name) / key
                folder.mkdir()
                results[key] = search(device, budget, folder)
                if key == "rpi" and args.svg is not None:
                    args.svg.write_text(front_svg(autoprune.load_front(folder / "run")), encoding="utf-8")
                if key == "cpu":
                    results[key]["measured"] = measured_speedup(folder)
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
