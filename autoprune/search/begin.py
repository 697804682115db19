"""Before the loop: the dense model's latency, the sampler with its scan, the first plans; or what is there of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.devices.latency import Latency
from autoprune.errors import ConfigError
from autoprune.graph.plan import Plan
from autoprune.search.first_plans import first_plans, queue, reused_plans
from autoprune.search.halving import Halving
from autoprune.search.knapsack.curves import Curve
from autoprune.search.knapsack.sampler import KnapsackSampler
from autoprune.search.knapsack.sensitivity import scan, scanned_widths

if TYPE_CHECKING:
    from autoprune.search.run import Search

__all__ = ["begin"]

_BEYOND_REUSED = 2  # candidates at the budgets, which another device had elsewhere


def begin(search: Search) -> None:
    """Make a search ready to propose, or to go on: what is known only once the dense model's latency is. Raises
    `ConfigError` for a study that was begun with other choices.
    """
    study = search.study
    _check_methods(search)
    dense = _dense(search)
    study.repair(search.target_ms)
    looks = study.looks()
    search.halving = Halving(search.space.halving, [(ms, quality) for ms, quality, _ in looks])
    search.looked_at = {digest for _, _, digest in looks}
    known_plans = len(search.reused.candidates)
    if search.wanted is None:
        known_plans += _own_plans(search)
        near = search.reused.meets(search.targets_ms, search.latencies.of)
        search.trials = known_plans + (0 if near else _BEYOND_REUSED)
    if search.trials <= known_plans:  # nothing is proposed: no scan, and no other first plans
        queue(study, search.proposer, reused_plans(search.proposer, search.reused, search.latencies))
        return
    if search.device.is_measured and not study.attributes.get("queued"):  # the table's first lessons
        for plan in map(search.proposer.plan, search.proposer.controls().values()):
            if plan.precision == "fp32":
                search.latencies.of(plan)
    if search.knapsack:
        search.sampler = _knapsack_sampler(search, dense)
        study.use(search.sampler)
    _queue_first(search)


def _dense(search: Search) -> Latency:
    """The dense model's latency now; what it was at first is what budgets go by."""
    known_ms = search.study.attributes.get("dense_ms")
    dense = search.latencies.dense(known_ms)
    if known_ms is None:
        search.study.note("dense_ms", dense.ms)
    search.dense_ms = dense.ms if known_ms is None else float(known_ms)
    search.budgets_ms = tuple(budget.resolve_ms(search.dense_ms) for budget in search.budgets)
    for precision in search.proposer.precisions:  # what cannot be quantised is found before anything is trained
        search.latencies.of(Plan(model=search.graph.fingerprint, precision=precision))
    return dense


def _queue_first(search: Search) -> None:
    """Queue the first plans, once; later what is reused, which this session may be the first to name."""
    study, sampler = search.study, search.sampler
    if study.attributes.get("queued"):
        queue(study, search.proposer, reused_plans(search.proposer, search.reused, search.latencies))
        return
    aims_ms = search.targets_ms or [0.5 * search.dense_ms]
    at = None if sampler is None else lambda ms, methods: sampler.at(ms, methods=methods)
    queue(study, search.proposer, first_plans(
        search.pipeline, search.proposer, search.latencies, search.reused, aims_ms, bool(search.targets_ms),
        search.space.rankings, at))
    study.note("queued", True)


def _check_methods(search: Search) -> None:
    """A study's choices stay what they were: Optuna demands it, and so does what was learnt of them."""
    methods = {name: list(c.methods) for name, c in search.proposer.choices.items()}
    if search.study.attributes.get("methods", methods) != methods:
        raise _other_choices("methods")
    search.study.note("methods", methods)


def _own_plans(search: Search) -> int:
    """How many plans the study had evaluated that `reused` does not have, when it was first given."""
    study, reused = search.study, search.reused
    noted, key = dict(study.attributes.get("before_reuse", {})), str(reused.folder.resolve())
    if key not in noted:
        noted[key] = sum(c.plan.digest not in reused.candidates for c in study.candidates())
        study.note("before_reuse", noted)
    return int(noted[key])


def _knapsack_sampler(search: Search, dense: Latency) -> KnapsackSampler:
    """The sampler, on curves that are scanned once per study."""
    study, proposer = search.study, search.proposer
    table, known = search.latencies.table(search.threads, search.percentile), study.attributes.get("knapsack")
    if known is None:
        curves, shared = scan(search.pipeline, proposer.choices, table, proposer.branches)
        known = {"curves": {name: c.to_json() for name, c in curves.items()}, "shared": shared}
        study.note("knapsack", known)
    curves = {name: Curve.from_json(c) for name, c in known["curves"].items()}
    if {name: c.widths for name, c in curves.items()} != scanned_widths(proposer.choices, proposer.branches):
        raise _other_choices("widths")
    return KnapsackSampler(proposer, curves, search.dense_ms, search.aims_ms, table.ms, known["shared"],
                           search.seed + study.done_before, drafts=lambda: search.looks.count,
                           steady=not search.device.is_measured,
                           look=lambda plans: search.looks.at(plans, dense, search.until_s))


def _other_choices(what: str) -> ConfigError:
    return ConfigError(f"the study in this folder was begun with other {what} to choose from",
                       allowed="the same --reuse as then", fix="--run DIR for a new folder")
