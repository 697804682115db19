"""`LatencyOracle`: a model in, a `Latency` out, on any known device; the door for other people's NAS loops."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, final

from autoprune.devices.compare import Comparison
from autoprune.devices.device import Device, load_device
from autoprune.devices.latency import Latency
from autoprune.devices.node_table import NodeLatency
from autoprune.devices.nodes import load_model
from autoprune.devices.profiler import Profiler, open_profiler
from autoprune.devices.shapes import set_sizes
from autoprune.errors import ConfigError

if TYPE_CHECKING:
    from autoprune.graph.graph import Graph
    from autoprune.graph.plan import Plan
    from autoprune.search.plan_latency import PlanLatency

__all__ = ["LatencyOracle", "measure", "to_onnx_bytes"]


@final
class LatencyOracle(Profiler):
    """`LatencyOracle("rpi4")(model, example_inputs) -> Latency`.

    `device` is a name, a path to a device file, an address (`ssh://user@host`), or a `Device`. Reusable: the measuring
    process (if the device is measured) stays up between calls; `close` or a `with` ends it. Threads take turns. One
    that predicts can be handed to other processes; of one that measures each process makes its own.
    """

    def __init__(self, device: Device | str, *, percentile: str = "p50", threads: int | None = None,
                 timeout_s: float = 120.0):
        self.device = load_device(device)
        self._threads, self._percentile = threads, percentile
        self._table: PlanLatency | None = None
        self._profiler = open_profiler(self.device, percentile=percentile, threads=threads, timeout_s=timeout_s)
        self._turn, self._process = threading.RLock(), os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        if self.device.is_measured:
            raise self._of_another_process()
        return {k: v for k, v in vars(self).items() if k != "_turn"} | {"_table": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _turn=threading.RLock())

    def _of_another_process(self) -> ConfigError:
        return ConfigError("an oracle that measures belongs to the process that made it", given=self.device.name,
                           fix=f"LatencyOracle({self.device.name!r}) in each process, and one at a time: what runs "
                               "beside a measurement spoils it")

    @contextmanager
    def _alone(self) -> Iterator[Profiler]:
        if os.getpid() != self._process:
            if self.device.is_measured:
                raise self._of_another_process()
            self._turn, self._process = threading.RLock(), os.getpid()  # no thread of the other one lets go of it
        with self._turn:
            yield self._profiler

    def __call__(self, model_or_onnx: Any, example_inputs: Any = None) -> Latency:
        """Latency of a `torch.nn.Module` on its example inputs, their batch included; of ONNX bytes or of an .onnx
        file at the sizes of the example inputs; without them, every size that is not given counts as 1.
        """
        return self.latency(to_onnx_bytes(model_or_onnx, example_inputs))

    def latency(self, onnx_bytes: bytes | Graph, plan: Plan | None = None) -> Latency:
        """Latency of one inference in milliseconds: of ONNX bytes, or of a traced graph pruned by `plan`.

        On a predicted device a graph's plans are priced from a table that is made with the graph's first plan; its
        model is not made. On a measured one the model is made, exported and measured.
        """
        if isinstance(onnx_bytes, bytes | bytearray) and plan is None:
            with self._alone() as profiler:
                return profiler.latency(bytes(onnx_bytes))
        return self._of_plan(onnx_bytes, plan)

    latency_of_onnx = latency

    def _of_plan(self, graph: Any, plan: Plan | None) -> Latency:
        from autoprune.graph.graph import Graph
        from autoprune.graph.onnx import export_onnx
        from autoprune.graph.plan import Plan
        from autoprune.search.plan_latency import PlanLatency

        if not isinstance(graph, Graph):
            raise ConfigError("a latency is told of a traced graph with a plan, or of ONNX bytes alone",
                              given=type(graph).__name__, allowed="what autoprune.trace returns, or bytes",
                              fix="oracle(model, example_inputs) for a model or an .onnx file")
        plan = Plan() if plan is None else plan
        if not isinstance(plan, Plan):
            raise ConfigError("not a plan", given=type(plan).__name__, allowed="an autoprune.Plan",
                              fix="autoprune.Plan.of(graph, widths)" if isinstance(plan, Mapping) else
                              "autoprune.Plan.uniform(graph, keep=0.5)")
        plan.require_fp32()
        if self.device.is_measured:
            return self.latency(export_onnx(graph.cut(plan), graph.example_inputs))
        with self._alone():
            if self._table is None or self._table.graph is not graph:
                self._table = PlanLatency(graph, self.device, threads=self._threads, percentile=self._percentile)
            return self._table.latency(plan)

    def nodes(self, onnx_bytes: bytes) -> list[NodeLatency]:
        """What each node of the ONNX model takes, in execution order."""
        with self._alone() as profiler:
            return profiler.nodes(onnx_bytes)

    def compare(self, onnx_bytes: bytes, reference: bytes) -> Comparison:
        """How much longer one ONNX model takes than another."""
        with self._alone() as profiler:
            return profiler.compare(onnx_bytes, reference)

    def close(self) -> None:
        """End the measuring process, if there is one."""
        self._profiler.close()

    def __enter__(self) -> LatencyOracle:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


def measure(model_or_onnx: Any, example_inputs: Any = None, device: Device | str = "cpu") -> Latency:
    """Latency of one inference on `device`: measured for "cpu" or an address, priced for a profile.

    Opens and ends a measuring process; for more than one model keep a `LatencyOracle`. Raises `ConfigError` for bad
    arguments, `DeviceError` for models that do not load or run.
    """
    if isinstance(example_inputs, str | Device):
        name = example_inputs if isinstance(example_inputs, str) else example_inputs.name
        needed = "" if isinstance(model_or_onnx, str | bytes | bytearray | os.PathLike) else "example_inputs, "
        raise ConfigError("example inputs are tensors, and the device comes after them", given=repr(name),
                          allowed="measure(model, example_inputs, device); an ONNX model needs no inputs",
                          fix=f"measure(model, {needed}device={name!r})")
    with LatencyOracle(device) as oracle:
        return oracle(model_or_onnx, example_inputs)


def to_onnx_bytes(model_or_onnx: Any, example_inputs: Any = None) -> bytes:
    """ONNX bytes of whatever stands for a model: bytes, a path to an .onnx file, or a `torch.nn.Module`.

    A module needs `example_inputs` (what `autoprune.trace` takes); a batch of one is exported as one of any size, which
    counts as one, a larger one as what it is. Inputs of an ONNX model get the sizes of the example, where there is one.
    Raises `ConfigError` for anything else, and for a file that is missing or no complete model. (Bytes are not looked
    at: those of a candidate that cannot be read are its own `DeviceError`, later.)
    """
    if isinstance(model_or_onnx, bytes | bytearray):
        return _sized(bytes(model_or_onnx), example_inputs)
    if isinstance(model_or_onnx, str | os.PathLike):
        path = Path(model_or_onnx)
        if path.suffix != ".onnx" or not path.is_file():
            raise ConfigError("not an ONNX file", given=str(path), allowed="a path to an existing .onnx file")
        return _sized(_read(path), example_inputs)
    if not hasattr(model_or_onnx, "state_dict") or not callable(model_or_onnx):
        raise ConfigError("cannot tell the latency of this", given=type(model_or_onnx).__name__,
                          allowed="a torch.nn.Module, ONNX bytes, or a path to an .onnx file",
                          fix="oracle.latency(graph, plan) of a LatencyOracle for a traced graph")
    if example_inputs is None or (isinstance(example_inputs, Mapping | tuple | list) and not example_inputs):
        raise ConfigError("a torch model needs example inputs to be exported", given="example_inputs=None",
                          fix="measure(model, (torch.randn(1, 3, 224, 224),))")
    from autoprune.graph.onnx import export_onnx
    from autoprune.graph.trace import split_inputs
    from autoprune.tasks.tensors import sample_count

    args, kwargs = split_inputs(example_inputs)
    exported = export_onnx(model_or_onnx, example_inputs, dynamic_batch=sample_count((args, kwargs)) == 1)
    return bytes(exported)


def _sized(onnx_bytes: bytes, example_inputs: Any) -> bytes:
    """The model with the sizes of the example inputs (tensors or arrays), or as it is without."""
    if example_inputs is None:
        return onnx_bytes
    from torch.utils import _pytree as pytree

    from autoprune.graph.trace import split_inputs

    args, kwargs = ((example_inputs,), {}) if hasattr(example_inputs, "shape") else split_inputs(example_inputs)
    named = {name: tuple(x.shape) for name, x in kwargs.items() if hasattr(x, "shape")}
    shapes = named or [tuple(x.shape) for x in pytree.tree_leaves(args) if hasattr(x, "shape")]
    if not shapes:
        return onnx_bytes
    model = load_model(onnx_bytes)
    set_sizes(model, shapes)
    data: bytes = model.SerializeToString()
    return data


def _read(path: Path) -> bytes:
    """The file's bytes; weights in files beside it are pulled in (never from outside its folder)."""
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's and onnx's errors share no public base
        raise ConfigError("the file is not an ONNX model", given=f"{path}: {error}",
                          fix="export again with torch.onnx.export(..., dynamo=True)") from error
    if not model.graph.node and not model.graph.output:
        raise ConfigError("the ONNX model is empty", given=str(path),
                          fix="export again with torch.onnx.export(..., dynamo=True)")
    outside = [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    if not outside:
        return path.read_bytes()
    for tensor in outside:
        names = {e.key: e.value for e in tensor.external_data}
        target = (path.parent / names.get("location", "")).resolve()
        if path.parent.resolve() not in target.parents or not target.is_file():
            raise ConfigError("the ONNX model points to weights outside its own folder, or to a missing file",
                              given=f"{tensor.name}: {names.get('location')}",
                              fix="export again with external_data=False")
    onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
    data: bytes = model.SerializeToString()
    return data
