"""What the shipped device files say besides their numbers."""

from __future__ import annotations

from typing import Any

from boards import ASSUMED_MEMCPY, Board
from device_file import Described

NOTE = "docs/decisions/2026-11-21-profiles-of-other-devices.md"
FACTS = "benchmarks/data/device_facts.csv"
# profile in device_facts.csv → name of the file
ARM = {**{n: n for n in ("rpizero2w", "rpi3bplus", "rpi4", "rpi5", "pixel4", "pixel6", "pixel8", "iphone-a15",
                         "iphone-a16", "iphone-a17pro")},
       **{f"sd8gen{n}": f"snapdragon-8gen{n}" for n in (1, 2, 3)}}
X86 = {"x86-avx2-laptop": ("x86-avx2", 8), "x86-avx512-server": ("x86-avx512", 16)}
GPUS = {"jetson-nano-gpu": "jetson-nano", "jetson-orin-nano-gpu": "jetson-orin-nano",
        **{n: n for n in ("t4", "a100", "rtx3090", "rtx4090", "l4", "h100")}}
GPU_ROWS = {"a100": "NVIDIA A100", "l4": "NVIDIA L4", "jetson-nano-gpu": "Jetson Nano",
            "jetson-orin-nano-gpu": "Jetson Orin Nano Super"}

ARM_SOURCE = ("facts: device_facts.csv; instructions counted; stall, k_act: onnxruntime rows on a Raspberry Pi 5; "
              f"in_order_factor, k_weights, tau_us_ghz: ncnn rows on five boards; k_gemv 1 by definition; see {NOTE}")
NCNN_SOURCE = ("facts: device_facts.csv; everything else: ncnn rows on five boards, stall and thread_exponent with "
               f"this board's own residual; see {NOTE}")
X86_SOURCE = ("facts: device_facts.csv; constants: onnxruntime measured on one AVX-512 machine, 1 thread; "
              f"see {NOTE}")
GPU_SOURCE = f"peaks: device_facts.csv; efficiencies and launch: published TensorRT fp16 rows of five GPUs; see {NOTE}"
OWN_ROWS = ("{} onnxruntime rows on a Raspberry Pi 5, each net left out, combined with the scatter between nets of {} "
            "ncnn rows at 4 threads, each board left out")
OTHER_ROWS = ("{} onnxruntime rows on a Raspberry Pi 5, each net left out, combined with the error of {} ncnn rows at "
              "4 threads, each board left out; no onnxruntime row of this board is published")
NEWER_ROWS = ("{} onnxruntime rows on a Raspberry Pi 5, each net left out, combined with the error of {} ncnn rows on "
              "five newer CPUs that were never fitted, and 15 % for a memcpy that is not published; no onnxruntime "
              "fp32 row of this device is published for a known net")
X86_ROWS = ("{} nets measured on one AVX-512 machine, each net left out, combined with the error of moving between "
            "boards ({} ncnn rows on Arm) and 15 % for a memcpy that is not measured; not compared with any machine "
            "of this kind")
ANNOUNCE = {
    "jetson-nano-gpu": "jetson-nano stands for its GPU through TensorRT fp16; PyPI has no onnxruntime for that GPU; "
                       "for its CPU through ncnn say jetson-nano-ncnn",
    "jetson-orin-nano-gpu": "jetson-orin-nano stands for its GPU through TensorRT fp16 in Super mode (17 TFLOP/s, "
                            "102 GB/s); without it the same board has 10 TFLOP/s and 68 GB/s"}
NO_STAIRCASE = "4: no staircase on Arm (ort_aarch64_instructions.csv), 4 fp32 lanes in a 128-bit vector"


def gpu_errors(rows: int, own: int) -> str:
    """Where a GPU's figures come from."""
    text = f"{rows} published TensorRT fp16 rows (A100, L4, Orin Nano Super, Orin NX, Nano), each architecture left out"
    return text + (f"; {own} of them on this GPU" if own else "; none on this GPU, so 22 % wider")


def gpu_peaks(row: dict[str, str]) -> tuple[float, float]:
    """Dense fp16 TFLOP/s and GB/s; for the Orin Nano those of its Super mode, in brackets in the file."""
    def last(text: str) -> float:
        return float(text.replace(")", "").split("(")[-1])

    return last(row["peak_fp16_gflops"]) / 1e3, last(row["bw_theoretical_gbs"])


def _cpu_facts(board: Board, align: str) -> dict[str, tuple[Any, str]]:
    row = board.row
    memcpy = (row["bw_measured_gbs"], row["sources"]) if board.measured_memcpy else \
        (f"not published; {ASSUMED_MEMCPY} of the theoretical {row['bw_theoretical_gbs']} GB/s",
         "the share that RK3588 (0.32) and Raspberry Pi 5 (0.33) reach")
    return {"soc": (row["soc_or_chip"], row["sources"]),
            "cores_used": (row["cores_used"], row["sources"]), "clock_ghz": (row["clock_ghz"], row["sources"]),
            "peak_fp32_gflops": (float(row["peak_fp32_gflops"]), row["how_computed"]), "memcpy_gbs": memcpy,
            "l1d_kb": (row["l1d_kb"], row["sources"]), "l2": (row["l2"], row["sources"]),
            "issue_width": (board.issue_width, board.core_sources), "align": (align, "benchmarks/data"),
            "confidence": (row["confidence"], FACTS)}


def arm(name: str, file: str, board: Board) -> Described:
    """An Arm CPU through onnxruntime."""
    pi = name.startswith("rpi")
    where = "64-bit OS" if pi else f"CPU, idle and cool, big cores only ({board.row['cores_used']})"
    announce = "" if pi else f"{file} stands for its CPU through onnxruntime, idle and cool; not for its GPU or NPU"
    return Described(
        file, f"{board.row['device']}, {board.row['soc_or_chip']}, {where}", "onnxruntime", "1.31.1",
        "CPUExecutionProvider", "fp32", 4, ARM_SOURCE, announce, _cpu_facts(board, NO_STAIRCASE))


def ncnn(name: str, board: Board, half: bool) -> Described:
    """An Arm CPU through ncnn."""
    file, precision = f"{name.removesuffix('-cpu')}-ncnn", "fp16" if half else "fp32"
    return Described(
        file, f"{board.row['device']}, {board.row['soc_or_chip']}, through ncnn ({precision})", "ncnn",
        "as of its benchmark/README.md", "CPU", precision, 4, NCNN_SOURCE, facts=_cpu_facts(board, NO_STAIRCASE))


def x86(name: str, file: str, block: int, board: Board) -> Described:
    """A kind of x86 CPU through onnxruntime."""
    align = f"{block}: onnxruntime computes channels in blocks of so many"
    return Described(file, f"{board.row['device']} ({board.row['soc_or_chip']})", "onnxruntime", "1.31.1",
                     "CPUExecutionProvider", "fp32", block, X86_SOURCE, facts=_cpu_facts(board, align))


def gpu(name: str, file: str, row: dict[str, str]) -> Described:
    """An NVIDIA GPU through TensorRT."""
    peak, bandwidth = gpu_peaks(row)
    return Described(
        file, f"{row['device']} ({row['soc_or_chip']}), TensorRT, batch 1", "TensorRT", "not stated by the rows",
        "TensorrtExecutionProvider", "fp16", 8, GPU_SOURCE, ANNOUNCE.get(name, ""),
        facts={"peak_fp16_tflops": (peak, f"{row['sources']}; {row['how_computed']}"),
               "bandwidth_gbs": (bandwidth, row["sources"]), "sm": (row["cores_used"], row["sources"]),
               "align": ("8: fp16 tensor cores, where there are any; not measured here", FACTS),
               "confidence": (row["confidence"], FACTS)})
