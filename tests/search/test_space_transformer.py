"""The shipped space for transformers: heads and feed-forward neurons, nothing that a residual stream runs through."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.graph.graph import trace
from autoprune.search.space import load_space


class Reader(nn.Module):
    """A layer of attention with T5's bias by distance (a table that is looked up, [distances, heads]), and an FFN."""

    def __init__(self, width: int = 24, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.embed, self.distance = nn.Embedding(50, width), nn.Embedding(15, heads)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down, self.head = nn.Linear(width, 40), nn.Linear(40, width), nn.Linear(width, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        place = torch.arange(8)
        bias = self.distance(place[:, None] - place[None, :] + 7).permute(2, 0, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None]).transpose(1, 2).reshape(n, t, c)
        x = x + self.out(y)
        logits: Tensor = self.head((x + self.down(F.relu(self.up(x)))).mean(1))
        return logits


def test_the_embedding_width_stays_and_heads_with_a_bias_table_do_not() -> None:
    graph = trace(Reader(), torch.randint(0, 50, (2, 8)))
    width = next(g for g in graph.groups.values() if ("embed.weight", 1) in g.tensors)
    heads = next(g for g in graph.groups.values() if ("distance.weight", 1) in g.tensors)
    assert (width.kind, width.size) == ("embedding", 24)
    assert (heads.kind, heads.size) == ("heads", 4)
    assert set(load_space("transformer").choices(graph, align=1)) == {heads.name, "up"}


def test_a_table_before_layers_that_are_no_transformer() -> None:
    net = nn.Sequential(nn.Embedding(20, 6), nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 2))
    kinds = {name: g.kind for name, g in trace(net, torch.randint(0, 20, (2, 4))).groups.items()}
    assert kinds == {"0": "embedding", "2": "features"}
