"""What comes with the models of `transformers`: outputs of their own types, caches of keys and values."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from autoprune.graph.graph import trace
from autoprune.graph.module import load_module
from autoprune.graph.plan import Plan

pytestmark = pytest.mark.system

IDS = {"input_ids": torch.arange(8)[None]}
SMALL = {"vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1}


@pytest.fixture(scope="module")
def gpt2() -> Any:
    config = transformers.GPT2Config(n_positions=16, n_embd=16, n_layer=1, n_head=2, **SMALL)
    assert config.use_cache
    return transformers.GPT2LMHeadModel(config).eval()


def test_a_cache_of_decoding_is_left_out(gpt2: Any) -> None:
    graph = trace(gpt2, IDS)
    assert gpt2.config.use_cache
    assert graph.groups
    with torch.no_grad():
        torch.testing.assert_close(graph.dense()(**IDS).logits, gpt2(**IDS).logits)


def test_a_saved_model_is_read_where_transformers_is_not_imported(gpt2: Any, tmp_path: Path) -> None:
    graph = trace(gpt2, IDS)
    folder = graph.cut(Plan.uniform(graph, 0.5)).save(tmp_path)
    code = (f"import sys, torch, autoprune\nmodel = autoprune.load({str(folder)!r})\n"
            "print(model(input_ids=torch.arange(8)[None]).logits.sum().item())")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        assert float(done.stdout) == pytest.approx(float(load_module(folder)(**IDS).logits.sum()), rel=1e-4)
