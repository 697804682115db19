"""The weights that a pruned net is trained from: those it has, those of an earlier checkpoint, or random ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import fx

from autoprune.errors import ConfigError
from autoprune.graph.typing import Call

if TYPE_CHECKING:
    from autoprune.graph.graph import Graph
    from autoprune.graph.module import PrunedModule

__all__ = ["early_graph", "read_checkpoint", "reinitialise"]


def read_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """A state dict from a safetensors file (nothing is unpickled)."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = Path(path)
    if not file.is_file():
        raise ConfigError("the checkpoint to rewind to does not exist", given=file,
                          fix="[recover] checkpoint = \"early.safetensors\", written early in the training")
    try:
        state: dict[str, torch.Tensor] = load_file(str(file))
    except (SafetensorError, OSError) as error:
        raise ConfigError("the checkpoint cannot be read", given=f"{file}: {error}"[:200], allowed="a safetensors file",
                          fix="safetensors.torch.save_file(model.state_dict(), 'early.safetensors')") from error
    return state


def early_graph(graph: Graph, state: Mapping[str, torch.Tensor]) -> Graph:
    """`graph` with the weights of an earlier `state` of the same model: rewinding (Frankle et al. 2020,
    arXiv:1912.05671). Constants that are no state of the model stay. `ConfigError` lists what is missing or shaped
    differently.
    """
    dense = graph.captured.tensors
    wrong = [f"{n}: missing" for n in sorted(graph.parameters) if n not in state]
    wrong += [f"{n}: {tuple(t.shape)} instead of {tuple(dense[n].shape)}" for n, t in state.items()
              if n in dense and t.shape != dense[n].shape]
    if wrong:
        raise ConfigError(f"the checkpoint does not fit the model ({len(wrong)} tensors)", given="; ".join(wrong[:3]),
                          fix="rewind to a state_dict() of the same model")
    return graph.with_tensors({n: t.to(dense[n]) for n, t in state.items() if n in dense})


def reinitialise(graph: Graph, model: PrunedModule, seed: int) -> None:
    """Draw the weights of `model` (of a plan for `graph`) anew, in place.

    A weight that is multiplied gets U(−1/√fan_in, 1/√fan_in) by its pruned shape, as torch's layers do; its bias 0;
    norms scale 1, shift 0, mean 0, variance 1. What is none of them (embeddings, positions, layer scales) is drawn from
    a normal distribution with the mean and the deviation that it has. Frozen parameters stay.
    """
    generator = torch.Generator().manual_seed(seed)
    fans = {r.weight: r.weight_axis for r in graph.reads if r.weight is not None}
    constant = _constants(graph.captured.graph)
    with torch.no_grad():
        for name, tensor in sorted(model.tensors().items()):
            if isinstance(tensor, torch.nn.Parameter) and not tensor.requires_grad:
                continue
            if name in constant:
                tensor.fill_(constant[name])
            elif name in fans and tensor.dim() > 1:
                bound = 1 / math.sqrt(_fan_in(tensor, fans[name]))
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 2 * bound - bound)
            elif isinstance(tensor, torch.nn.Parameter):
                deviation = float(tensor.float().std()) if tensor.numel() > 1 else 0.0
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * deviation + float(tensor.float().mean()))


def _fan_in(weight: torch.Tensor, axis: int) -> int:
    """What comes in, times the positions of a kernel: axes after the first two."""
    return weight.shape[axis] * math.prod(weight.shape[2:])


_CONSTANTS = {"running_mean": 0.0, "running_var": 1.0}
_BIASES = ("bias", "b_ih", "b_hh")


def _constants(graph: fx.Graph) -> dict[str, float]:
    """Tensors that start from one number: biases, and what norms read."""
    out: dict[str, float] = {}
    for node in graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        call, norm = Call(node), "norm" in node.target._schema.name
        values = {**_CONSTANTS, **dict.fromkeys(_BIASES, 0.0), **({"weight": 1.0} if norm else {})}
        for argument, value in values.items():
            source = call.get(argument)
            if isinstance(source, fx.Node) and source.op == "get_attr":
                out[str(source.target)] = value
        for source in call.get("params") or ():
            if isinstance(source, fx.Node) and source.meta["val"].dim() == 1:
                out[str(source.target)] = 0.0
    return out

