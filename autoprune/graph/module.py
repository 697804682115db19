"""The pruned model as a module: an ATen graph that trains, and that is saved and loaded without pickle."""

from __future__ import annotations

import copy
import json
import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from autoprune.errors import DamagedError
from autoprune.files import replace_file, save_tensors
from autoprune.graph.kept import Kept
from autoprune.graph.plan import Plan
from autoprune.graph.program import Program
from autoprune.graph.rewrite import copy_graph, has_devices, set_devices
from autoprune.graph.serialize import graph_from_json, graph_to_json

__all__ = ["PrunedModule", "build", "candidate", "load_module"]


_WRITTEN_OUT = ("_graph", "_code", "_lineno_map", "_prologue_start")


class PrunedModule(fx.GraphModule):
    """A model rebuilt from its graph. `train()` and `eval()` switch norms and dropout; it can be traced again.

    A candidate of a search runs the code that all candidates share (`Program`); `graph` and `code` are written out,
    and are its own, once they are asked for.
    """

    _candidate: tuple[Program, Kept] | None = None
    _sizes: list[int]

    def __getattr__(self, name: str) -> Any:
        if name not in _WRITTEN_OUT or self._candidate is None:
            return super().__getattr__(name)
        if name == "_graph":
            program, kept = self._candidate
            self._graph = program.graph(kept)
            self._graph.owning_module = self
        else:
            self.recompile()
        return self.__dict__[name]

    def recompile(self) -> Any:
        """Generate the code of `graph`; from then on this module no longer runs the shared one."""
        code = super().recompile()
        self._candidate = None
        return code

    def __reduce__(self) -> Any:
        return _restore, (graph_to_json(self), self.tensors(), self.plan, self.training)

    @property
    def why_graph(self) -> str | None:
        """Why this is not an instance of the user's class, if that was tried."""
        reason: str | None = self.meta.get("why_graph")
        return reason

    @property
    def plan(self) -> Plan:
        """The resolved plan that made it; empty for the dense model."""
        plan: Plan = self.meta["plan"]
        return plan

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `graph.json`, `plan.json` and `weights.safetensors`; `autoprune.load(folder)` reads them back."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        replace_file(path / "graph.json", json.dumps(graph_to_json(self)))
        replace_file(path / "plan.json", json.dumps(self.plan.to_json(), indent=1))
        save_tensors(path / "weights.safetensors", self.tensors())
        return path

    def tensors(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers by name."""
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}

    def nested(self) -> dict[str, fx.GraphModule]:
        """The graphs that this one calls (branches of `torch.cond`, regions with another precision), by name."""
        names = (self._candidate[0].names if self._candidate is not None else
                 {str(n.target) for n in self.graph.nodes if n.op == "get_attr"})
        found = {name: operator.attrgetter(name)(self) for name in sorted(names)}
        return {name: m for name, m in found.items() if isinstance(m, fx.GraphModule)}

    def __deepcopy__(self, memo: dict[int, Any]) -> PrunedModule:
        tensors = {name: copy.deepcopy(t, memo) for name, t in self.tensors().items()}
        if self._candidate is not None:
            out = candidate(*self._candidate, tensors, self.nested(), self.plan, type(self).__name__)
        else:
            out = build(copy_graph(self.graph), tensors, self.nested(), self.plan, type(self).__name__)
        out.meta.update({k: v for k, v in self.meta.items() if k != "plan"})
        memo[id(self)] = out
        out.train(self.training)
        return out

    def _apply(self, fn: Any, recurse: bool = True) -> PrunedModule:
        """Devices are literals of nodes such as `arange`: they follow the parameters."""
        before = {t.device for t in self.tensors().values()}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        after = {t.device for t in self.tensors().values()}
        if before != after and len(after) == 1:
            own = [] if self._candidate is not None and not self._candidate[0].placed else [self]
            for module in [*own, *self.nested().values()]:
                if has_devices(module.graph):
                    set_devices(module.graph, next(iter(after)))
                    module.recompile()
        return self


def candidate(program: Program, kept: Kept, tensors: Mapping[str, torch.Tensor],
              modules: Mapping[str, fx.GraphModule], plan: Plan, name: str) -> PrunedModule:
    """A module that runs `program` with the sizes of `kept` on its own tensors."""
    module = PrunedModule({}, fx.Graph(), class_name=_class_name(name))
    for key in _WRITTEN_OUT:
        delattr(module, key)
    type(module).forward = program.forward
    module._candidate = program, kept
    module._sizes = program.sizes(kept)
    if program.specs is not None:
        module._in_spec, module._out_spec = program.specs
    owners: dict[str, nn.Module] = {"": module}
    for key, tensor in tensors.items():
        path, _, leaf = key.rpartition(".")
        if isinstance(tensor, nn.Parameter):
            _owner(owners, path)._parameters[leaf] = tensor
        else:
            _owner(owners, path)._buffers[leaf] = tensor
    for key, nested in modules.items():
        path, _, leaf = key.rpartition(".")
        _owner(owners, path).add_module(leaf, nested)
    module.meta["plan"] = plan
    return module.eval()


def build(graph: fx.Graph, tensors: Mapping[str, torch.Tensor], modules: Mapping[str, fx.GraphModule], plan: Plan,
          name: str) -> PrunedModule:
    """A module from a graph and the tensors its `get_attr` nodes name."""
    root: dict[str, Any] = {"training": False, **modules}
    for key, tensor in tensors.items():
        root[key] = tensor if isinstance(tensor, nn.Parameter) else _Buffer(tensor)
    plain = {k: v.tensor if isinstance(v, _Buffer) else v for k, v in root.items()}
    module = PrunedModule(plain, graph, class_name=_class_name(name))
    for key, value in root.items():
        if isinstance(value, _Buffer):
            _register_buffer(module, key, value.tensor)
    module.meta["plan"] = plan
    return module.eval()


def _class_name(name: str) -> str:
    return "Pruned" + name.removeprefix("Pruned")


def _owner(owners: dict[str, nn.Module], path: str) -> nn.Module:
    """The module at `path`, made together with those above it when it does not exist."""
    if path not in owners:
        above, _, leaf = path.rpartition(".")
        owners[path] = nn.Module()
        _owner(owners, above)._modules[leaf] = owners[path]
    return owners[path]


class _Buffer:
    def __init__(self, tensor: torch.Tensor):
        self.tensor = tensor


def _register_buffer(module: nn.Module, name: str, tensor: torch.Tensor) -> None:
    *path, leaf = name.split(".")
    owner = module
    for part in path:
        owner = getattr(owner, part)
    if leaf in owner._buffers:
        return
    if hasattr(owner, leaf):
        delattr(owner, leaf)
    owner.register_buffer(leaf, tensor)


def _restore(data: dict[str, Any], tensors: Mapping[str, torch.Tensor], plan: Plan, training: bool) -> PrunedModule:
    graph, modules = graph_from_json(data)
    return build(graph, tensors, modules, plan, data["name"]).train(training)


def load_module(folder: str | os.PathLike[str]) -> PrunedModule:
    """Read what `PrunedModule.save` wrote. Nothing is unpickled; operators are looked up by name in `torch.ops`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(folder)
    missing = [n for n in ("graph.json", "plan.json", "weights.safetensors") if not (path / n).is_file()]
    if missing:
        raise DamagedError("this folder holds no saved model", given=f"{path} (missing: {', '.join(missing)})",
                           allowed="a folder written by save(), or a run folder and a trial number",
                           fix="autoprune.load('runs/x', trial=37)")
    try:
        data = json.loads((path / "graph.json").read_text(encoding="utf-8"))
        plan = Plan.from_json(json.loads((path / "plan.json").read_text(encoding="utf-8")))
        weights = load_file(str(path / "weights.safetensors"))
        parameters, frozen = set(data["parameters"]), set(data.get("frozen", ()))
        # clone: tensors in a file are not aligned as torch aligns its own, and other kernels round differently
        tensors = {k: nn.Parameter(v.clone(), requires_grad=k not in frozen) if k in parameters else v.clone()
                   for k, v in weights.items()}
        return _restore(data, tensors, plan, training=False)
    except (AttributeError, KeyError, RecursionError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise DamagedError("the saved model is damaged", given=f"{path}: {type(error).__name__}: {error}"[:300],
                           fix="write it again with save()") from error
