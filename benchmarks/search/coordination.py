"""How many workers one coordinator keeps busy: `python benchmarks/search/coordination.py` (2 minutes).

Workers are simulated: a candidate takes a minute on a clock of its own. What the coordinator does
between two results is real, and takes that clock along: asking, reading parameters, pricing the plan and writing the
result into a study in SQLite, with the knapsack sampler and 50 groups. Writes to
benchmarks/results/search_simulator.json.
"""

from __future__ import annotations

import heapq
import json
import tempfile
import time
import warnings

import numpy as np
import optuna
from landscape import SETTINGS
from overhead import result_of
from simulator import RESULTS, Task

from autoprune.search.study import Study

WORKERS = (1, 16, 64, 256)
ROUNDS = 2  # candidates of each worker, at least
MOST = 1200  # candidates


def busy(workers: int, seconds: float, setting: str = "default") -> dict[str, float]:
    """Share of the time that workers compute, candidates per hour, and milliseconds of the coordinator for each."""
    task, random = Task(setting, 0), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        study = Study(f"sqlite:///{folder}/study.db", "random", 0, SETTINGS[setting].noise >= 0)
        for parameters in task.proposer.controls().values():
            study.enqueue("control", parameters)
        study.use(task.sampler(0))
        running: list[tuple[float, int, optuna.trial.Trial, object]] = []
        clock = computed = own = 0.0
        wanted = min(MOST, max(60, ROUNDS * workers))
        started = ended = 0
        while ended < wanted:
            begin = time.perf_counter()
            if started < wanted and len(running) < workers:
                trial = study.ask()
                plan = task.proposer.suggest(trial)
                takes = seconds * float(np.exp(0.3 * random.normal()))
                computed += takes
                started += 1
                spent = time.perf_counter() - begin
                heapq.heappush(running, (clock + spent + takes, trial.number, trial, plan))
            else:
                end, _, trial, plan = heapq.heappop(running)
                clock = max(clock, end)
                begin = time.perf_counter()
                study.tell(trial, result_of(task, trial.number, plan), None)
                study.candidates()
                spent = time.perf_counter() - begin
                ended += 1
            clock, own = clock + spent, own + spent
        study.close()
    return {"workers": workers, "candidate_s": seconds, "busy": round(computed / clock / workers, 3),
            "candidates_per_hour": round(3600 * ended / clock), "coordinator_ms": round(1e3 * own / ended, 1)}


def main() -> None:
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows = []
    for workers in WORKERS:
        rows.append(busy(workers, 60.0))
        print(rows[-1], flush=True)
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    RESULTS.write_text(json.dumps({**results, "coordination": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
