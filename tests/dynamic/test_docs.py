"""The code on docs/dynamic.md runs."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime as ort
import torch

from autoprune.recover.finetune import examples
from autoprune.tasks.batches import TensorBatches
from autoprune.tasks.task import Task
from tests.dynamic.nets import conv

PAGE = Path(__file__).parents[2] / "docs" / "dynamic.md"


class Runs:
    """Runs both models really, and says that the first takes half the time."""

    def measure(self, onnx_bytes: bytes, *, reference: bytes, inputs: dict[str, Any]) -> Any:
        for model in (onnx_bytes, reference):
            session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
            names = [i.name for i in session.get_inputs()]
            if model is onnx_bytes:
                session.run(None, dict(zip(names, inputs.values(), strict=True)))
        return SimpleNamespace(latency=SimpleNamespace(ms=1.0), reference=SimpleNamespace(ms=2.0))


def test_the_page(tmp_path: Path) -> None:
    found = re.search(r"<!-- own -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert found is not None
    net, x = conv()
    batches = TensorBatches(x, torch.arange(8) % 3, batch_size=4)
    task = Task(net, train=batches, validation=batches, test=batches)
    given = {"net": net, "task": task, "inputs": x, "measurer": Runs(),
                             "data": examples(task, net, batches, 2)}
    script = tmp_path / "page.py"
    script.write_text(found.group(1).replace("steps=1000", "steps=4"), encoding="utf-8")
    names = runpy.run_path(str(script), init_globals=given)
    assert names["found"].ratio == 0.5
    assert names["opened"].shape == (8, len(names["model"].branches))
