"""The five guarantees of the pruning graph, on random small networks and random plans."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn

from autoprune.errors import ModelError, NoEffectWarning
from autoprune.graph.dims import dims_of
from autoprune.graph.graph import Graph, trace
from autoprune.graph.module import load_module
from autoprune.graph.plan import Cut, Plan
from tests.graph.nets import IMAGE, IMAGE_OTHER, TOKENS, TOKENS_OTHER, Spec, make, specs

BLOCKS = [("image", b) for b in IMAGE + IMAGE_OTHER] + [("tokens", b) for b in TOKENS + TOKENS_OTHER]
QUICK = settings(deadline=None, max_examples=12, derandomize=True)
OFTEN = settings(deadline=None, max_examples=150, derandomize=True)


def random_plan(graph: Graph, seed: int, share: float = 0.75) -> Plan:
    """Random units of about `share` of the groups, at least one of each stays."""
    random = np.random.default_rng(seed)
    cuts = {}
    for name, g in graph.groups.items():
        if random.random() < share:
            keep = int(random.integers(1, g.size + 1))
            kept = tuple(sorted(random.permutation(g.size)[:keep].tolist()))
            cuts[name] = Cut(keep, "random", kept)
    return Plan(cuts, graph.fingerprint)


def every_block(f: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.parametrize(("kind", "block"), BLOCKS, ids=[f"{k}-{b}" for k, b in BLOCKS])(f)


def relative(a: Tensor, b: Tensor) -> float:
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-12))


@cache
def traced(spec: Spec) -> tuple[nn.Module, Tensor, Graph]:
    """A net, its input and its graph, none of which a test may change."""
    net, x = make(spec)
    return net, x, trace(net, x)


# -- 1: identity --------------------------------------------------------------------------------------------------


def check_identity(spec: Spec) -> None:
    net, x, graph = traced(spec)
    expected = net(x)
    assert torch.equal(graph.dense()(x), expected)
    everything = Plan({n: Cut(g.size, "l1", tuple(range(g.size))) for n, g in graph.groups.items()}, graph.fingerprint)
    if graph.groups:
        assert torch.equal(graph.cut(everything)(x), expected)
        assert torch.equal(graph.cut(Plan.uniform(graph, 1.0))(x), expected)


@QUICK
@given(specs(other=True))
def test_keeping_everything_is_bit_identical(spec: Spec) -> None:
    check_identity(spec)


# -- 2: exactness -------------------------------------------------------------------------------------------------


def zeroed(net: nn.Module, graph: Graph, plan: Plan) -> nn.Module:
    """A copy of `net` where whatever computes a removed unit gives zero: rows of weights, biases, norm scales and
    shifts, bare parameters. Weights that *read* the unit are left alone, so they have to meet a zero.
    """
    out = copy.deepcopy(net)
    kept = graph.kept(graph.resolve(plan))
    tensors = {**dict(out.named_parameters()), **dict(out.named_buffers())}
    transposed = {f"{n}.weight" for n, m in out.named_modules() if isinstance(m, nn.ConvTranspose2d)}
    layers = {f"{n}.weight" for n, m in out.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    with torch.no_grad():
        for name in plan.cuts:
            for tensor, axis in graph.groups[name].tensors:
                produces = 1 if tensor in transposed else 0 if tensor in layers else axis
                if axis == produces:
                    e = graph.typing.tensors[tensor][axis]
                    gone = np.setdiff1d(np.arange(tensors[tensor].shape[axis]), kept.indices(e))
                    tensors[tensor].index_fill_(axis, torch.from_numpy(gone), 0.0)
    return out


def check_exactness(spec: Spec, seed: int) -> None:
    net, x = make(spec, torch.float64)
    graph = trace(net, x)
    plan = random_plan(graph, seed)
    pruned, dense = graph.cut(plan), zeroed(net, graph, plan)
    assert relative(pruned(x), dense(x)) < 1e-5
    for name, cut in plan.cuts.items():
        if cut.keep < graph.groups[name].size:
            for tensor, axis in graph.groups[name].tensors:
                assert pruned.tensors()[tensor].shape[axis] < graph.captured.tensors[tensor].shape[axis]


@QUICK
@given(specs(), st.integers(0, 10**6))
def test_pruning_equals_zeroing(spec: Spec, seed: int) -> None:
    check_exactness(spec, seed)


@pytest.mark.parametrize(("kind", "block"), [b for b in BLOCKS if b[1] not in IMAGE_OTHER + TOKENS_OTHER])
def test_pruning_equals_zeroing_for_every_block(kind: str, block: str) -> None:
    """Twice the block, so that it also meets itself."""
    for seed, end in enumerate(("mean", "flatten")):
        check_exactness(Spec(kind, 8, (block, block), end, seed), seed)


def test_zeroing_is_not_trivially_equal() -> None:
    """The comparison notices one misplaced unit."""
    net, x = make(Spec("image", 8, ("conv",), "mean", 0), torch.float64)
    graph = trace(net, x)
    name = next(iter(graph.groups))
    cut, other = Plan({name: Cut(2, "l1", (0, 1))}), Plan({name: Cut(2, "l1", (0, 2))})
    assert relative(graph.cut(cut)(x), zeroed(net, graph, other)(x)) > 1e-3


# -- 3: composition -----------------------------------------------------------------------------------------------


def check_composition(spec: Spec, seed: int) -> None:
    net, x = make(spec, torch.float64)
    graph = trace(net, x)
    first = random_plan(graph, seed)
    once = graph.cut(first)
    again = trace(once, x)
    second = random_plan(again, seed + 1)
    keys = Counter((g.tensors, g.kind) for g in graph.groups.values())
    names = {(g.tensors, g.kind): n for n, g in graph.groups.items() if keys[g.tensors, g.kind] == 1}
    second = Plan({n: c for n, c in second.cuts.items() if (again.groups[n].tensors, again.groups[n].kind) in names})
    cuts = dict(first.cuts)
    for later, cut in second.cuts.items():
        name = names[again.groups[later].tensors, again.groups[later].kind]  # what it cuts, whatever it is called
        before = cuts[name].kept if name in cuts else tuple(range(graph.groups[name].size))
        assert before is not None
        assert cut.kept is not None
        assert again.groups[later].size == len(before)
        kept = tuple(before[i] for i in cut.kept)
        cuts[name] = Cut(len(kept), cut.method, kept)
    direct = graph.cut(Plan(cuts, graph.fingerprint))
    twice = again.cut(second) if second.cuts else again.dense()
    assert {n: t.shape for n, t in twice.tensors().items()} == {n: t.shape for n, t in direct.tensors().items()}
    for name, tensor in direct.tensors().items():
        assert torch.equal(twice.tensors()[name], tensor), name
    assert torch.equal(twice(x), direct(x))


@settings(QUICK, max_examples=10)
@given(specs(other=True), st.integers(0, 10**6))
def test_pruning_twice_equals_pruning_once(spec: Spec, seed: int) -> None:
    check_composition(spec, seed)


# -- 4: never broken ----------------------------------------------------------------------------------------------


def check_works(spec: Spec, seed: int, smallest: bool = False) -> nn.Module:
    """Runs for other batch sizes, trains one step, evaluates the same as before training when told so."""
    _, x, graph = traced(spec)
    plan = random_plan(graph, seed)
    if smallest:
        plan = Plan({n: Cut(1, "random") for n in graph.groups}, graph.fingerprint)
    pruned = graph.prune(plan)
    assert not pruned.training
    assert relative(pruned(x), graph.cut(pruned.plan)(x)) < 1e-5
    if graph.captured.dynamic_batch:
        assert pruned(torch.cat([x, x])).shape == (6, 3)
    before = pruned(x)
    assert before.shape == (3, 3)
    assert torch.isfinite(before).all()
    pruned.train()
    optimizer = torch.optim.SGD(pruned.parameters(), lr=1e-3)
    loss = nn.functional.cross_entropy(pruned(x), torch.tensor([0, 1, 2]))
    loss.backward()  # type: ignore[no-untyped-call]
    for name, p in pruned.named_parameters():
        assert p.grad is not None, f"{name} has no gradient"
        assert torch.isfinite(p.grad).all(), name
    optimizer.step()
    pruned.eval()
    after = pruned(x)
    assert torch.isfinite(after).all()
    assert not torch.equal(before, after)
    assert torch.equal(after, pruned(x))
    return pruned


@QUICK
@given(specs(other=True), st.integers(0, 10**6))
def test_pruned_nets_run_and_train(spec: Spec, seed: int) -> None:
    check_works(spec, seed)


@every_block
def test_one_unit_per_group_still_works(kind: str, block: str) -> None:
    check_works(Spec(kind, 8, (block,), "mean", 0), 0, smallest=True)


# -- 5: never silent ----------------------------------------------------------------------------------------------


@every_block
def test_every_axis_is_in_a_group_or_says_why_not(kind: str, block: str) -> None:
    net, _, graph = traced(Spec(kind, 8, (block,), "flatten", 0))
    for frozen in graph.frozen:
        assert frozen.what.strip()
        assert frozen.operator.strip()
        assert frozen.reason.strip()
    grouped = {t for g in graph.groups.values() for t in g.tensors}
    told = {f.what.partition("[")[0] for f in graph.frozen}
    for name, parameter in net.named_parameters():
        assert any(n == name for n, _ in grouped) or name in told or _shares_its_reason(graph, name), (
            f"{name} {tuple(parameter.shape)} is in no group and nothing says why")


def _shares_its_reason(graph: Graph, name: str) -> bool:
    """A frozen dimension is told once, for the first parameter that has it; kernel sizes are not told."""
    return all(d.frozen or d.size == 1 for e in graph.typing.tensors[name] for d in dims_of(e))


@every_block
def test_blocks_have_something_to_prune(kind: str, block: str) -> None:
    """Every block keeps the stem's units free; none freezes what it could cut."""
    _, _, graph = traced(Spec(kind, 8, (block,), "mean", 0))
    assert any(t[0] == "stem.weight" for g in graph.groups.values() for t in g.tensors)


def test_nothing_prunable_is_an_error_with_the_reason() -> None:
    graph = trace(nn.Linear(4, 3), torch.randn(2, 4))
    assert graph.groups == {}
    assert {f.operator for f in graph.frozen} == {"model input", "model output"}
    with pytest.raises(ModelError, match="nothing in this model can be pruned") as info:
        graph.prune(Plan())
    assert info.value.fix is not None


def test_a_plan_that_removes_nothing_gives_the_dense_model() -> None:
    net, x = make(Spec("image", 8, ("conv",), "mean", 0))
    graph = trace(net, x)
    with pytest.warns(NoEffectWarning, match="removes nothing"):
        pruned = graph.prune(Plan())
    assert torch.equal(pruned(x), net(x))
    assert pruned.plan.cuts == {}


ACTIVATIONS = ["relu", "relu6", "gelu", "silu", "hardswish", "hardsigmoid", "hardtanh", "elu", "selu", "celu", "mish",
               "leaky_relu", "softplus", "softsign", "tanhshrink", "softshrink", "hardshrink", "logsigmoid", "sigmoid",
               "tanh"]


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_activations_freeze_nothing(name: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.b(getattr(nn.functional, name)(self.a(x)))
            return out

    graph = trace(Net(), torch.randn(2, 4))
    assert [(g.size, len(g.tensors)) for g in graph.groups.values()] == [(8, 3)]
    assert graph.cut(Plan.uniform(graph, 0.5))(torch.randn(2, 4)).shape == (2, 3)


# -- what is never touched ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_the_traced_model_is_never_changed(training: bool) -> None:
    net, x = make(Spec("image", 8, ("conv_bn", "residual", "se"), "mean", 0))
    net.train(training)
    net.blocks[0].eval()  # a mode of its own
    net.stem.weight.requires_grad_(False)
    modes = {n: m.training for n, m in net.named_modules()}
    state = {n: t.clone() for n, t in net.state_dict().items()}
    versions = {n: t._version for n, t in net.state_dict(keep_vars=True).items()}
    graph = trace(net, x)
    pruned = graph.prune(random_plan(graph, 0))
    assert pruned.stem.weight.requires_grad is False  # type: ignore[union-attr]
    assert pruned.head.weight.requires_grad is True  # type: ignore[union-attr]
    pruned.train()
    pruned(x).sum().backward()
    with torch.no_grad():
        for p in pruned.parameters():
            p.zero_()
    assert {n: m.training for n, m in net.named_modules()} == modes
    assert {n: t._version for n, t in net.state_dict(keep_vars=True).items()} == versions
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert [n for n, p in net.named_parameters() if not p.requires_grad] == ["stem.weight"]
    assert all(p.grad is None for p in net.parameters())


def test_graph_is_reusable_and_prunes_are_independent() -> None:
    net, x = make(Spec("image", 8, ("conv_bn",), "mean", 0))
    graph = trace(net, x)
    one, two = graph.prune(Plan.uniform(graph, 0.5)), graph.prune(Plan.uniform(graph, 0.5))
    with torch.no_grad():
        for p in one.parameters():
            p.zero_()
    assert torch.equal(two(x), graph.prune(Plan.uniform(graph, 0.5))(x))
    assert torch.equal(graph.dense()(x), net(x))


# -- tied weights -------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    """An autoencoder whose decoder is the encoder's layer: one weight, two uses."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.again = nn.Linear(8, 8)
        self.again.weight = self.inner.weight

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        out: Tensor = self.last(torch.relu(self.again(torch.relu(self.inner(x)))))
        return out


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = Tied(), torch.randn(4, 6)
    graph = trace(net, x)
    pruned = graph.prune(Plan.uniform(graph, 0.5))
    shared = ("inner.weight", "again.weight")
    weights = {id(p) for n, p in pruned.named_parameters(remove_duplicate=False) if n in shared}
    assert len(weights) == 1
    assert sum(p.numel() for p in pruned.parameters()) == 6 * 4 + 4 + 4 * 4 + 4 + 4 + 4 * 3 + 3
    zero = zeroed(net, graph, pruned.plan)
    assert relative(pruned(x), zero(x)) < 1e-5
    pruned.save(tmp_path / "m")
    with safe_open(str(tmp_path / "m" / "weights.safetensors"), "pt") as file:
        names = [n for n in file.keys() if "weight" in n]  # noqa: SIM118  (not a dict)
    assert sorted(names) == ["first.weight", "inner.weight", "last.weight"]
    loaded = load_module(tmp_path / "m")
    with torch.no_grad():
        loaded.inner.weight.zero_()  # type: ignore[union-attr]
    assert torch.equal(loaded(x), loaded(torch.zeros_like(x)))


def test_tied_embedding_and_head_stay_tied() -> None:
    class LanguageModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mlp, self.head = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: Tensor) -> Tensor:
            x = self.embed(ids)
            out: Tensor = self.head(x + torch.relu(self.mlp(x)))
            return out

    torch.manual_seed(0)
    net, ids = LanguageModel(), torch.randint(0, 11, (3, 4))
    graph = trace(net, ids)
    assert any(f.operator == "rows looked up by embedding" or "embedding" in f.reason or f.operator == "model output"
               for f in graph.frozen)
    pruned = graph.prune(Plan.uniform(graph, 0.5))
    shapes = [tuple(p.shape) for p in pruned.parameters()]
    assert shapes.count((11, 4)) == 1
    assert pruned(ids).shape == (3, 4, 11)


# -- heavier ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::autoprune.errors.NoEffectWarning")  # as below
@OFTEN
@given(specs(other=True), st.integers(0, 10**6))
def test_all_guarantees_often(spec: Spec, seed: int) -> None:
    check_identity(spec)
    if spec.zero_preserving:
        check_exactness(spec, seed)
    check_composition(spec, seed)
    check_works(spec, seed)


@pytest.mark.slow
@every_block
def test_pruned_nets_export_and_onnxruntime_agrees(kind: str, block: str) -> None:
    from autoprune.graph.onnx import check_onnx, export_onnx

    net, x = make(Spec(kind, 8, (block,), "mean", 1))
    graph = trace(net, x)
    pruned = graph.cut(random_plan(graph, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = export_onnx(pruned, x)
    assert check_onnx(model, pruned, x) <= 1e-4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::autoprune.errors.NoEffectWarning")  # a random plan may keep everything
@settings(deadline=None, max_examples=40, derandomize=True)
@given(specs(other=True), st.integers(0, 10**6))
def test_saved_and_loaded_nets_compute_the_same(spec: Spec, seed: int) -> None:
    import tempfile

    net, x = make(spec)
    graph = trace(net, x)
    pruned = graph.prune(random_plan(graph, seed))
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_module(pruned.save(folder))
    assert torch.equal(loaded(x), pruned(x))
    assert loaded.plan == pruned.plan
