"""`autoprune profile`."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoprune.cli.output import Format, note, print_json, print_table, result
from autoprune.errors import ConfigError

if TYPE_CHECKING:
    from autoprune.devices.profiler import Profiler

__all__ = ["profile"]


class By(enum.StrEnum):
    node = "node"
    operator = "operator"


def profile(
    model: Annotated[str | None, typer.Option(help="A model, or FILE.onnx; the built-in example by default.")] = None,
    other: Annotated[str | None, typer.Option("--compare", help="A second model or FILE.onnx: how much longer the "
                                                                "first takes than this one.")] = None,
    device: Annotated[str, typer.Option(help="Name, device file or ssh://user@host.")] = "cpu",
    data: Annotated[str | None, typer.Option(help="The data, for a model's example inputs.")] = None,
    shape: Annotated[list[str] | None, typer.Option("--input", help="Shape of an input, also of an ONNX file: "
                                                                    "1x3x224x224, 1x128:int.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the runtime.", min=1)] = None,
    percentile: Annotated[str, typer.Option(help="p50, p90 or p99.")] = "p50",
    by: Annotated[By | None, typer.Option(help="A row per node, or the sums by operator.  [default: node; operator "
                                               "with --compare]")] = None,
    top: Annotated[int | None, typer.Option(help="Only the N rows that take longest, the longest first.",
                                            min=1)] = None,
    output: Annotated[Format, typer.Option("--format", help="table, json or csv.")] = Format.table,
) -> None:
    """Just the latency of a model on a device, and which nodes take it.

    \b
    autoprune profile --device raspberrypi
    autoprune profile --model model.onnx --device cpu --format json
    autoprune profile --model nets.py:make --input 1x3x224x224 --device rpi5 --by operator
    autoprune profile --model pruned.onnx --compare dense.onnx --device cpu
    """
    from autoprune.cli.inputs import load_onnx
    from autoprune.devices.device import load_device
    from autoprune.devices.profiler import open_profiler

    if other is not None and by is By.node:
        raise ConfigError("two models have no nodes in common to compare", given="--compare with --by node",
                          allowed="--by operator", fix="leave out --by")
    if model is not None and data is not None and all(m.endswith(".onnx") for m in (model, other or model)):
        raise ConfigError("an ONNX file takes the sizes of its inputs, and no data", given=f"--data {data}",
                          allowed="--input 1x3x224x224", fix="leave out --data")
    found = load_device(device)
    if found.announce:
        note(f"autoprune: {found.announce}")
    with open_profiler(found, percentile=percentile, threads=threads) as profiler:
        onnx_bytes = load_onnx(model, data, shape)
        if other is not None:
            _compare(profiler, onnx_bytes, load_onnx(other, data, shape), top, output)
        else:
            _profile(profiler, onnx_bytes, by or By.node, top, output)


def _profile(profiler: Profiler, onnx_bytes: bytes, by: By, top: int | None, output: Format) -> None:
    from autoprune.devices.node_table import by_operator, slowest

    latency, nodes = profiler.latency(onnx_bytes), profiler.nodes(onnx_bytes)
    total_ms = sum(n.ms for n in nodes)
    if by is By.node:
        shown = nodes if top is None else slowest(nodes, top)
        rows: list[dict[str, Any]] = [{"node": n.name, "operator": n.op, "macs": n.macs, "ms": round(n.ms, 4),
                                       "share": n.ms / total_ms if total_ms else 0.0} for n in shown]
    else:
        rows = [{"operator": o.op, "count": o.count, "macs": o.macs, "ms": round(o.ms, 4), "share": o.share}
                for o in by_operator(nodes)[:top]]
    if output is Format.json:
        print_json({"latency": latency.to_json(), f"{by}s": rows})
        return
    _print(rows, output)
    if output is Format.table:
        result(str(latency))
        for text in latency.notes:
            note(f"note: {text}")
        if latency.source == "measured":
            note(f"note: the nodes sum to {total_ms:.3g} ms; they were timed apart, and their timing takes time itself")


def _compare(profiler: Profiler, onnx_bytes: bytes, reference: bytes, top: int | None, output: Format) -> None:
    from autoprune.devices.node_table import side_by_side

    comparison = profiler.compare(onnx_bytes, reference)
    pairs = side_by_side(profiler.nodes(onnx_bytes), profiler.nodes(reference))[:top]
    rows = [{"operator": a.op, "count": a.count, "ms": round(a.ms, 4), "share": a.share, "reference count": b.count,
             "reference ms": round(b.ms, 4), "reference share": b.share} for a, b in pairs]
    if output is Format.json:
        print_json({**comparison.to_json(), "operators": [{k.replace(" ", "_"): v for k, v in row.items()}
                                                          for row in rows]})
        return
    _print(rows, output)
    if output is Format.table:
        result(f"model:     {comparison.latency}")
        result(f"reference: {comparison.reference}")
        result(f"ratio:     {comparison}")
        note(f"note: the ratio is {comparison.basis}")
        for text in dict.fromkeys([*comparison.latency.notes, *comparison.reference.notes]):
            note(f"note: {text}")


def _print(rows: list[dict[str, Any]], output: Format) -> None:
    """A table with shares in per cent, and MACs under their usual name."""
    if rows:
        print_table(["MACs" if key == "macs" else key for key in rows[0]],
                    [[f"{100 * value:.1f} %" if "share" in key else value for key, value in row.items()]
                     for row in rows], output)
