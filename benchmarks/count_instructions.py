"""Instructions that onnxruntime's aarch64 build executes per inference, one thread, counted under emulation.

    benchmarks/aarch64/setup.sh DIR                                  # once, as root: an arm64 file system in DIR
    python benchmarks/count_instructions.py --root DIR --operators   # → benchmarks/data/ort_aarch64_operators.csv
    python benchmarks/count_instructions.py --root DIR --nets        # → benchmarks/data/ort_aarch64_nets.csv
    python benchmarks/count_instructions.py --root DIR model.onnx …  # prints

Work, not time: SIMD and FMLA counts are exact, the others good to about 2 %. Rows that a file already has are kept;
delete a row to count it again.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import whole_nets
from operators import OPERATORS
from operators_int8 import INT8_OPERATORS

COUNTERS = ("insn", "simd", "mem", "fmla", "int8")
CORE = "cortex-a72"
INT8_CORES = {CORE: "int8", "cortex-a76": "int8_dotprod"}  # without and with SDOT
DATA = Path(__file__).with_name("data")
TARGET = 40e6  # instructions to run between two marks, so that what differs from run to run is small
BATCH = 16  # operators per started interpreter


def count(root: Path, models: Mapping[str, bytes], runs: Mapping[str, int], core: str) -> dict[str, list[int]]:
    """Per model: instructions of one inference, in the order of `COUNTERS`. One interpreter runs them all."""
    folder = root / "counting"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(Path(__file__).with_name("aarch64") / "guest.py", folder)
    arguments = []
    for index, (name, model) in enumerate(models.items()):
        (folder / f"{index}.onnx").write_bytes(model)
        arguments += [f"/counting/{index}.onnx", str(runs[name])]
    done = subprocess.run(["chroot", str(root), "/host/ld-linux-x86-64.so.2", "--library-path", "/host",
                           "/host/qemu-aarch64", "-plugin", "/host/counter.so", "/usr/bin/python3",
                           "/counting/guest.py", *arguments], capture_output=True, text=True, check=False,
                          env={**os.environ, "COUNTS": "/counting/out", "QEMU_CPU": core})
    if done.returncode:
        raise SystemExit(f"{', '.join(models)}: {done.stderr[-600:]}")
    marks = [[int(v) for v in line.split(",")] for line in (folder / "out").read_text().splitlines()]
    return {name: [round((b - a) / runs[name]) for a, b in zip(marks[2 * i], marks[2 * i + 1], strict=True)]
            for i, name in enumerate(models)}


def count_well(root: Path, models: Mapping[str, bytes], core: str) -> dict[str, list[int]]:
    """As `count`, with as many runs as each model needs."""
    rough = count(root, models, dict.fromkeys(models, 1), core)
    return count(root, models, {n: max(3, min(1000, round(TARGET / c[0]))) for n, c in rough.items()}, core)


def fill(path: Path, wanted: Iterable[str], make: Callable[[str], bytes], root: Path, core: str,
         batch: int = BATCH) -> None:
    """Count what the file lacks and write it after every batch."""
    rows: dict[str, list[str]] = {}
    if path.is_file():
        rows = {r[0]: r[1:] for r in list(csv.reader(path.read_text(encoding="utf-8").splitlines()))[1:]}
    missing = [name for name in wanted if name not in rows]
    for start in range(0, len(missing), batch):
        counted = count_well(root, {name: make(name) for name in missing[start:start + batch]}, core)
        rows |= {name: [str(c) for c in counts] for name, counts in counted.items()}
        text = "\n".join(",".join([name, *values]) for name, values in sorted(rows.items()))
        path.write_text(f"name,{','.join(COUNTERS)}\n{text}\n", encoding="utf-8")
        print(path.name, *counted, flush=True)


def main() -> None:
    """Count models, the operators of `operators.py`, or the nets of `whole_nets.py`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="the arm64 file system")
    parser.add_argument("--operators", action="store_true")
    parser.add_argument("--nets", action="store_true")
    parser.add_argument("--core", default=CORE, help="QEMU's name of the core (for models only)")
    parser.add_argument("models", nargs="*", type=Path)
    args = parser.parse_args()
    if args.operators:
        fill(DATA / "ort_aarch64_operators.csv", OPERATORS, lambda n: OPERATORS[n](), args.root, CORE)
        for core, name in INT8_CORES.items():
            fill(DATA / f"ort_aarch64_{name}.csv", INT8_OPERATORS, lambda n: INT8_OPERATORS[n](), args.root, core)
    if args.nets:
        names = [*whole_nets.NETS, *(f"{name}-int8" for name in whole_nets.INT8)]
        fill(DATA / "ort_aarch64_nets.csv", names, whole_nets.net_bytes, args.root, CORE, 1)
    for path in args.models:
        counts = count_well(args.root, {path.name: path.read_bytes()}, args.core)[path.name]
        print(path.name, dict(zip(COUNTERS, counts, strict=True)))


if __name__ == "__main__":
    main()
