"""Graphs as JSON: the round trip, and files from people who want to run code."""

from __future__ import annotations

import copy
import json
import math
import operator
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from autoprune.errors import ConfigError
from autoprune.graph.graph import trace
from autoprune.graph.module import PrunedModule, load_module
from autoprune.graph.plan import Plan
from autoprune.graph.serialize import graph_from_json, graph_to_json
from tests.graph.nets import Spec, make


def graph_of(blocks: tuple[str, ...] = ("conv_bn",), kind: str = "image") -> tuple[PrunedModule, Tensor]:
    net, x = make(Spec(kind, 8, blocks, "mean", 0))
    return trace(net, x).dense(), x


@pytest.fixture(scope="module")
def saved() -> dict[str, Any]:
    """The JSON of a small graph. Copy it before changing it."""
    return json.loads(json.dumps(graph_to_json(graph_of()[0])))  # type: ignore[no-any-return]


# -- round trip ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "blocks"), [
    ("image", ("conv_bn", "split", "se")), ("image", ("shuffle", "glu", "cat")),
    ("tokens", ("qkv", "attention", "mlp"))])
def test_round_trip(kind: str, blocks: tuple[str, ...]) -> None:
    module, _ = graph_of(blocks, kind)
    data = json.loads(json.dumps(graph_to_json(module)))
    graph, modules = graph_from_json(data)
    assert modules == {}
    assert [(n.op, n.name, n.target) for n in graph.nodes] == [(n.op, n.name, n.target) for n in module.graph.nodes]
    again = json.loads(json.dumps(graph_to_json(fx.GraphModule(module, graph))))
    assert again["nodes"] == data["nodes"]


@pytest.mark.parametrize("value", [
    1, -1, 0.5, True, None, "text", float("inf"), float("-inf"), 1.5j, (1, 2), (1, (2.5, "a")),
    {"a": 1, "b": (1, None)},
    torch.float32, torch.bool, torch.strided, torch.channels_last, torch.device("cpu"), {}, ()])
def test_arguments_survive(value: object) -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(operator.add, (x, value)))
    data = json.loads(json.dumps(graph_to_json(fx.GraphModule({}, graph))))
    loaded, _ = graph_from_json(data)
    assert next(n for n in loaded.nodes if n.op == "call_function").args[1] == value


def test_nan_survives() -> None:
    graph = fx.Graph()
    graph.output(graph.call_function(operator.add, (graph.placeholder("x"), math.nan)))
    text = json.dumps(graph_to_json(fx.GraphModule({}, graph)), allow_nan=False)
    loaded, _ = graph_from_json(json.loads(text))
    found = next(n for n in loaded.nodes if n.op == "call_function").args[1]
    assert isinstance(found, float)
    assert math.isnan(found)


def test_the_module_paths_survive(saved: dict[str, Any]) -> None:
    graph, _ = graph_from_json(saved)
    paths = {next(iter(n.meta["nn_module_stack"].values()))[0] for n in graph.nodes if n.meta.get("nn_module_stack")}
    assert any("stem" in p for p in paths)


@pytest.mark.parametrize("argument", [object(), len, slice(1, 2), {1, 2}])
def test_what_cannot_be_written_is_refused_when_saving(argument: object) -> None:
    graph = fx.Graph()
    node = graph.call_function(operator.add, (graph.placeholder("x"), 1))
    graph.output(node)
    module = fx.GraphModule({}, graph)
    node.args = (node.args[0], argument)  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="cannot be written down"):
        graph_to_json(module)


def test_a_function_that_is_no_operator_is_refused_when_saving() -> None:
    graph = fx.Graph()
    graph.output(graph.call_function(torch.nn.functional.relu, (graph.placeholder("x"),)))
    with pytest.raises(ConfigError, match="cannot be written down"):
        graph_to_json(fx.GraphModule({}, graph))


def test_nested_graphs_survive(tmp_path: Path) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.first(x))
            h = torch.cond(x.sum() > 0, lambda t: t.sin(), lambda t: t.cos(), (h,))
            out: Tensor = self.last(h)
            return out

    torch.manual_seed(0)
    x = torch.randn(2, 4)
    dense = trace(Branches(), x).dense()
    loaded = load_module(dense.save(tmp_path))
    for sign in (1, -1):
        assert torch.equal(loaded(sign * x.abs()), dense(sign * x.abs()))


# -- hostile files ------------------------------------------------------------------------------------------------

OUTSIDE = [
    "os.system", "builtins.eval", "eval", "subprocess.run", "operator.attrgetter", "operator.methodcaller",
    "operator.itemgetter", "operator.call", "operator.__builtins__", "operator.__loader__", "operator.setitem",
    "operator.delitem", "operator.iconcat", "math.__loader__", "math.__spec__", "math.nothing", "torch.load",
    "torch.sym_nothing", "torch.ops.load_library.__call__", "torch.ops.load_library.__func__",
    "torch.ops.import_module.__func__", "torch.ops.loaded_libraries.add", "torch.ops.loaded_libraries.clear",
    "torch.ops.__class__.__init__", "torch.ops.__class__.__init__.__globals__", "torch.ops.aten.__class__",
    "torch.ops.aten.__class__.__init__", "torch.ops.aten.add.__class__", "torch.ops.aten.add.Tensor.__class__",
    "torch.ops.aten.add", "torch.ops.aten.nothing.default", "torch.ops.nowhere.nothing.default",
    "torch.ops.aten.from_file.default", "torch.ops.aten.from_file.out", "torch.ops.aten.save.default",
    "torch.ops.aten.warn.default", "torch.ops.aten._print.default", "torch.ops.prim.Print.default",
    "torch.ops.prim.RaiseException.default", "torch.ops.aten.manual_seed.default", "torch.ops.higher_order.print",
    "torch.ops.higher_order.call_torchbind", "torch.ops.higher_order.__class__", "torch.ops.higher_order.nothing",
    "torch.ops", "torch", "", ".", "torch.ops..", "torch.ops.aten..default", "x" * 100_000,
]


def with_target(data: dict[str, Any], target: object) -> dict[str, Any]:
    data = copy.deepcopy(data)
    node = next(n for n in data["nodes"] if n[0] == "call_function")
    node[2] = target
    return data


@pytest.mark.parametrize("target", OUTSIDE, ids=lambda t: t[:40])
def test_names_that_are_no_tensor_operators_are_refused(saved: dict[str, Any], target: str) -> None:
    with pytest.raises(ConfigError, match="operator") as info:
        graph_from_json(with_target(saved, target))
    assert len(str(info.value)) < 1000


@pytest.mark.parametrize("target", [None, 3, [], {}, ["os", "system"]])
def test_targets_that_are_no_names_are_refused(saved: dict[str, Any], target: object) -> None:
    with pytest.raises(ConfigError):
        graph_from_json(with_target(saved, target))


@pytest.mark.parametrize("target", ["torch.ops.aten.relu.default", "torch.ops.aten.sym_size.int", "operator.floordiv",
                                    "math.ceil", "torch.sym_max", "torch.ops.higher_order.cond"])
def test_operators_are_accepted(saved: dict[str, Any], target: str) -> None:
    graph, _ = graph_from_json(with_target(saved, target))
    assert next(n for n in graph.nodes if n.op == "call_function").target is not None


def test_an_operator_of_the_users_own_library_is_accepted(saved: dict[str, Any]) -> None:
    with torch.library._scoped_library("autoprune_test", "DEF") as library:
        library.define("twice(Tensor x) -> Tensor")
        graph_from_json(with_target(saved, "torch.ops.autoprune_test.twice.default"))


@pytest.mark.parametrize("op", ["call_method", "call_module", "root", "", None])
def test_other_kinds_of_nodes_are_refused(saved: dict[str, Any], op: str | None) -> None:
    """`call_method` would reach any attribute of a tensor."""
    data = copy.deepcopy(saved)
    data["nodes"].insert(-1, [op, "evil", "tofile", [{"node": data["nodes"][0][1]}, "/tmp/evil"], {"dict": {}}, None])
    with pytest.raises(ConfigError):
        graph_from_json(data)


INJECTIONS = ["x):\n    import os; os.system('true')\n    return (x", "x=__import__('os').system('true')", "a b", "1x",
              "", "__class__", "__init__", "lambda", "x;y", "self.x", "é(", 'x")', "*x", "_\uff3fclass__"]


@pytest.mark.parametrize("name", INJECTIONS)
def test_inputs_must_be_identifiers(saved: dict[str, Any], name: str) -> None:
    """fx writes the names of inputs into Python source."""
    data = copy.deepcopy(saved)
    next(n for n in data["nodes"] if n[0] == "placeholder")[2] = name
    with pytest.raises(ConfigError):
        graph_from_json(data)


@pytest.mark.parametrize("name", INJECTIONS)
def test_names_of_the_signature_must_be_identifiers(saved: dict[str, Any], name: str) -> None:
    data = copy.deepcopy(saved)
    data["pytree"][0] = [name]
    with pytest.raises(ConfigError):
        graph_from_json(data)


@pytest.mark.parametrize("name", INJECTIONS)
def test_keyword_arguments_must_be_identifiers(saved: dict[str, Any], name: str) -> None:
    data = copy.deepcopy(saved)
    next(n for n in data["nodes"] if n[0] == "call_function")[4] = {"dict": {name: 1}}
    with pytest.raises(ConfigError):
        graph_from_json(data)


@pytest.mark.parametrize("name", ["__class__", "stem.__class__.__init__", "stem.weight\nimport os", 'a")', "a..b", "",
                                  "_\uff3fclass__", "a b\\"])
def test_attributes_must_be_dotted_identifiers(saved: dict[str, Any], name: str) -> None:
    data = copy.deepcopy(saved)
    next(n for n in data["nodes"] if n[0] == "get_attr")[2] = name
    with pytest.raises(ConfigError):
        graph_from_json(data)


@pytest.mark.parametrize("key", ["3x3", "sep-conv", "a b", "x[0]", "it's", "1"])
def test_keys_of_a_module_dict_survive(tmp_path: Path, key: str) -> None:
    x = torch.randn(2, 5)
    graph = trace(Keyed(key), x)
    pruned = graph.cut(Plan.uniform(graph, 0.5, method="l1"))
    pruned.save(tmp_path)
    assert torch.equal(load_module(tmp_path)(x), pruned(x))


class Keyed(nn.Module):
    def __init__(self, key: str) -> None:
        super().__init__()
        self.key, self.choices, self.last = key, nn.ModuleDict({key: nn.Linear(5, 8)}), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.choices[self.key](x).relu())


def test_strings_in_arguments_stay_strings(tmp_path: Path) -> None:
    """The generated source quotes them."""
    evil = "'); __import__('os').system('touch " + str(tmp_path / "evil") + "'); ('"
    graph = fx.Graph()
    graph.output(graph.call_function(torch.ops.aten.einsum.default, (evil, (graph.placeholder("x"),))))
    data = json.loads(json.dumps(graph_to_json(fx.GraphModule({}, graph))))
    module = fx.GraphModule({}, graph_from_json(data)[0])
    with pytest.raises(RuntimeError):
        module(torch.ones(2))
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("schema", [None, 0, 2, "1", [], {}])
def test_another_schema_is_refused(saved: dict[str, Any], schema: object) -> None:
    with pytest.raises(ConfigError, match="another version"):
        graph_from_json({**saved, "schema": schema})


@pytest.mark.parametrize("data", [None, [], "graph", 3])
def test_what_is_no_object_is_refused(data: Any) -> None:
    with pytest.raises(ConfigError):
        graph_from_json(data)


@pytest.mark.parametrize("key", ["nodes", "modules"])
def test_missing_keys_are_a_clear_error(saved: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match="damaged"):
        graph_from_json({k: v for k, v in saved.items() if k != key})


@pytest.mark.parametrize("argument", [
    {"node": "nowhere"}, {"node": []}, {"dtype": "nothing"}, {"dtype": "load"}, {"dtype": "__loader__"},
    {"layout": "float32"}, {"memory_format": "ops"}, {"device": "nowhere"},
    {"device": 3.5}, {"eval": "1"}, {}, {"node": "x", "dtype": "int"},
    {"float": "ten"}, {"dict": []}])
def test_arguments_that_are_unknown_are_refused(saved: dict[str, Any], argument: object) -> None:
    data = copy.deepcopy(saved)
    next(n for n in data["nodes"] if n[0] == "call_function")[3] = [argument]
    with pytest.raises(ConfigError):
        graph_from_json(data)


def test_deep_arguments_are_refused(saved: dict[str, Any]) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    data = {**saved, "nodes": [*saved["nodes"][:-1], ["output", "output", "output", deep, {"dict": {}}, None]]}
    with pytest.raises(ConfigError):
        graph_from_json(data)


@pytest.mark.parametrize("depth", [100, 100_000])
def test_deep_graphs_are_refused(saved: dict[str, Any], depth: int) -> None:
    data = saved
    for _ in range(depth):
        data = {**saved, "modules": {"inner": data}}
    with pytest.raises(ConfigError):
        graph_from_json(data)


# -- input and output structures ----------------------------------------------------------------------------------


def with_output(data: dict[str, Any], spec: str) -> dict[str, Any]:
    return {**data, "pytree": [data["pytree"][0], data["pytree"][1], spec]}


def spec_of(kind: str, context: object) -> str:
    leaf = {"type": None, "context": None, "children_spec": []}
    return json.dumps([1, {"type": kind, "context": context, "children_spec": [leaf]}])


@pytest.mark.parametrize("value", [[1], (1, 2), {"a": 1}, OrderedDict(a=1), defaultdict(list, {"a": 1}),
                                   {"a": (1, [2])}])
def test_structures_survive(saved: dict[str, Any], value: object) -> None:
    spec = pytree.tree_structure(value)
    graph, _ = graph_from_json(with_output(saved, pytree.treespec_dumps(spec)))
    assert graph._codegen.pytree_info.out_spec == spec  # type: ignore[attr-defined]


def test_a_structure_imports_nothing(saved: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own reader imports whatever module a `defaultdict` or an enum names."""
    (tmp_path / "autoprune_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nfactory = list\n")
    monkeypatch.syspath_prepend(tmp_path)
    factory = {"default_factory_module": "autoprune_evil", "default_factory_name": "factory", "dict_context": ["a"]}
    enum = json.dumps([{"__enum__": True, "fqn": "autoprune_evil:factory", "name": "a"}])
    for spec in (spec_of("collections.defaultdict", factory), spec_of("builtins.dict", enum)):
        with pytest.raises(ConfigError):
            graph_from_json(with_output(saved, spec))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("spec", [
    "", "[]", "[1]", "[9, {}]", "[1, null]", "null", "{}", '[1, {"type": null}]', "[" * 100_000,
    spec_of("os.system", []), spec_of("collections.defaultdict", {"default_factory_module": "builtins"}),
    spec_of("collections.defaultdict", {"default_factory_module": "builtins", "default_factory_name": "eval",
                                        "dict_context": ["a"]}),
    spec_of("collections.namedtuple", "os.system"), spec_of("builtins.dict", "{"),
    spec_of("builtins.dict", "[" * 100_000)])
def test_structures_that_are_unknown_are_refused(saved: dict[str, Any], spec: str) -> None:
    with pytest.raises(ConfigError):
        graph_from_json(with_output(saved, spec))


# -- fuzz ---------------------------------------------------------------------------------------------------------

anything = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.sampled_from(
        ["node", "dict", "x", "torch.ops.aten.relu.default", "operator.add", "os.system", "__class__", "output",
         "get_attr"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["node", "dict", "dtype", "float", "a"]), inner, max_size=2), max_leaves=6)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.data())
def test_one_broken_place_gives_a_graph_or_a_clear_error(saved: dict[str, Any], data: st.DataObject) -> None:
    broken = copy.deepcopy(saved)
    node = data.draw(st.sampled_from(broken["nodes"]))
    node[data.draw(st.integers(0, 5))] = data.draw(anything)
    try:
        graph, _ = graph_from_json(broken)
    except ConfigError:
        return
    for n in graph.nodes:
        assert n.op in ("placeholder", "get_attr", "call_function", "output")
        if n.op == "call_function" and not isinstance(n.target, torch._ops.OpOverload | torch._ops.HigherOrderOperator):
            assert getattr(n.target, "__module__", "") in ("_operator", "math", "torch")


def test_a_pruned_models_file_loads_in_a_process_of_its_own(tmp_path: Path) -> None:
    import subprocess
    import sys

    net, x = make(Spec("tokens", 8, ("qkv", "mlp"), "mean", 0))
    graph = trace(net, x)
    pruned = graph.cut(Plan.uniform(graph, 0.5))
    folder = pruned.save(tmp_path / "m")
    torch.save(x, tmp_path / "x.pt")
    code = (f"import torch, autoprune; m = autoprune.load({str(folder)!r}); "
            f"torch.save(m(torch.load({str(tmp_path / 'x.pt')!r})).detach(), {str(tmp_path / 'y.pt')!r})")
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
    assert torch.equal(torch.load(tmp_path / "y.pt"), pruned(x))
