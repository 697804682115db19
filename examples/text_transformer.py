"""A small BERT whose heads and feed-forward neurons are halved: `python examples/text_transformer.py` (offline).

It tells which package of the standard library 32 words of source come from. For each seed: train from random weights;
cut heads and feed-forward neurons by the pruning graph, all of them that the shipped space `transformer` lets go of
inside the encoder (the embedding width and head_dim stay whole); refit the layers that read them and train what is left
with the dense net as its teacher. A run chooses nothing by the test split, which is read twice: for the dense net and
for the pruned one.
"""

from __future__ import annotations

from typing import Any

import torch
from common import PACKAGES, WINDOW, WORDS, Row, Splits, halved, options, package_task, sizes, tell_packages
from torch import nn

import autoprune
from autoprune.recover.finetune import FineTune
from autoprune.search.space import load_space

HEADS_KEPT, NEURONS_KEPT = 0.5, 0.45


def bert() -> nn.Module:
    """Two layers of 6 heads and 384 feed-forward neurons at width 96, from random weights."""
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(
        vocab_size=WORDS, hidden_size=96, num_hidden_layers=2, num_attention_heads=6, intermediate_size=384,
        max_position_embeddings=WINDOW, num_labels=len(PACKAGES)))


def plan_of(graph: autoprune.Graph) -> autoprune.Plan:
    """Half of the heads and 45 % of the feed-forward neurons of every layer of the encoder stay."""
    free = [name for name in load_space("transformer").choices(graph, align=1) if ".encoder." in name]
    kept = {name: HEADS_KEPT if graph.groups[name].kind == "heads" else NEURONS_KEPT for name in free}
    return autoprune.Plan.of(graph, kept, "l2")


def encoder_sizes(model: autoprune.PrunedModule, inputs: Any) -> dict[str, int]:
    """macs: multiply-adds of the encoder for one window, attention's products included. params: weights and biases of
    its attention and feed-forward layers, without norms. macs_whole, params_whole: of the net with embeddings, pooler
    and classifier.
    """
    whole = sizes(model, inputs)
    weights = {name: p for name, p in model.tensors().items() if name.endswith(("weight", "bias"))}
    outside = sum(p.numel() for name, p in weights.items() if name in ("bert.pooler.dense.weight", "classifier.weight"))
    inside = sum(p.numel() for name, p in weights.items() if ".encoder." in name and "LayerNorm" not in name)
    return {"macs": whole["macs"] - outside, "params": inside, "macs_whole": whole["macs"],
            "params_whole": whole["params"]}


def run(rows: Splits, seed: int, steps: int) -> Row:
    torch.manual_seed(seed)
    return halved(package_task(bert(), rows, "input_ids"), plan_of, FineTune(steps=4 * steps, lr=1e-3, distill=0.0),
                  FineTune(steps=steps, lr=5e-4, temperature=2.0), encoder_sizes, seed)


def line(row: Row) -> str:
    dense, pruned = row["dense"], row["pruned"]
    return (f"{dense['accuracy']['value']:.2%} → {pruned['accuracy']['value']:.2%}; encoder's multiply-adds "
            f"{dense['macs']:,} → {pruned['macs']:,} ({dense['macs'] / pruned['macs']:.2f}x less), parameters of heads "
            f"and feed-forward {dense['params']:,} → {pruned['params']:,} ({dense['params'] / pruned['params']:.2f}x)")


if __name__ == "__main__":
    tell_packages(options(__doc__, 200, "of recovery; the dense net gets four times as many"), run, line)
