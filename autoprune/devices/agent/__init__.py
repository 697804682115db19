"""The agent: the process that times ONNX models, on this machine and on any other. JSON lines in and out.

It is handed to a Python on the device as one text (`source`; see `worker_process.py`) and needs nothing there but
numpy and onnxruntime: its parts import nothing of autoprune but each other, and keep to Python 3.9. It is a process of
its own because training changes thread counts, and because a crash in the runtime must cost one candidate only.

One request per line, `{"op": …, "id": 1, …}`, and one answer: `{"id": 1, "ok": true, …}`, or `{"id": 1, "ok": false,
"kind": …, "error": "…"}` with a kind of `busy`, `disk`, `missing`, `model`, `provider`, `setup` or `throttled`.

- `hello`: facts about the device (see `facts.py`); never loads onnxruntime. `cache` and `cache_bytes` choose the folder
  of stored files and how large it may grow.
- `has` with `files` (SHA-256 → bytes): which are `missing`; the others stay until the next `has`.
- `put` with `sha256` and `size`, then so many raw bytes.
- `measure` with `candidate`, `reference` or null, `inputs` (an .npz) or null (all by their SHA-256), `threads`,
  `provider`, `min_runs`, `min_s`, `warmup_runs`, `warmup_s`, `repeats`, `profile_runs`, `wait_s`, `cool_down_s`.

Ends when stdin closes, also in the middle of a measurement.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["source"]

_PARTS = ("refused", "facts", "store", "timing", "serve")  # each imports only what stands before it


def source() -> str:
    """The whole agent as one self-contained Python text, which serves requests on stdin when it is run."""
    texts = {f"{__name__}.{part}": Path(__file__).with_name(f"{part}.py").read_text(encoding="utf-8")
             for part in _PARTS}
    return ("import sys, types\n"
            f"for name, text in {texts!r}.items():\n"
            "    module = sys.modules[name] = types.ModuleType(name)\n"
            "    exec(compile(text, name, 'exec'), module.__dict__)\n"
            "module.main()\n")
